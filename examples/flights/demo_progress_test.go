package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestProgressShowsALineASecond(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out}
	p.begin()
	c := counts{departed: 12_345, checked: 12_400, handled: map[string]int{"board": 7, "rebooking": 1_000, "baggage": 1_000_000}, failed: 12}
	p.show(c, services())
	p.show(c, services())
	if want := "published 12,345  board 7  rebooking 1,000  baggage 1,000,000  failed attempts 12\n"; !strings.HasSuffix(out.String(), want) ||
		strings.Count(out.String(), "\n") != 1 {
		t.Errorf("shown:\n%s", out.String())
	}
}
