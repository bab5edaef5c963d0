package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// rests tells whether a group runs no shard.
func (w *world) rests(group, topic string) bool {
	w.t.Helper()
	groups, err := w.Groups(w.t.Context(), group, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range groups[0].Partitions {
		if p.Epoch != 0 {
			return false
		}
	}
	return true
}

func TestAGroupRestsWhenNobodyNeedsIt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		if !w.rests("baggage", bags) {
			t.Fatal("a group that was only declared runs")
		}
		w.publish(bags, 0, 10, 10)
		s := w.join("baggage", bags, 1)
		got := w.next(s)
		w.settle("baggage", bags, broker.Acked, got...)
		w.settle("baggage", bags, broker.Rejected, w.next(s)...)
		s.Close(false)
		synctest.Wait()
		if w.rests("baggage", bags) {
			t.Fatal("a group rests at once")
		}
		before := w.total("baggage", bags)
		time.Sleep(3 * time.Minute)
		if !w.rests("baggage", bags) {
			t.Fatal("a group that nobody needs does not rest")
		}
		after := w.total("baggage", bags)
		if after.Lag != 8 || after.DeadLetters != 1 || after.Counters != before.Counters || after.Position != before.Position {
			t.Fatalf("it stood at %+v, and rests at %+v", before, after)
		}
		if r := w.settle("baggage", bags, broker.Acked, got...); len(r) != 1 || r[0].Error.Reason != broker.LeaseLost {
			t.Fatalf("a token from before: %+v", r)
		}
		s = w.join("baggage", bags, 100)
		left := 0
		for left < 8 {
			ds := w.next(s)
			left += len(ds)
			w.settle("baggage", bags, broker.Acked, ds...)
		}
		if sum := w.total("baggage", bags); sum.Lag != 0 || sum.Counters.Acknowledged != 9 {
			t.Fatalf("in the end %+v", sum)
		}
	})
}

// TestAGroupAtRestTellsWhatWaits: for an attempt that is not due yet.
func TestAGroupAtRestTellsWhatWaits(t *testing.T) {
	later := func(_ string, o *mqv1.SubscribeOptions) {
		o.Retry = &mqv1.Retry{InitialInterval: durationpb.New(10 * time.Minute), MaxInterval: durationpb.New(10 * time.Minute), Jitter: proto.Float64(0)}
	}
	inBubbleWith(t, nil, later, func(t *testing.T, w *world) {
		w.publish(bags, 0, 3, 3)
		s := w.join("baggage", bags, 3)
		var got []delivery
		for len(got) < 3 {
			got = append(got, w.next(s)...)
		}
		w.settle("baggage", bags, broker.Retried, got[:2]...)
		w.settle("baggage", bags, broker.Acked, got[2])
		s.Close(false)
		time.Sleep(5 * time.Minute)
		if sum := w.total("baggage", bags); !w.rests("baggage", bags) || sum.Stats.Waiting != 2 || sum.Lag != 2 || sum.Stats.Parked != 0 {
			t.Errorf("while they wait: %+v", sum)
		}
		time.Sleep(6 * time.Minute)
		if sum := w.total("baggage", bags); !w.rests("baggage", bags) || sum.Stats.Waiting != 0 || sum.Lag != 2 {
			t.Errorf("when they are due: %+v", sum)
		}
	})
}

func TestALeaseKeepsAGroupUp(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(bags, 0, 1, 1)
		slices, err := w.Pull(t.Context(), "baggage", bags, 1, 10*time.Minute, 0)
		got := deliveries(t, slices)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		time.Sleep(9 * time.Minute)
		if r := w.settle("baggage", bags, broker.Acked, got...); len(r) != 0 {
			t.Fatalf("refused: %+v", r)
		}
		time.Sleep(3 * time.Minute)
		if !w.rests("baggage", bags) {
			t.Fatal("it does not rest when the lease is over")
		}
	})
}

// TestAConsumerComesWhileAGroupGoesToRest: its shards are busy with saving when they are needed again.
func TestAConsumerComesWhileAGroupGoesToRest(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(bags, 0, 1, 1)
		s := w.join("baggage", bags, 1)
		w.settle("baggage", bags, broker.Acked, w.next(s)...)
		w.publish(bags, 1, 1, 1)
		w.next(s)
		w.engine.stall.Store(int64(90 * time.Second)) // so that the first look at groups at rest finds it saving
		s.Close(true)
		time.Sleep(150 * time.Second)
		s = w.join("baggage", bags, 1)
		stop := beat(s)
		defer stop()
		if got := w.next(s); got[0].attempt != 1 {
			t.Fatalf("came as attempt %d", got[0].attempt)
		}
		w.engine.stall.Store(0)
	})
}
