package sim

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report adds up what many worlds did.
type Report struct {
	Seeds, Detected, Anomalies int
	Events                     int
	Stats
}

// Add takes a world in.
func (r *Report) Add(h *History, s Stats, v Verdict) {
	if r.Faults == nil {
		r.Faults, r.Duplicates, r.Transactions = map[string]int{}, map[string]int{}, map[string]int{}
	}
	r.Seeds++
	r.Events += len(h.Events)
	r.Steps += s.Steps
	r.Operations += s.Operations
	r.Deliveries += s.Deliveries
	r.Simulated += s.Simulated
	for k, n := range s.Transactions {
		r.Transactions[k] += n
	}
	for k, n := range s.Faults {
		r.Faults[k] += n
	}
	for k, n := range v.Duplicates {
		r.Duplicates[k] += n
	}
	if len(v.Violations) > 0 {
		r.Anomalies++
	}
	if slices.ContainsFunc(h.Events, func(e Event) bool { return e.Kind == Detected }) {
		r.Detected++
	}
}

// Merge takes another report in.
func (r *Report) Merge(o *Report) {
	if r.Faults == nil {
		r.Faults, r.Duplicates, r.Transactions = map[string]int{}, map[string]int{}, map[string]int{}
	}
	r.Seeds += o.Seeds
	r.Detected += o.Detected
	r.Anomalies += o.Anomalies
	r.Events += o.Events
	r.Steps += o.Steps
	r.Operations += o.Operations
	r.Deliveries += o.Deliveries
	r.Simulated += o.Simulated
	for k, n := range o.Transactions {
		r.Transactions[k] += n
	}
	for k, n := range o.Faults {
		r.Faults[k] += n
	}
	for k, n := range o.Duplicates {
		r.Duplicates[k] += n
	}
}

// Print prints the table that ends a run.
func (r *Report) Print(w io.Writer, took time.Duration) {
	line := func(name string, format string, args ...any) {
		fmt.Fprintf(w, "%-28s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("seeds", "%d", r.Seeds)
	line("seeds per second", "%.1f", float64(r.Seeds)/took.Seconds())
	line("simulated hours", "%.1f", r.Simulated.Hours())
	line("steps", "%d", r.Steps)
	line("operations", "%d", r.Operations)
	line("deliveries", "%d", r.Deliveries)
	line("events checked", "%d", r.Events)
	if n := r.Transactions["ok"] + r.Transactions["fail"] + r.Transactions["unknown"]; n > 0 {
		line("transactions", "%d (%d confirmed, %d refused, %d unknown), sent again %d times", n,
			r.Transactions["ok"], r.Transactions["fail"], r.Transactions["unknown"], r.Transactions["sent again"])
	}
	for _, k := range slices.Sorted(maps.Keys(r.Faults)) {
		line("fault: "+k, "%d", r.Faults[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.Duplicates)) {
		line("again: "+k, "%d", r.Duplicates[k])
	}
	line("worlds with damage reported", "%d", r.Detected)
	line("result", "anomalies=%d", r.Anomalies)
}

// Explain tells of a history's violations what they are and what led to them.
func Explain(h *History, v Verdict) string {
	var b strings.Builder
	for i, x := range v.Violations {
		if i == 5 {
			fmt.Fprintf(&b, "and %d more\n", len(v.Violations)-i)
			break
		}
		fmt.Fprintf(&b, "invariant %d, %s: %s\n", x.Invariant, Invariants[x.Invariant], x.Text)
		if x.Event >= 0 {
			fmt.Fprintf(&b, "    %d  %v\n", x.Event, h.Events[x.Event])
		}
	}
	fmt.Fprintf(&b, "replay with its history:\n    HISTORY=1 SEEDS=1 FIRST=%d FOCUS=%s go test -run 'TestSeeds$' -v ./sidecar/internal/sim\n", h.Plan.Seed, h.Plan.Asked)
	return b.String()
}
