package main

import (
	"fmt"
	"math"
)

// rawRatio is how a result relates to what the machine can do without typedmq.
type rawRatio struct {
	Scenario string  `json:"scenario"`
	Limit    string  `json:"limit"`
	Value    float64 `json:"value"` // of the limit, in the scenario's unit
	Ratio    float64 `json:"ratio"`
}

// rawRatios compares what was measured with the raw limits of the same run. "path" is what frames and store alone would reach together on these cores: what they cost of
// processor time for each message, added up (a queue has frames on both sides of the store, and 4 groups share one store and the frames into it).
func (r *report) rawRatios() []rawRatio {
	frames, store, disk := r.find("raw-frames"), r.find("raw-store"), r.find("raw-disk-1MiB")
	var out []rawRatio
	add := func(name, limit string, value float64) {
		if x := r.find(name); x != nil && x.Median > 0 && value > 0 && !math.IsInf(value, 0) {
			out = append(out, rawRatio{name, limit, math.Round(value), math.Round(x.Median/value*1000) / 1000})
		}
	}
	for _, c := range []struct {
		name                string
		into, stores, outOf float64 // frames into the sidecar, stores and frames out of it, for each thing that the result counts
	}{{"publish", 1, 1, 0}, {"batch", 1, 1, 0}, {"queue", 1, 1, 1}, {"pubsub", 0.25, 0.25, 1}} {
		if disk != nil {
			add(c.name, "raw-disk-1MiB", disk.Median*(1<<20)/float64(r.Settings.Size+recordOverhead)/c.stores)
		}
		if store != nil {
			add(c.name, "raw-store", store.Median/c.stores)
		}
		if frames != nil {
			add(c.name, "raw-frames", frames.Median/(c.into+c.outOf))
		}
		if frames != nil && store != nil && frames.Sidecar > 0 && store.Sidecar > 0 {
			cost := (c.into+c.outOf)*(frames.Client+frames.Sidecar) + c.stores*store.Sidecar
			add(c.name, "path", float64(r.Machine.CPUs)*1e9/cost)
		}
	}
	return out
}

var rawNames = map[string]string{
	"raw-disk-1MiB": "synced writes of 1 MiB", "raw-store": "Pebble chunks", "raw-frames": "Connect frames", "path": "frames and store on these cores",
}

func (x rawRatio) String() string {
	return fmt.Sprintf("%-9s %5.2f × %-32s %12s", x.Scenario, x.Ratio, rawNames[x.Limit], grouped(x.Value))
}
