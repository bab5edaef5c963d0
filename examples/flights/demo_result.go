package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table shows the sums of a run.
func (v verdict) table() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tflights\thandled\tretried\tdead-lettered\tredriven\tduplicates\tlost\tmsgs/s\t")
	for _, r := range v.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.service, thousands(r.wanted), thousands(r.handled), thousands(r.retried),
			thousands(r.dead), thousands(r.redriven), thousands(r.duplicates), thousands(r.lost), thousands(int(r.rate)))
	}
	_ = w.Flush() // to memory
	return out.String()
}

// line is the last line of a demo. It is stable and meant for programs.
func (v verdict) line(took time.Duration, killed bool) string {
	var line strings.Builder
	outcome := "ok"
	if len(v.faults) > 0 {
		outcome = "FAILED"
	}
	fmt.Fprintf(&line, "demo: %s published=%d", outcome, v.published)
	var retried, dead, duplicates, lost int
	for _, r := range v.rows {
		fmt.Fprintf(&line, " %s=%d", r.service, r.handled)
		retried += r.retried
		dead += r.dead
		duplicates += r.duplicates
		lost += r.lost
	}
	fmt.Fprintf(&line, " retried=%d dead_lettered=%d duplicates=%d lost=%d seconds=%.1f", retried, dead, duplicates, lost, took.Seconds())
	if killed {
		line.WriteString(" killed=1")
	}
	return line.String()
}

// complaints is what does not reconcile, the first few in full.
func (v verdict) complaints() []string {
	const most = 10
	if more := len(v.faults) - most; more > 0 {
		return append(slices.Clone(v.faults[:most]), fmt.Sprintf("and %d more", more))
	}
	return v.faults
}
