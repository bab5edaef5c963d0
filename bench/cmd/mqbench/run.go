package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// planned is a scenario and how often it is measured.
type planned struct {
	scenario
	rounds int
}

// run measures what is planned, in turns: one round of each, then the next of those that have more, so that what is compared was measured at nearly the same time. It tells
// of each round on progress. What cannot be measured is noted and left out from then on; the error is that of ctx, when it ends.
func run(ctx context.Context, s settings, plan []planned, r *report, progress io.Writer) error {
	total, at, began := 0, 0, time.Now()
	for _, p := range plan {
		total += p.rounds
	}
	failed := map[string]bool{}
	for turn := 0; at < total; turn++ {
		for _, p := range plan {
			if turn >= p.rounds {
				continue
			}
			at++
			if failed[p.name] {
				continue
			}
			own := s
			own.progress = progress
			if p.set != nil {
				p.set(&own)
			}
			results, err := p.measure(ctx, own, p.name)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if len(results) > 0 { // also what a scenario that failed has found before
				r.add(p.scenario, turn, results)
			}
			for _, m := range results {
				fmt.Fprintf(progress, "%3d/%d %4.0fs  %s\n", at, total, time.Since(began).Seconds(), line(p.scenario, m))
			}
			if err != nil {
				failed[p.name] = true
				r.fail(p.scenario, err)
				fmt.Fprintf(progress, "%-16s failed: %v\n", p.name, err)
			}
		}
	}
	return nil
}

// line is a result of one round.
func line(c scenario, m measured) string {
	name := c.name
	if m.part != "" {
		name += " " + m.part
	}
	text := fmt.Sprintf("%-18s %s", name, quantity(m.value, m.unit))
	if m.client > 0 || m.sidecar > 0 {
		text += fmt.Sprintf("  client %5.0f ns  sidecar %5.0f ns of CPU each", m.client, m.sidecar)
	}
	return text
}

// quantity is a figure with its unit.
func quantity(v float64, unit string) string {
	switch unit {
	case milliseconds, percentOfCore:
		return fmt.Sprintf("%10.2f %s", v, unit)
	default:
		return fmt.Sprintf("%10.0f %s", v, unit)
	}
}
