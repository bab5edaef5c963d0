package h2c

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// written is a body as connect writes it: each write is read on its own.
func written(chunks ...string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		for _, c := range chunks {
			if _, err := io.WriteString(w, c); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	return r
}

func prefix(n int) string { return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(n))) }

func TestPrefixesTravelWithTheirMessages(t *testing.T) {
	long := string(bytes.Repeat([]byte("m"), 40))
	for name, test := range map[string]struct {
		chunks, reads []string
	}{
		"messages":           {[]string{prefix(3), "abc", prefix(2), "de"}, []string{prefix(3) + "abc", prefix(2) + "de"}},
		"no message":         {[]string{prefix(0), prefix(1), "a"}, []string{prefix(0), prefix(1) + "a"}},
		"longer than a read": {[]string{prefix(40), long, prefix(1), "a"}, []string{prefix(40) + long[:27], long[27:], prefix(1) + "a"}},
		"in pieces":          {[]string{prefix(4), "ab", "cd", prefix(1), "a"}, []string{prefix(4) + "ab", "cd", prefix(1) + "a"}},
		"of a prefix's size": {[]string{prefix(5), "abcde", prefix(1), "a"}, []string{prefix(5) + "abcde", prefix(1) + "a"}},
		"joined already":     {[]string{prefix(3) + "abc", prefix(1), "a"}, []string{prefix(3) + "abc", prefix(1) + "a"}},
		// From where the lengths make no sense on, all is passed on as it comes, and nothing is waited for.
		"half a prefix": {[]string{"\x00", "\x00\x00\x00\x01", "a", prefix(9)}, []string{"\x00", "\x00\x00\x00\x01", "a", prefix(9)}},
		"too long":      {[]string{prefix(1), "abc", prefix(9)}, []string{prefix(1) + "abc", prefix(9)}},
		"cut off":       {[]string{prefix(3)}, []string{prefix(3)}},
	} {
		t.Run(name, func(t *testing.T) {
			body := &envelopes{ReadCloser: written(test.chunks...)}
			p := make([]byte, 32)
			for i := 0; ; i++ {
				n, err := body.Read(p)
				if n > 0 && (i >= len(test.reads) || string(p[:n]) != test.reads[i]) {
					t.Errorf("read %d: %q, want %q", i, p[:n], test.reads)
				}
				if err == io.EOF {
					if i < len(test.reads)-1 {
						t.Errorf("%d reads, want %q", i, test.reads)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A body that is closed between a prefix and its message ends the wait for it.
func TestJoiningEndsWithTheBody(t *testing.T) {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(w, prefix(3))
		_ = r.Close()
		done <- err
	}()
	if n, err := (&envelopes{ReadCloser: r}).Read(make([]byte, 32)); n != prefixBytes || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%d, %v", n, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
