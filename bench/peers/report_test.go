package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{7}, 7}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 3}, 3}, {[]float64{4, 1, 100, 2}, 3},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("the median of %v is %v, not %v", c.values, got, c.want)
		}
	}
}

func example() *report {
	ours := &systemResult{ID: ownID, Title: ownID}
	slow := &systemResult{ID: "slow", Title: "Slow", Version: "1.2", least: 40}
	near := &systemResult{ID: "near", Title: "Near", least: 1.5}
	free := &systemResult{ID: "free", Title: "Free"}
	gone := &systemResult{ID: "gone", Title: "Gone", Skipped: "gone-server is not installed", least: 2}
	for _, rate := range []float64{600_000, 400_000, 500_000} {
		ours.add("publish", measured{rate, 1e9 / rate, 1500})
	}
	ours.add("queue", measured{rate: 250_000})
	slow.add("publish", measured{rate: 12_500})
	slow.add("queue", measured{rate: 6_251})
	near.add("publish", measured{rate: 333_334})
	near.add("queue", measured{rate: 166_666})
	free.add("publish", measured{rate: 1_000_000})
	r := &report{Systems: []*systemResult{ours, slow, near, free, gone}}
	r.compare()
	return r
}

func TestRatios(t *testing.T) {
	type line struct {
		work, peer string
		ratio      float64
		met        string
	}
	want := []line{
		{"publish", "slow", 40, "met"}, {"publish", "near", 1.499997, "not met"}, {"publish", "free", 0.5, ""},
		{"queue", "slow", 39.9936, "not met"}, {"queue", "near", 1.500006, "met"},
	}
	got := example().Ratios
	if len(got) != len(want) {
		t.Fatalf("%d ratios, not %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		met := ""
		if m := got[i].Met; m != nil {
			met = map[bool]string{true: "met", false: "not met"}[*m]
		}
		if got[i].Work != w.work || got[i].Peer != w.peer || math.Abs(got[i].Ratio-w.ratio) > 1e-4 || met != w.met {
			t.Errorf("ratio %d is %+v (%s), not %+v", i, got[i], met, w)
		}
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := example().table(&out); err != nil {
		t.Fatal(err)
	}
	const want = `
publish: publish only
            messages/s  client CPU  server CPU  rounds
  typedmq   500,000     2,000 ns    1,500 ns    600,000  400,000  500,000
  Slow 1.2  12,500      -           -           12,500
  Near      333,334     -           -           333,334
  Free      1,000,000   -           -           1,000,000

queue: publish, deliver, handle, acknowledge
            messages/s  client CPU  server CPU  rounds
  typedmq   250,000     -           -           250,000
  Slow 1.2  6,251       -           -           6,251
  Near      166,666     -           -           166,666

skipped: Gone: gone-server is not installed

typedmq / peer, by medians
  publish  Slow  40.0x  at least 40.0x  met
  publish  Near  1.49x  at least 1.50x  NOT MET
  publish  Free  0.50x
  queue    Slow  39.9x  at least 40.0x  NOT MET
  queue    Near  1.50x  at least 1.50x  met
`
	if got := out.String(); got != want {
		t.Errorf("the table is\n%s\nnot\n%s", got, want)
	}
}

func TestSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results", "peers.json")
	if err := example().save(path); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Systems) != 5 || back.Systems[0].Works["publish"].Median != 500_000 || len(back.Ratios) != 5 || *back.Ratios[1].Met || back.Ratios[2].Met != nil {
		t.Errorf("the JSON is %s", raw)
	}
}
