package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestWhatWasNotSentIsTakenBackWhenAPartitionIsLoadedAnew: a delivery waits for its consumer while a commit fails. It is leased anew, once, under
// the new epoch; the old lease does not go out too.
func TestWhatWasNotSentIsTakenBackWhenAPartitionIsLoadedAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 1)
		stop := beat(s)
		defer stop()
		w.publish(bags, 0, 3, 1) // one batch, so one partition
		first := w.next(s)
		if err := s.SetCredits(10, 0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the others wait at the session
		w.engine.failCommits.Store(1)
		if refused := w.settle("baggage", bags, broker.Acked, first...); len(refused) != 1 {
			t.Fatalf("the commit did not fail: %v", refused)
		}
		w.engine.failCommits.Store(-1 << 30)
		time.Sleep(5 * time.Second)
		came := map[string]int{}
		for len(came) < 3 {
			for _, d := range w.next(s) {
				came[d.id]++
				if refused := w.settle("baggage", bags, broker.Acked, d); len(refused) > 0 {
					t.Errorf("%q came under a lease that was over: %v", d.id, refused[0].Error)
				}
			}
		}
		for id, n := range came {
			if n > 1 {
				t.Errorf("%q came %d times", id, n)
			}
		}
	})
}
