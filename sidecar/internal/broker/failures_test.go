package broker

import (
	"fmt"
	"testing"
	"time"
)

func TestErrorsThatDifferInNumbersAreOneFailure(t *testing.T) {
	for _, same := range [][]string{
		{"timeout after 31ms", "timeout after 3ms", "timeout after 1.5ms"},
		{"order 550e8400-e29b-41d4-a716-446655440000 is gone", "order abcdefab-abcd-abcd-abcd-abcdefabcdef is gone"},
		{"at 0xc000123", "at 0xffff", "at 0x1"},
		{"commit deadbeef", "commit 1234567", "commit 12ab"},
		{"dial 10.0.0.1:7070", "dial 192.168.17.2:80"},
		{"", ""},
		{"ünïcode 1 \xff 2", "ünïcode 22 \xff 333"},
	} {
		for _, other := range same[1:] {
			if FailureKey("permanent", same[0]) != FailureKey("permanent", other) {
				t.Errorf("%q is %q, %q is %q", same[0], withoutNumbers(same[0]), other, withoutNumbers(other))
			}
		}
	}
	for _, differ := range [][2]string{
		{"timeout after 3ms", "timeout after 3s"}, {"face", "decade"}, {"", "1"}, {"no seat", "no meal"}, {"a.b", "a-b"}, {"#", ".#."}, {"0x", "0xg"},
	} {
		if FailureKey("permanent", differ[0]) == FailureKey("permanent", differ[1]) {
			t.Errorf("%q and %q are one failure, %q", differ[0], differ[1], withoutNumbers(differ[0]))
		}
	}
	if FailureKey("permanent", "x") == FailureKey("expired", "x") {
		t.Error("the reason makes no difference")
	}
}

// Users keep keys in scripts.
func TestFailureKeysStay(t *testing.T) {
	for want, in := range map[string][2]string{
		"7bf0893330d1e0a7": {"attempts_spent", "timeout after 31ms"},
		"e7ee7cab34f69fd4": {"permanent", ""},
	} {
		if got := FailureKey(in[0], in[1]); got != want || !isFailureKey(got) {
			t.Errorf("the key of %q is %s, want %s", in, got, want)
		}
	}
}

// TestASummaryIsBounded: with more failures than it holds it keeps the frequent ones, with their counts.
func TestASummaryIsBounded(t *testing.T) {
	s := summary{of: make(map[string]*Failure), most: 100}
	for i := range 10_000 {
		s.add(DeadLetter{Reason: "permanent", LastError: "often", Died: time.UnixMilli(int64(i)), ID: fmt.Sprint(i)})
		s.add(DeadLetter{Reason: "permanent", LastError: fmt.Sprintf("once %c%c%c", 'g'+i%20, 'g'+i/20%20, 'g'+i/400%20)})
		if len(s.of) > s.most {
			t.Fatalf("%d failures are held", len(s.of))
		}
	}
	top := s.top(1)
	if len(top) != 1 || top[0].Error != "often" || top[0].Count != 10_000 || !top[0].First.Equal(time.UnixMilli(0)) ||
		!top[0].Last.Equal(time.UnixMilli(9_999)) || top[0].SampleID != "0" {
		t.Errorf("the most frequent is %+v", top)
	}
}

func TestLongTextsAreCutBetweenCharacters(t *testing.T) {
	if got := clipBytes("aéb", 2); got != "a" {
		t.Errorf("cut to %q", got)
	}
	if got := clipBytes("ab", 2); got != "ab" {
		t.Errorf("cut to %q", got)
	}
}
