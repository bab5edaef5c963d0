package sim

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// number is a setting from the environment.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// play runs a seed and checks its history.
func play(t *testing.T, plan Plan) (h *History, v Verdict, s Stats) {
	t.Helper()
	synctest.Test(t, func(*testing.T) { h, s = Run(plan) })
	return h, Check(h), s
}

// TestSeeds runs SEEDS worlds from FIRST on, of the kind FOCUS or of all kinds, two at a time.
func TestSeeds(t *testing.T) {
	n, first, focus := number("SEEDS", 28), number("FIRST", 0), os.Getenv("FOCUS")
	workers := min(n, 2)
	began := time.Now()
	var (
		mu    sync.Mutex
		total Report
		next  atomic.Int64
		shown = began
	)
	t.Run("worlds", func(t *testing.T) {
		for w := range workers {
			t.Run(strconv.Itoa(w), func(t *testing.T) {
				t.Parallel()
				for {
					i := int(next.Add(1)) - 1
					if i >= n {
						return
					}
					plan := NewPlan(uint64(first+i), focus)
					if os.Getenv("LOG") != "" {
						plan.Log = os.Stderr
					}
					h, v, s := play(t, plan)
					mu.Lock()
					total.Add(h, s, v)
					if now := time.Now(); n > 100 && now.Sub(shown) > 5*time.Second {
						shown = now
						fmt.Fprintf(os.Stderr, "%d of %d seeds, %.1f simulated hours, %d operations, anomalies=%d\n", total.Seeds, n, total.Simulated.Hours(), total.Operations, total.Anomalies)
					}
					mu.Unlock()
					if os.Getenv("HISTORY") != "" {
						for i, e := range h.Events {
							fmt.Println(i, e)
						}
					}
					if len(v.Violations) > 0 {
						t.Errorf("seed %d (%s, pebble %v):\n%s", plan.Seed, plan.Focus, plan.Pebble, Explain(h, v))
					}
				}
			})
		}
	})
	if testing.Verbose() {
		total.Print(os.Stdout, time.Since(began))
	}
	if total.Deliveries == 0 || total.Operations == 0 {
		t.Error("nothing happened")
	}
}

// TestASeedReplaysExactly: a second run has the same history, to the letter.
func TestASeedReplaysExactly(t *testing.T) {
	n, first, focus := number("REPLAYS", len(Focuses)), number("FIRST", 0), os.Getenv("FOCUS")
	for seed := uint64(first); seed < uint64(first+n); seed++ {
		a, _, _ := play(t, NewPlan(seed, focus))
		b, _, _ := play(t, NewPlan(seed, focus))
		if a.Hash() == b.Hash() {
			continue
		}
		for i := range min(len(a.Events), len(b.Events)) {
			if a.Events[i].String() != b.Events[i].String() {
				t.Errorf("seed %d (%s, pebble %v) differs at %d:\n   %v\n   %v", seed, a.Plan.Focus, a.Plan.Pebble, i, a.Events[i], b.Events[i])
				break
			}
		}
	}
}
