package main

import (
	"fmt"
	"slices"
	"time"
)

// figures are what a scenario measured, as key=value.
type figures []string

func (f *figures) add(key string, value any) { *f = append(*f, fmt.Sprintf("%s=%v", key, value)) }

// milliseconds adds a duration. One that is not 0 is not shown as 0.
func (f *figures) milliseconds(key string, d time.Duration) {
	f.add(key, (d + time.Millisecond - 1).Milliseconds())
}

// span adds the least and the greatest of some durations.
func (f *figures) span(key string, all []time.Duration) {
	if len(all) == 0 {
		f.add(key, "none")
		return
	}
	f.add(key, fmt.Sprintf("%d..%d", slices.Min(all).Milliseconds(), slices.Max(all).Milliseconds()))
}

// quantile returns the least of the durations that is not below a share q of them, 0 < q <= 1; 0 if there are none. It sorts all.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	at := int(float64(len(all))*q+0.999999) - 1
	return all[min(max(at, 0), len(all)-1)]
}
