package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// A report is what was measured: what is in the table, and in the JSON beside it.
type report struct {
	Time     string            `json:"time"`
	Commit   string            `json:"commit"`
	Machine  map[string]string `json:"machine"`
	Settings map[string]string `json:"settings"`
	Systems  []*systemResult   `json:"systems"` // typedmq first
	Ratios   []ratio           `json:"ratios"`
}

// A systemResult is one system of the report.
type systemResult struct {
	ID       string             `json:"id"`
	Title    string             `json:"title"`
	Version  string             `json:"version,omitempty"`
	Settings string             `json:"settings"`
	Skipped  string             `json:"skipped,omitempty"` // why it was not measured
	Works    map[string]*result `json:"works,omitempty"`
	least    float64
}

// A result is what one system made of one work, in messages per second. Processor times are medians, in nanoseconds for each message; 0: not known.
type result struct {
	Rounds []float64 `json:"rounds"`
	Median float64   `json:"median"`
	Client float64   `json:"client_cpu_ns,omitempty"`
	Server float64   `json:"server_cpu_ns,omitempty"`

	clients, servers []float64
}

// A ratio compares typedmq with a peer by their medians.
type ratio struct {
	Work  string  `json:"work"`
	Peer  string  `json:"peer"`
	Ratio float64 `json:"ratio"`
	Least float64 `json:"least,omitempty"` // that is asked for; 0: nothing is
	Met   *bool   `json:"met,omitempty"`   // absent if nothing is asked for
}

// add notes a round.
func (s *systemResult) add(work string, m measured) {
	if s.Works == nil {
		s.Works = map[string]*result{}
	}
	r := s.Works[work]
	if r == nil {
		r = &result{}
		s.Works[work] = r
	}
	r.Rounds, r.clients, r.servers = append(r.Rounds, math.Round(m.rate)), append(r.clients, m.client), append(r.servers, m.server)
	r.Median, r.Client, r.Server = median(r.Rounds), math.Round(median(r.clients)), math.Round(median(r.servers))
}

// median is the one in the middle, or between the two there.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// compare fills the ratios: one for each work and peer that both did.
func (r *report) compare() {
	r.Ratios = nil
	for _, w := range works {
		for _, peer := range r.Systems[1:] {
			ours, theirs := r.Systems[0].Works[w.id], peer.Works[w.id]
			if ours == nil || theirs == nil || theirs.Median == 0 {
				continue
			}
			x := ratio{Work: w.id, Peer: peer.ID, Ratio: ours.Median / theirs.Median, Least: peer.least}
			if x.Least > 0 {
				met := x.Ratio >= x.Least
				x.Met = &met
			}
			r.Ratios = append(r.Ratios, x)
		}
	}
}

// table writes what a person reads: rates, what was skipped, and at the end a line for each peer and work.
func (r *report) table(to io.Writer) error {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, w := range works {
		fmt.Fprintf(t, "\n%s: %s\n  \tmessages/s\tclient CPU\tserver CPU\trounds\n", w.id, w.title)
		for _, s := range r.Systems {
			if x := s.Works[w.id]; x != nil {
				rounds := make([]string, len(x.Rounds))
				for i, rate := range x.Rounds {
					rounds[i] = grouped(rate)
				}
				fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", strings.TrimSpace(s.Title+" "+s.Version), grouped(x.Median), cpu(x.Client), cpu(x.Server), strings.Join(rounds, "  "))
			}
		}
	}
	for _, s := range r.Systems {
		if s.Skipped != "" {
			fmt.Fprintf(t, "\nskipped: %s: %s\n", s.Title, s.Skipped)
		}
	}
	fmt.Fprintf(t, "\ntypedmq / peer, by medians\n")
	for _, x := range r.Ratios {
		fmt.Fprintf(t, "  %s\t%s\t%s", x.Work, r.title(x.Peer), times(x.Ratio))
		if x.Met != nil {
			fmt.Fprintf(t, "\tat least %s\t%s", times(x.Least), map[bool]string{true: "met", false: "NOT MET"}[*x.Met])
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func (r *report) title(id string) string {
	for _, s := range r.Systems {
		if s.ID == id {
			return s.Title
		}
	}
	return id
}

// times writes a ratio with the digits that a person can use, cut off: what is just below a limit does not look as if it were met.
func times(ratio float64) string {
	digits, unit := 2, 100.0
	if ratio >= 10 {
		digits, unit = 1, 10
	}
	return strconv.FormatFloat(math.Floor(ratio*unit)/unit, 'f', digits, 64) + "x"
}

// cpu writes the processor time of a message.
func cpu(ns float64) string {
	if ns == 0 {
		return "-"
	}
	return grouped(ns) + " ns"
}

// grouped writes a rate with a comma between thousands.
func grouped(rate float64) string {
	digits := strconv.FormatFloat(rate, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// save writes the JSON, in a directory that it makes.
func (r *report) save(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}

// machine tells where this runs.
func machine() map[string]string {
	processor, memory, kernel := process.Machine()
	return map[string]string{
		"cores": strconv.Itoa(runtime.NumCPU()), "system": runtime.GOOS + "/" + runtime.GOARCH, "go": runtime.Version(),
		"cpu": processor, "kernel": kernel, "memory_mib": strconv.FormatInt(memory>>20, 10),
	}
}
