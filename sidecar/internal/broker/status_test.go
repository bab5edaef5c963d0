package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestStatusTellsWhatIsDurable: it is asked for while an acknowledgement waits, in the same partition, whose commit then fails.
func TestStatusTellsWhatIsDurable(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, each(40)...)
		s := w.join("baggage", bags, 100)
		defer beat(s)()
		of := map[uint32][]delivery{}
		var two []delivery // of one partition
		for _, d := range w.take(s, 40) {
			if of[d.partition] = append(of[d.partition], d); len(of[d.partition]) == 2 {
				two = of[d.partition]
			}
		}
		settle := func(d delivery) {
			go func() { _, _ = w.Settle(context.Background(), "baggage", bags, d.token, nil) }()
			synctest.Wait()
		}
		w.engine.stall.Store(int64(time.Second))
		settle(two[0])
		fail := func(engine.Batch) { w.engine.failCommits.Store(1) }
		w.engine.onCommit.Store(&fail)
		settle(two[1])
		groups, err := w.Groups(t.Context(), "baggage", bags)
		if err != nil {
			t.Fatal(err)
		}
		if p := groups[0].Partitions[two[0].partition]; p.Fault == nil {
			t.Errorf("an acknowledgement that failed is in the status: %+v", p)
		}
		w.engine.onCommit.Store(nil)
		w.engine.failCommits.Store(-1 << 30)
	})
}
