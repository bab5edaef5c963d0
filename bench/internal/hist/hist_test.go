package hist_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/typedmq/typedmq/bench/internal/hist"
)

// TestQuantiles compares with sorting, over all magnitudes.
func TestQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 100, 20_000} {
		var h hist.H
		var all []time.Duration
		for range n {
			d := time.Duration(math.Exp(r.Float64() * 40)) // up to 2^57
			all = append(all, d)
			h.Add(d)
		}
		slices.Sort(all)
		if got := h.Count(); got != uint64(n) {
			t.Errorf("count %d, want %d", got, n)
		}
		if got := h.Max(); got != all[n-1] {
			t.Errorf("max %d, want %d", got, all[n-1])
		}
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			want := all[max(int(math.Ceil(q*float64(n))), 1)-1]
			got := h.Quantile(q)
			if got < want || float64(got) > float64(want)*(1+1.0/128)+1 {
				t.Errorf("of %d, quantile %v is %d, want %d", n, q, got, want)
			}
		}
	}
}

func TestSmallValuesAreExact(t *testing.T) {
	for v := range time.Duration(256) {
		var h hist.H
		h.Add(v)
		h.Add(1000) // so that the highest does not hide a bucket's end
		if got := h.Quantile(0.5); got != v {
			t.Errorf("%d is told as %d", v, got)
		}
	}
}

func TestEdges(t *testing.T) {
	var h hist.H
	if h.Quantile(0.5) != 0 || h.Max() != 0 || h.Count() != 0 {
		t.Error("an empty histogram is not")
	}
	h.Add(-1)
	if h.Quantile(1) != 0 || h.Count() != 1 {
		t.Error("a duration below zero does not count as zero")
	}
	h.Add(math.MaxInt64)
	if got := h.Quantile(1); got != math.MaxInt64 {
		t.Errorf("the longest duration is told as %d", got)
	}
}

func TestConcurrentAdds(t *testing.T) {
	var h hist.H
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			for j := range 1000 {
				h.Add(time.Duration(i*1000 + j))
			}
		})
	}
	work.Wait()
	if h.Count() != 8000 || h.Max() != 7999 {
		t.Errorf("count %d, max %d", h.Count(), h.Max())
	}
}

func BenchmarkAdd(b *testing.B) {
	var h hist.H
	b.RunParallel(func(p *testing.PB) {
		for d := time.Duration(0); p.Next(); d += 997 {
			h.Add(d % time.Second)
		}
	})
}
