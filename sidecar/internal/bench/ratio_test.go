//go:build ratios

package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

const (
	// ratioFile holds the references, beside the load generator's results.
	ratioFile = "../../../bench/ratios.json"
	// ratioSlack is how much more than its reference a ratio may be.
	ratioSlack = 1.20
	// ratioTurns is the rounds of a measurement, and ratioTries how often what is too high is measured anew: a regression stays, noise goes.
	ratioTurns = 31
	ratioTries = 4
)

// path is a hot path beside the least that any code would have to do in its place.
type path struct {
	name string
	open func(*testing.T) sides
}

// sides are what is compared. Both return the processor time that so many messages took. What they use ends with the test that they were opened for.
type sides struct {
	hot, raw func() (messages int, seconds float64)
}

// measured is what a message costs on a path, in nanoseconds, and the ratio of both: medians over turns in which one was measured right after the other.
type measuredPath struct{ hot, raw, ratio float64 }

func (p path) measure(t *testing.T) (m measuredPath) {
	// A store of its own for each measurement, whose end frees its memory.
	t.Run(p.name, func(t *testing.T) { m = p.open(t).measure() })
	return m
}

func (p sides) measure() measuredPath {
	each := func(do func() (int, float64)) float64 {
		n, seconds := do()
		return seconds * 1e9 / float64(n)
	}
	var hot, raw, ratios []float64
	for turn := range ratioTurns + 2 {
		var h, r float64
		if turn%2 == 0 {
			h, r = each(p.hot), each(p.raw)
		} else {
			r, h = each(p.raw), each(p.hot)
		}
		if turn >= 2 { // the first warm up
			hot, raw, ratios = append(hot, h), append(raw, r), append(ratios, h/r)
		}
	}
	return measuredPath{median(hot), median(raw), median(ratios)}
}

// typical is the measurement with the median ratio of three.
func (p path) typical(t *testing.T) measuredPath {
	all := []measuredPath{p.measure(t), p.measure(t), p.measure(t)}
	slices.SortFunc(all, func(a, b measuredPath) int { return cmp.Compare(a.ratio, b.ratio) })
	return all[1]
}

// spend is the processor time, in seconds, that the whole process takes for something, in all its threads. Garbage of before is collected before.
func spend(do func()) float64 {
	runtime.GC()
	began := cpuTime()
	do()
	return (cpuTime() - began).Seconds()
}

// verdict is nil if a ratio is not more than its reference by over ratioSlack.
func verdict(name string, ratio, reference float64) error {
	switch {
	case reference == 0:
		return fmt.Errorf("%s: there is no reference; UPDATE=1 make ratios writes one", name)
	case ratio > reference*ratioSlack:
		return fmt.Errorf("%s: %.2f × the raw limit, %.0f %% more than the reference of %.2f × (at most %.0f %% may be)",
			name, ratio, 100*(ratio/reference-1), reference, 100*(ratioSlack-1))
	}
	return nil
}

// check measures a path until it is within its bound, at most so many times, and returns the best measurement.
func check(measure func() measuredPath, name string, reference float64, tries int) (best measuredPath, err error) {
	for try := range tries {
		if m := measure(); try == 0 || m.ratio < best.ratio {
			best = m
		}
		if err = verdict(name, best.ratio, reference); err == nil || reference == 0 {
			return best, err
		}
	}
	return best, err
}

// TestRatios compares hot paths with raw limits that are measured in the same run, in turns, by processor time: it fails if one of them costs over 20 % more, in proportion
// to its raw limit, than the reference in bench/ratios.json says. With UPDATE=1 it writes the references.
func TestRatios(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(200)) // when the collector runs is chance; what it costs to allocate is measured all the same
	references := map[string]float64{}
	text, err := os.ReadFile(ratioFile)
	if err == nil {
		err = json.Unmarshal(text, &references)
	}
	update := os.Getenv("UPDATE") == "1"
	if err != nil && (!update || !errors.Is(err, os.ErrNotExist)) {
		t.Fatal(err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-10s %10s %10s %10s %10s\n", "path", "ns each", "raw ns", "ratio", "reference")
	measured := map[string]float64{}
	for _, p := range paths() {
		reference := references[p.name]
		var best measuredPath
		if update {
			best = p.typical(t)
		} else if best, err = check(func() measuredPath { return p.measure(t) }, p.name, reference, ratioTries); err != nil {
			t.Error(err)
		}
		measured[p.name] = math.Round(best.ratio*100) / 100
		fmt.Fprintf(&out, "%-10s %10.0f %10.0f %10.2f %10.2f\n", p.name, best.hot, best.raw, best.ratio, reference)
	}
	t.Log(out.String())
	for name := range references {
		if _, ok := measured[name]; !ok && !update {
			t.Errorf("%s has a reference for %s, which nothing measures", ratioFile, name)
		}
	}
	if !update {
		return
	}
	text, err = json.MarshalIndent(measured, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ratioFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestVerdict: a fifth more is let pass, more is not, noise gets another try, and a path without a reference is a fault.
func TestVerdict(t *testing.T) {
	steady := func(ratios ...float64) func() measuredPath {
		i := -1
		return func() measuredPath {
			i++
			return measuredPath{ratio: ratios[min(i, len(ratios)-1)]}
		}
	}
	for _, c := range []struct {
		name    string
		measure func() measuredPath
		ok      bool
	}{
		{"at the reference", steady(10), true},
		{"faster", steady(3), true},
		{"at the bound", steady(11.99), true},
		{"a regression", steady(12.1), false},
		{"noise", steady(20, 30, 11), true},
		{"noise above a regression", steady(20, 30, 13), false},
	} {
		if _, err := check(c.measure, "path", 10, 4); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := check(steady(1), "path", 0, 4); err == nil {
		t.Error("a path without a reference passes")
	}
}
