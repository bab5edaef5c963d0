package broker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// MaxFailures bounds what Summarize returns.
	MaxFailures = 1000
	// summaryKinds bounds the failures that Summarize tells apart while it counts, and summaryErrorBytes what it keeps of each one's error:
	// together some 20 MiB at worst.
	summaryKinds      = 16_384
	summaryErrorBytes = 1 << 10
	failureKeyLen     = 16
)

// Failure is the dead letters of one reason and one last error, numbers in it aside.
type Failure struct {
	// Key names the failure: 16 hexadecimal digits that the reason and the error give, the same at all times and everywhere.
	Key    string
	Reason string
	// Error is the last error of the dead letter SampleID, at most 1 KiB of it.
	Error string
	Count int
	// First and Last are when the first and the last of them died.
	First, Last time.Time
	SampleID    string
}

// Summarize groups the dead letters of a group in a topic by failure, the most frequent first, at most MaxFailures. It reads all of them. With
// more than 16,384 failures it forgets rare ones on the way, whose counts are then too low.
func (b *Broker) Summarize(ctx context.Context, groupName, topicName string) ([]Failure, error) {
	g, refused := b.awake(ctx, groupName, topicName)
	if refused != nil {
		return nil, refused
	}
	sum := summary{of: make(map[string]*Failure), most: summaryKinds}
	for _, s := range g.shards {
		for d, err := range s.deadLetters(ctx, 0) {
			if err != nil {
				return nil, Refusal(err)
			}
			sum.add(d)
		}
	}
	return sum.top(MaxFailures), nil
}

// summary counts failures, of which it holds at most so many.
type summary struct {
	of   map[string]*Failure
	most int
}

func (s *summary) add(d DeadLetter) {
	key := FailureKey(d.Reason, d.LastError)
	f := s.of[key]
	if f == nil {
		if len(s.of) >= s.most {
			s.forgetRare()
		}
		f = &Failure{Key: key, Reason: d.Reason, Error: clipBytes(d.LastError, summaryErrorBytes), First: d.Died, Last: d.Died, SampleID: d.ID}
		s.of[key] = f
	}
	f.Count++
	if d.Died.Before(f.First) {
		f.First = d.Died
	}
	if d.Died.After(f.Last) {
		f.Last = d.Died
	}
}

// forgetRare halves what is held: the rarer half goes.
func (s *summary) forgetRare() {
	for _, f := range s.top(len(s.of))[len(s.of)/2:] {
		delete(s.of, f.Key)
	}
}

// top returns up to n failures, the most frequent first, of equally frequent ones the one that went on longest first.
func (s *summary) top(n int) []Failure {
	all := make([]Failure, 0, len(s.of))
	for _, f := range s.of {
		all = append(all, *f)
	}
	slices.SortFunc(all, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.Last.Compare(a.Last), cmp.Compare(a.Key, b.Key))
	})
	return all[:min(n, len(all))]
}

// clipBytes cuts a text between characters.
func clipBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n])
}

// FailureKey names the failure of a dead letter. It is part of what users keep in scripts: the same reason and error give the same key for ever.
func FailureKey(reason, lastError string) string {
	h := sha256.New()
	h.Write([]byte(reason))
	h.Write([]byte{0})
	h.Write([]byte(withoutNumbers(lastError)))
	return hex.EncodeToString(h.Sum(nil)[:failureKeyLen/2])
}

func isFailureKey(key string) bool {
	return len(key) == failureKeyLen && strings.Trim(key, "0123456789abcdef") == ""
}

// withoutNumbers puts # for each number, hexadecimal run and UUID of an error, so that "timeout after 31ms" and "timeout after 1.5ms" are one. A word
// is a hexadecimal run if it begins with 0x, or has hexadecimal digits only and either a decimal one among at least four, or eight at least.
func withoutNumbers(s string) string {
	var out []byte
	hash := func() { // of two with a point between them one stays
		if n := len(out); n >= 2 && out[n-1] == '.' && out[n-2] == '#' {
			out = out[:n-1]
			return
		}
		out = append(out, '#')
	}
	for len(s) > 0 {
		if n := uuidLen(s); n > 0 {
			hash()
			s = s[n:]
			continue
		}
		word := wordLen(s)
		if word == 0 {
			out = append(out, s[0])
			s = s[1:]
			continue
		}
		if isHexRun(s[:word]) {
			hash()
			s = s[word:]
			continue
		}
		for i := 0; i < word; i++ {
			if !isDigit(s[i]) {
				out = append(out, s[i])
			} else if i == 0 || !isDigit(s[i-1]) {
				hash()
			}
		}
		s = s[word:]
	}
	return string(out)
}

// wordLen is how many ASCII letters and digits s begins with.
func wordLen(s string) int {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'z') {
			return i
		}
	}
	return len(s)
}

// uuidLen is the length of the UUID that s begins with, 0 if it does not.
func uuidLen(s string) int {
	const length = 36
	if len(s) < length {
		return 0
	}
	for i := range length {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return 0
			}
		} else if !isHexDigit(s[i]) {
			return 0
		}
	}
	if wordLen(s[length:]) > 0 {
		return 0
	}
	return length
}

func isHexRun(word string) bool {
	if rest, ok := strings.CutPrefix(word, "0x"); ok && rest != "" {
		word = rest + "00000000"
	}
	digits := false
	for i := range len(word) {
		if !isHexDigit(word[i]) {
			return false
		}
		digits = digits || isDigit(word[i])
	}
	return len(word) >= 8 || digits && len(word) >= 4
}

func isDigit(c byte) bool    { return c >= '0' && c <= '9' }
func isHexDigit(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }
