package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestADiskThatFillsStopsPublishingThenLeasesAndNothingElse: and it all begins again by itself.
func TestADiskThatFillsStopsPublishingThenLeasesAndNothingElse(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(bags, 0, 6, 1)
		s := w.join("baggage", bags, 4)
		held := w.next(s)

		w.engine.space.Store(int64(engine.NoPublish))
		for what, message := range map[string]timed{"now": now("x"), "later": after("y", time.Second)} {
			if _, err := w.send(bags, message); reason(err) != broker.DiskFull || !strings.Contains(err.Error(), "3 MiB are free") {
				t.Errorf("publishing %s: %v", what, err)
			}
		}
		w.settle("baggage", bags, broker.Acked, held[0])
		held = append(held[1:], w.next(s)...) // leases go on
		if len(held) != 4 {
			t.Fatalf("%d messages are held", len(held))
		}

		w.engine.space.Store(int64(engine.NoLease))
		if refused := w.settle("baggage", bags, broker.Acked, held[0]); len(refused) > 0 {
			t.Errorf("acknowledging: %+v", refused)
		}
		if refused := w.settle("baggage", bags, broker.Rejected, held[1]); len(refused) > 0 {
			t.Errorf("rejecting: %+v", refused)
		}
		time.Sleep(10 * time.Second)
		if sum := w.total("baggage", bags); sum.Stats.Leased != 2 || sum.DeadLetters != 1 {
			t.Errorf("with no room to lease: %+v", sum)
		}

		w.engine.space.Store(int64(engine.Roomy))
		time.Sleep(2 * time.Second)
		if got := w.next(s); len(got) != 1 {
			t.Errorf("with room again came %d messages", len(got))
		}
		w.mustSend(bags, now("z"))
	})
}
