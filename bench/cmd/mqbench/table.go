package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/typedmq/typedmq/bench/internal/plot"
)

// table prints all results, what must hold and whether it does, and last the ratios to the raw limits.
func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, "\n%s, commit %s\n", r.Machine, r.Commit)
	fmt.Fprintf(w, "bodies of %d bytes, %s keys, %s socket, synced before anything is acknowledged; medians of up to %d rounds of %gs\n\n",
		r.Settings.Size, grouped(float64(r.Settings.Keys)), r.Settings.Network, r.Settings.Rounds, r.Settings.Seconds)
	fmt.Fprintf(w, "%-24s %12s %-12s %10s %10s  %-24s %-14s\n", "", "median", "", "client ns", "sidecar ns", "ratio", "must hold")
	for _, x := range r.Results {
		if x.Error != "" {
			fmt.Fprintf(w, "%-24s %s\n", x.Scenario, "failed: "+firstLine(x.Error))
			continue
		}
		must := ""
		if l, ok := limits[x.Scenario]; ok {
			must = fmt.Sprintf("%-12s %s", l, mark(l.holds(x)))
		}
		ratio := ""
		if x.RatioTo != "" {
			ratio = fmt.Sprintf("%.2f × %s", x.Ratio, x.RatioTo)
		}
		row := fmt.Sprintf("%-24s %12s %-12s %10s %10s  %-24s %s", x.Scenario, figure(x.Median), x.Unit, cost(x.Client), cost(x.Sidecar), ratio, must)
		fmt.Fprintln(w, strings.TrimRight(row, " "))
	}
	if len(r.Raw) > 0 {
		fmt.Fprintf(w, "\nratios to the raw limits of this run\n")
		for _, x := range r.Raw {
			fmt.Fprintln(w, x)
		}
	}
}

func (m machine) String() string {
	return fmt.Sprintf("%d × %s, %d MiB, %s/%s, %s, %s", m.CPUs, m.Processor, m.MemoryMiB, m.OS, m.Arch, m.Kernel, m.Go)
}

func mark(ok bool) string {
	if ok {
		return "holds"
	}
	return "MISSED"
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// cost is nanoseconds of processor time, or nothing.
func cost(ns float64) string {
	if ns == 0 {
		return ""
	}
	return grouped(ns)
}

// figure is a value with as many digits as mean something.
func figure(v float64) string {
	if v < 100 {
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return grouped(v)
}

// grouped is a whole number with its thousands apart.
func grouped(v float64) string {
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	var out strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			out.WriteByte(',')
		}
		out.WriteRune(d)
	}
	return out.String()
}

// plot draws rates, what they cost, and latencies.
func (r *report) plot(w io.Writer) error {
	rates := plot.Group{Title: "messages or deliveries a second"}
	costs := plot.Group{Title: "processor time of each, ns", Parts: []string{"client", "sidecar"}}
	waits := plot.Group{Title: "from intended publish to handler, ms"}
	for _, x := range r.Results {
		l, limited := limits[x.Scenario]
		bar := plot.Bar{Label: x.Scenario, Parts: []float64{x.Median}, Text: figure(x.Median), Missed: limited && !l.holds(x)}
		if limited && !l.ratio {
			bar.Limit, bar.Text = l.bound, bar.Text+" ("+l.String()+")"
		}
		if x.RatioTo != "" {
			bar.Text += fmt.Sprintf(" (%.2f × %s)", x.Ratio, x.RatioTo)
		}
		switch {
		case x.Error != "" || strings.HasSuffix(x.Scenario, "64KiB"): // those would make all other costs look like nothing
		case x.Unit == perSecond || x.Unit == deliveriesPerSecond:
			rates.Bars = append(rates.Bars, bar)
			if x.Client > 0 && x.Sidecar > 0 {
				costs.Bars = append(costs.Bars, plot.Bar{Label: x.Scenario, Parts: []float64{x.Client, x.Sidecar}, Text: grouped(x.Client) + " + " + grouped(x.Sidecar)})
			}
		case x.Unit == milliseconds && !strings.HasPrefix(x.Scenario, "latency-100k"): // beyond what the sidecar takes, these are the length of the run
			waits.Bars = append(waits.Bars, bar)
		}
	}
	return plot.Chart{
		Title:    "typedmq, commit " + r.Commit,
		Subtitle: fmt.Sprintf("%s; %d bytes, %s keys, every acknowledgement after fsync", r.Machine, r.Settings.Size, grouped(float64(r.Settings.Keys))),
		Groups:   []plot.Group{rates, costs, waits},
	}.Write(w)
}
