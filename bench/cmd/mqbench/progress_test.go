package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTell: a line every five seconds, none after stop, and nobody needs to listen.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		stop := settings{progress: &out}.tell("fill", func() int64 { return 1500 }, 10_000)
		time.Sleep(11 * time.Second)
		stop()
		time.Sleep(time.Minute)
		if got := strings.Count(out.String(), "fill: 1,500 of 10,000\n"); got != 2 {
			t.Errorf("%d lines:\n%s", got, out.String())
		}
		settings{}.tell("fill", nil, 0)()
	})
}
