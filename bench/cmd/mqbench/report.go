package main

import (
	"encoding/json"
	"io"
	"math"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// report is all that a run has found. Its JSON is stable: fields are added, not changed.
type report struct {
	Machine  machine          `json:"machine"`
	Commit   string           `json:"commit"`
	Settings reportedSettings `json:"settings"`
	Results  []*result        `json:"results"`
	Raw      []rawRatio       `json:"raw,omitempty"`
}

// machine is what the figures depend on, without a name or a path of it.
type machine struct {
	OS        string `json:"os"`
	Arch      string `json:"arch"`
	CPUs      int    `json:"cpus"`
	Processor string `json:"processor,omitempty"`
	MemoryMiB int64  `json:"memory_mib,omitempty"`
	Kernel    string `json:"kernel,omitempty"`
	Go        string `json:"go"`
}

type reportedSettings struct {
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"`
	Warmup  float64 `json:"warmup_seconds"`
	Size    int     `json:"size"`
	Keys    int     `json:"keys"`
	Network string  `json:"network"`
	Workers int     `json:"workers"`
	Ahead   int     `json:"ahead"`
	Backlog int     `json:"backlog"`
	Delayed int     `json:"delayed"`
}

// result is what the rounds of one scenario came to. The processor times are medians, in nanoseconds for one of the unit's things; 0 if they are not known or mean nothing.
type result struct {
	Scenario string    `json:"scenario"`
	Unit     string    `json:"unit"`
	Median   float64   `json:"median"`
	Rounds   []float64 `json:"rounds"`
	Client   float64   `json:"client_cpu_ns,omitempty"`
	Sidecar  float64   `json:"sidecar_cpu_ns,omitempty"`
	// RatioTo is another scenario of the run, and Ratio the median of this one's rounds, each divided by the other's of the same turn.
	RatioTo string  `json:"ratio_to,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
	Error   string  `json:"error,omitempty"`

	turns             []int // of each round
	clients, sidecars []float64
}

func newReport(s settings) *report {
	m := machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version()}
	var memory int64
	m.Processor, memory, m.Kernel = process.Machine()
	m.MemoryMiB = memory >> 20
	network := "unix"
	if s.tcp {
		network = "tcp"
	}
	return &report{Machine: m, Commit: commit(), Results: []*result{}, Settings: reportedSettings{
		Rounds: s.rounds, Seconds: s.time.Seconds(), Warmup: s.warmup.Seconds(), Size: s.size, Keys: s.keys, Network: network,
		Workers: s.workers, Ahead: s.ahead, Backlog: s.backlog, Delayed: s.delayed,
	}}
}

// commit is that of the code that mqbench was built from, with "+" if that was changed since. It is empty if that is not known.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		var revision, changed string
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = "+"
			}
		}
		if revision != "" {
			return revision[:min(12, len(revision))] + changed
		}
	}
	out, err := exec.Command("git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// find returns the result of that name, or nil.
func (r *report) find(name string) *result {
	for _, x := range r.Results {
		if x.Scenario == name {
			return x
		}
	}
	return nil
}

// add takes the results of a scenario's round, in a turn of all scenarios.
func (r *report) add(c scenario, turn int, all []measured) {
	for _, m := range all {
		name := c.name
		if m.part != "" {
			name += " " + m.part
		}
		x := r.find(name)
		if x == nil {
			x = &result{Scenario: name, Unit: m.unit}
			r.Results = append(r.Results, x)
		}
		if m.base != "" {
			x.RatioTo = m.base
		} else if m.part == "" {
			x.RatioTo = c.base
		}
		x.Rounds = append(x.Rounds, m.value)
		x.turns = append(x.turns, turn<<16|m.turn)
		x.clients, x.sidecars = append(x.clients, m.client), append(x.sidecars, m.sidecar)
	}
}

// fail notes that a scenario could not be measured.
func (r *report) fail(c scenario, err error) {
	x := r.find(c.name)
	if x == nil {
		x = &result{Scenario: c.name, Rounds: []float64{}}
		r.Results = append(r.Results, x)
	}
	x.Error = err.Error()
}

// conclude computes what follows from the rounds.
func (r *report) conclude() {
	for _, x := range r.Results {
		x.Median, x.Client, x.Sidecar = rounded(median(x.Rounds)), math.Round(median(x.clients)), math.Round(median(x.sidecars))
	}
	for _, x := range r.Results {
		if base := r.find(x.RatioTo); base != nil && x.RatioTo != "" {
			x.Ratio = math.Round(ratio(x, base)*1000) / 1000
		}
		if x.Ratio == 0 {
			x.RatioTo = ""
		}
	}
	r.Raw = r.rawRatios()
}

// ratio is the median of what rounds of the same turn give, since neighbours in time have met the same machine; without such rounds that of the medians; 0 if there is none.
func ratio(x, base *result) float64 {
	var all []float64
	for i, turn := range x.turns {
		if j := slices.Index(base.turns, turn); j >= 0 && base.Rounds[j] > 0 {
			all = append(all, x.Rounds[i]/base.Rounds[j])
		}
	}
	if len(all) > 0 {
		return median(all)
	}
	if m := median(base.Rounds); m > 0 {
		return median(x.Rounds) / m
	}
	return 0
}

// median is 0 of nothing, and the mean of the two in the middle of an even number.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// rounded leaves four significant digits, or whole numbers.
func rounded(v float64) float64 {
	if v >= 1000 || v == 0 {
		return math.Round(v)
	}
	digits := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*digits) / digits
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
