package main

import (
	"bytes"
	"encoding/json"
	"errors"
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
