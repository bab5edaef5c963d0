// Package hist counts durations in buckets whose width grows with what they hold, so that quantiles of millions of them cost a fixed amount of memory and are at most
// one part in 128 too high. It is the layout of HDR histograms (hdrhistogram.org) with 7 bits for each power of two. It knows nothing of what is measured.
package hist

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	precision = 7              // bits that are told apart within a power of two
	linear    = 1 << precision // below it each nanosecond has a bucket of its own
	powers    = 63 - precision // of two, above that
	buckets   = linear * (powers + 1)
)

// H is a histogram of durations. The zero value is empty and ready. Its methods are safe for concurrent use; what is read while others add is somewhere between before
// and after.
type H struct {
	counts [buckets]atomic.Uint64
	most   atomic.Int64
}

// Add counts a duration. One below zero counts as zero.
func (h *H) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))].Add(1)
	for {
		most := h.most.Load()
		if int64(d) <= most || h.most.CompareAndSwap(most, int64(d)) {
			return
		}
	}
}

// Count is how many durations were added.
func (h *H) Count() uint64 {
	var n uint64
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// Max is the longest duration, exactly; 0 if there is none.
func (h *H) Max() time.Duration { return time.Duration(h.most.Load()) }

// Quantile returns the least duration that at least the share q of all (0 to 1) do not exceed, rounded up to the end of its bucket but never above Max. It is 0 if
// there is none.
func (h *H) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	need := max(uint64(q*float64(total)+0.999999), 1)
	var seen uint64
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= need {
			return min(highest(i), h.Max())
		}
	}
	return h.Max()
}

// bucket is where a value counts: for those below linear itself, for others its power of two and the bits that follow the highest.
func bucket(v uint64) int {
	if v < linear {
		return int(v)
	}
	power := bits.Len64(v) - precision - 1
	return power*linear + int(v>>power)
}

// highest is the largest value of a bucket.
func highest(i int) time.Duration {
	if i < 2*linear {
		return time.Duration(i)
	}
	power := i/linear - 1
	return time.Duration(uint64(i-power*linear+1)<<power - 1)
}
