package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progress shows where a run stands: one line that is refreshed on a terminal, else a line a second. It is used from one
// goroutine.
type progress struct {
	out      io.Writer
	terminal bool
	start    time.Time
	shown    time.Time // when last
	open     bool      // the line on the terminal has no end yet
}

func newProgress(out *os.File) *progress {
	info, err := out.Stat()
	return &progress{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// begin sets the time that is shown to 0.
func (p *progress) begin() { p.start = time.Now() }

// show shows the counts, unless it did a moment ago.
func (p *progress) show(c counts, services []service) {
	interval := time.Second
	if p.terminal {
		interval = 100 * time.Millisecond
	}
	if time.Since(p.shown) < interval {
		return
	}
	p.shown = time.Now()
	var line strings.Builder
	fmt.Fprintf(&line, "%5.1fs  published %s", time.Since(p.start).Seconds(), thousands(min(c.departed, c.checked)))
	for _, s := range services {
		fmt.Fprintf(&line, "  %s %s", s.name, thousands(c.handled[s.name]))
	}
	fmt.Fprintf(&line, "  failed attempts %s", thousands(c.failed))
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line.String())
		p.open = true
		return
	}
	fmt.Fprintln(p.out, line.String())
}

// say prints a line of its own.
func (p *progress) say(format string, args ...any) {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

// thousands writes a number as 12,345.
func thousands(n int) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
