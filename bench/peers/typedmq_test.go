package main

import (
	"maps"
	"testing"
)

func TestResults(t *testing.T) {
	const out = `  1/2    2s  publish                243602 messages/s  client  1497 ns  sidecar  1843 ns of CPU each
publish            median     243602 messages/s
{
  "machine": {
    "os": "linux"
  },
  "results": [
    {
      "scenario": "publish",
      "unit": "messages/s",
      "median": 243602,
      "rounds": [
        243601.77604278328
      ],
      "client_cpu_ns": 1497,
      "sidecar_cpu_ns": 1843
    },
    {"scenario": "latency", "unit": "ms", "median": 2}
  ]
}
`
	want := map[string]measured{"publish": {243602, 1497, 1843}}
	if got, err := results(out); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, not %v", got, err, want)
	}
	if got, err := results(out[len(out)-len(out)/2:]); err == nil {
		t.Errorf("half of a document is %v", got)
	}
	if got, err := results(out[:200]); err == nil {
		t.Errorf("the beginning of a document is %v", got)
	}
	if got, err := results(`{"results":[]}`); err != nil || len(got) != 0 {
		t.Errorf("no results are %v, %v", got, err)
	}
}
