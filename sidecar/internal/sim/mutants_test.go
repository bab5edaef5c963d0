//go:build mutants

package sim

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// hunted says in which worlds a bug is looked for first.
var hunted = map[mutant.Mutant]string{
	mutant.AckBeforeCommit: "crash", mutant.NoSyncOnPublish: "disk", mutant.NoSyncOnAck: "disk", mutant.EpochUnchecked: "owner", mutant.LeaseOnWallClock: "clock",
	mutant.ExtendAfterExpiry: "clients", mutant.DeadLetterInTwo: "crash", mutant.DeadLetterErrorLost: "crash", mutant.AttemptsInMemory: "crash",
	mutant.PositionPastFiltered: "crash", mutant.OffsetZeroOnError: "crash", mutant.RequeueAtTail: "clients", mutant.WatchOnlyLoss: "owner",
	mutant.CachedAfterLoss: "crash", mutant.BufferReused: "disk", mutant.LastBlockSkipped: "disk", mutant.OrphanCleanUp: "clients", mutant.TimerLeak: "clients",
	mutant.OldWALFormat: "rot", mutant.CounterDrift: "clients", mutant.CreditDrift: "clients", mutant.LostWakeup: "calm",
	mutant.DelayOnWallClock: "clock", mutant.DelayLostOnCrash: "disk",
	mutant.TransactionVisibleEarly: "transactions", mutant.TransactionTwice: "transactions",
	mutant.DedupeForgotten: "crash",
}

// TestMutants puts one bug in after the other and looks for it. Each is hunted in a process of its own: a bug may well panic.
func TestMutants(t *testing.T) {
	if m := os.Getenv("MUTANT"); m != "" {
		hunt(t, mutant.Mutant(m))
		return
	}
	var (
		mu     sync.Mutex
		caught int
	)
	all := mutant.All
	slots := make(chan struct{}, 2)
	var hunters sync.WaitGroup
	for _, m := range all {
		hunters.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestMutants$", "-test.timeout", "100s")
			cmd.Env = append(os.Environ(), "MUTANT="+string(m))
			out, err := cmd.CombinedOutput()
			mu.Lock()
			defer mu.Unlock()
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, ": caught by invariant ") {
					caught++
					fmt.Print(line)
					return
				}
			}
			t.Errorf("%s was not caught: %v\n%s", m, err, tail(string(out), 1500))
		})
	}
	hunters.Wait()
	fmt.Printf("caught=%d/%d\n", caught, len(all))
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// hunt runs worlds until an invariant is violated.
func hunt(t *testing.T, m mutant.Mutant) {
	mutant.Select(m)
	began := time.Now()
	for seed := uint64(0); time.Since(began) < 40*time.Second; seed++ {
		focus := hunted[m]
		if seed%4 == 3 {
			focus = ""
		}
		h, v, _ := play(t, NewPlan(seed, focus))
		if len(v.Violations) > 0 {
			x := v.Violations[0]
			fmt.Printf("%-28s: caught by invariant %d at seed %d (%s) after %v: %s\n", m, x.Invariant, seed, h.Plan.Focus, time.Since(began).Round(10*time.Millisecond), x.Text)
			return
		}
	}
	t.Fatalf("%s: not caught", m)
}
