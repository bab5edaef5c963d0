package main

import (
	"maps"
	"testing"
)

func TestMedians(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want map[string]float64
	}{
		"text": {"publish    269112/s  client  3136 ns  sidecar  3048 ns of CPU each\npublish  median 269112/s\nqueue    median 142000/s\n",
			map[string]float64{"publish": 269112, "queue": 142000}},
		"JSON after text": {"publish    300000/s  client  3136 ns\n" + `{"results":[{"scenario":"publish","unit":"msg/s","median":300000.5},{"scenario":"latency","unit":"ms","median":2}]}` + "\nwritten\n",
			map[string]float64{"publish": 300000.5}},
		"JSON alone": {"{\n  \"results\": [{\"scenario\": \"queue\", \"unit\": \"msg/s\", \"median\": 7}]\n}\n", map[string]float64{"queue": 7}},
		"nothing":    {"mqbench: no scenario\n", map[string]float64{}},
	} {
		got, err := medians(c.out)
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, not %v", name, got, err, c.want)
		}
	}
	if _, err := medians(`{"results":`); err == nil {
		t.Error("half of a JSON document is read")
	}
}
