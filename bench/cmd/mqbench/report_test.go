package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func filled(rounds map[string][]float64, names ...string) *report {
	r := newReport(settings{})
	for turn := range 5 {
		for _, name := range names {
			if all := rounds[name]; turn < len(all) {
				base := ""
				if name != names[0] {
					base = names[0]
				}
				r.add(scenario{name: name, base: base}, turn, []measured{{unit: perSecond, value: all[turn], client: 10 * all[turn]}})
			}
		}
	}
	r.conclude()
	return r
}

// TestRatiosAreOfTheSameTurn: a machine that slows down in the middle of a run changes the rates, not the ratios.
func TestRatiosAreOfTheSameTurn(t *testing.T) {
	r := filled(map[string][]float64{"base": {1000, 100, 500, 10, 700}, "half": {500, 50, 250}}, "base", "half")
	if x := r.find("half"); x.Ratio != 0.5 || x.RatioTo != "base" {
		t.Errorf("ratio %v to %q, want 0.5 to base", x.Ratio, x.RatioTo)
	}
	if x := r.find("base"); x.Median != 500 || x.Client != 5000 || x.RatioTo != "" {
		t.Errorf("%+v", x)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}} {
		if got := median(c.of); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.of, got, c.want)
		}
	}
}

func TestRounded(t *testing.T) {
	for in, want := range map[float64]float64{0: 0, 123456.7: 123457, 1.23456: 1.235, 0.0123456: 0.01235, 99.99: 99.99} {
		if got := rounded(in); got != want {
			t.Errorf("%v is rounded to %v, want %v", in, got, want)
		}
	}
}

// TestJSON: what other programs read has its fields, also where something failed.
func TestJSON(t *testing.T) {
	r := filled(map[string][]float64{"publish": {4, 5}, "queue": {2, 2.5}}, "publish", "queue")
	r.fail(scenario{name: "plain"}, errors.New("no disk"))
	var out bytes.Buffer
	if err := r.writeJSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine struct{ CPUs int }
		Commit  *string
		Results []map[string]any
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Machine.CPUs < 1 || got.Commit == nil || len(got.Results) != 3 {
		t.Fatalf("%s", out.Bytes())
	}
	queue, plain := got.Results[1], got.Results[2]
	if queue["scenario"] != "queue" || queue["unit"] != perSecond || queue["median"] != 2.25 || len(queue["rounds"].([]any)) != 2 || queue["client_cpu_ns"] != 23.0 ||
		queue["ratio_to"] != "publish" || queue["ratio"] != 0.5 {
		t.Errorf("%v", queue)
	}
	if plain["error"] != "no disk" {
		t.Errorf("%v", plain)
	}
}

// TestTable: what must hold is judged by the median or by the ratio, from the right side; what failed is told.
func TestTable(t *testing.T) {
	r := newReport(settings{size: 256, keys: 10_000, rounds: 2})
	one := func(name, base, unit string, values ...float64) {
		for i, v := range values {
			r.add(scenario{name: name, base: base}, i, []measured{{unit: unit, value: v, client: 1000, sidecar: 500}})
		}
	}
	one("publish", "", perSecond, 499_999, 499_999)
	one("queue", "", perSecond, 250_000, 250_000)
	one("queue-1000p", "queue", perSecond, 199_000, 199_000)
	one("latency-20k p50", "", milliseconds, 1.5)
	one("latency-20k p99", "", milliseconds, 5.01)
	r.fail(scenario{name: "plain"}, errors.New("no disk\nmore of it"))
	r.conclude()
	var out bytes.Buffer
	r.table(&out)
	want := map[string]string{
		"publish": "MISSED", "queue": "holds", "queue-1000p": "MISSED", "latency-20k p50": "holds", "latency-20k p99": "MISSED", "plain": "failed: no disk",
	}
	for line := range strings.Lines(out.String()) {
		for name, verdict := range want {
			if strings.HasPrefix(line, name+"  ") {
				if !strings.Contains(line, verdict) {
					t.Errorf("%q does not tell %q", line, verdict)
				}
				delete(want, name)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("no rows for %v in\n%s", want, out.String())
	}
	var svg bytes.Buffer
	if err := r.plot(&svg); err != nil || !strings.Contains(svg.String(), "499,999") {
		t.Errorf("%v\n%s", err, svg.String())
	}
}

// TestRawRatios: a queue needs frames on both sides of the store, and all of it shares the cores.
func TestRawRatios(t *testing.T) {
	r := newReport(settings{size: 256 - recordOverhead})
	r.Machine.CPUs = 2
	r.add(scenario{name: "raw-frames"}, 0, []measured{{unit: perSecond, value: 1_000_000, client: 500, sidecar: 500}})
	r.add(scenario{name: "raw-store"}, 0, []measured{{unit: perSecond, value: 800_000, sidecar: 1000}})
	r.add(scenario{name: "raw-disk-1MiB"}, 0, []measured{{unit: mebibytesPerSecond, value: 100}})
	r.add(scenario{name: "queue"}, 0, []measured{{unit: perSecond, value: 200_000}})
	r.conclude()
	want := map[string]rawRatio{
		"raw-disk-1MiB": {"queue", "raw-disk-1MiB", 409_600, 0.488}, "raw-store": {"queue", "raw-store", 800_000, 0.25},
		"raw-frames": {"queue", "raw-frames", 500_000, 0.4}, "path": {"queue", "path", 666_667, 0.3},
	}
	if len(r.Raw) != len(want) {
		t.Errorf("%+v", r.Raw)
	}
	for _, got := range r.Raw {
		if got != want[got.Limit] {
			t.Errorf("%+v, want %+v", got, want[got.Limit])
		}
	}
}

func TestGrouped(t *testing.T) {
	for in, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567.8: "1,234,568", -1000: "-1,000"} {
		if got := grouped(in); got != want {
			t.Errorf("%v is %q, want %q", in, got, want)
		}
	}
}

func TestBenchMetrics(t *testing.T) {
	got := benchMetrics("goos: linux\nBenchmarkBareChunks-2 \t 100 \t 12.5 ns/op \t 800000 msgs/s \t 990 cpu-ns/msg\nPASS\n")
	if got["msgs/s"] != 800_000 || got["cpu-ns/msg"] != 990 {
		t.Errorf("%v", got)
	}
}
