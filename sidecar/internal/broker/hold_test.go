package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// holding lets the dead letters of the board, whose topic is ordered by key, hold their keys.
func holding(service string, o *mqv1.SubscribeOptions) {
	if service == "Board" {
		o.DeadLetter = &mqv1.DeadLetter{HoldKey: proto.Bool(true)}
	}
}

// TestADeadLetterThatCannotBeStoredHoldsNothing: retention was faster.
func TestADeadLetterThatCannotBeStoredHoldsNothing(t *testing.T) {
	inBubbleWith(t, onePartition, holding, func(t *testing.T, w *world) {
		const total = 600
		w.publishSized(departed, total, 4<<10)
		s := w.join("board", departed, 1000)
		defer beat(s)()
		var got []delivery
		for len(got) < total {
			got = append(got, w.next(s)...)
		}
		time.Sleep(3 * time.Minute) // so long that the first is not in memory any more
		if err := w.engine.trimAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.settle("board", departed, broker.Rejected, got[0])
		if sum := w.total("board", departed); sum.DeadLetters != 0 || sum.Counters.RetentionLost != 1 {
			t.Fatalf("then %+v", sum)
		}
		w.publishSized(departed, 1, 10) // of the key of the first
		if next := w.next(s); len(next) != 1 || next[0].offset != total {
			t.Fatalf("then came %+v", next)
		}
	})
}

// TestADeadLetterHoldsItsKey: the later messages of the key wait, those of others do not, a restart changes nothing, and redriving lets them go in
// their order.
func TestADeadLetterHoldsItsKey(t *testing.T) {
	inBubbleWith(t, onePartition, holding, func(t *testing.T, w *world) {
		w.publish(departed, 0, 6, 2) // origins O0 and O1 in turn
		s := w.join("board", departed, 10)
		got := w.next(s)
		if len(got) != 2 {
			t.Fatalf("of two keys came %d messages", len(got))
		}
		w.settle("board", departed, broker.Rejected, got[0])
		w.settle("board", departed, broker.Acked, got[1])
		for range 2 {
			next := w.next(s)
			if len(next) != 1 || next[0].offset%2 != 1 {
				t.Fatalf("behind the dead letter of the even offsets came %+v", next)
			}
			w.settle("board", departed, broker.Acked, next...)
		}
		s.Close(false)
		for range 2 {
			s = w.join("board", departed, 10)
			synctest.Wait()
			if sum := w.total("board", departed); sum.Stats.Held != 1 || sum.Stats.Leased != 0 || sum.Lag != 2 || sum.DeadLetters != 1 {
				t.Fatalf("while the key is held: %+v", sum)
			}
			s.Close(false)
			w.close()
			w.open()
			synctest.Wait()
		}
		s = w.join("board", departed, 10)
		if n, _, _, err := w.Redrive(t.Context(), "board", departed, broker.Selection{All: true}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		for _, want := range []int64{0, 2, 4} {
			next := w.next(s)
			if len(next) != 1 || next[0].offset != want {
				t.Fatalf("came %+v, want offset %d", next, want)
			}
			w.settle("board", departed, broker.Acked, next...)
		}
		if sum := w.total("board", departed); sum.Stats.Held != 0 || sum.Lag != 0 || sum.DeadLetters != 0 {
			t.Fatalf("in the end %+v", sum)
		}
	})
}
