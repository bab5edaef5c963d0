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

// TestAMessageThatKillsItsConsumers: two consumers vanish with three messages each; then each message goes out alone, and the one that kills is
// found without an attempt of the others.
func TestAMessageThatKillsItsConsumers(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publish(bags, 0, 3, 1)
		kills := int64(1)
		settled := map[int64]bool{}
		died := 0
		for len(settled) < 2 || w.total("baggage", bags).DeadLetters == 0 {
			if died > 20 {
				t.Fatalf("%d consumers died, and there is no dead letter; settled %v", died, settled)
			}
			if died == 5 { // what is known of it is durable
				w.close()
				w.open()
				synctest.Wait()
			}
			s := w.join("baggage", bags, 10)
			got := w.next(s)
			if died >= 2 && len(got) > 1 {
				t.Fatalf("after %d losses came %d messages at once", died, len(got))
			}
			dies := false
			for _, d := range got {
				if d.attempt != 1 {
					t.Fatalf("a lost consumer cost an attempt: %+v", d)
				}
				dies = dies || d.offset == kills
			}
			if dies {
				died++
				s.Close(true)
				synctest.Wait()
				continue
			}
			w.settle("baggage", bags, broker.Acked, got...)
			for _, d := range got {
				settled[d.offset] = true
			}
			s.Close(false)
		}
		if died != 8 {
			t.Errorf("it killed %d consumers, want 8", died)
		}
		dead, _, err := w.DeadLetters(t.Context(), "baggage", bags, "", 10, "")
		if err != nil || len(dead) != 1 || dead[0].Reason != "consumers_lost" || dead[0].Offset != kills || dead[0].Attempts != 0 {
			t.Fatalf("dead letters %+v, %v", dead, err)
		}
	})
}

// onePartition puts all in one place.
func onePartition(_ string, o *mqv1.TopicOptions) { o.Partitions = proto.Uint32(1) }

// TestOneSuspectAtATimeOverAllPartitions: a consumer holds one suspect message, whatever partition it is of.
func TestOneSuspectAtATimeOverAllPartitions(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for i := range 40 { // each in a partition drawn
			w.publish(bags, i, 1, 1)
		}
		for range 2 {
			s := w.join("baggage", bags, 100)
			for got := 0; got < 40; {
				got += len(w.next(s))
			}
			s.Close(true)
		}
		if sum := w.total("baggage", bags); sum.Counters.Lost != 80 {
			t.Fatalf("losses counted: %d, want 80", sum.Counters.Lost)
		}
		a, b := w.join("baggage", bags, 100), w.join("baggage", bags, 100)
		for n := range 40 {
			synctest.Wait()
			if sum := w.total("baggage", bags); sum.Stats.Leased != min(2, 40-n) {
				t.Fatalf("%d leased to two consumers, %d settled", sum.Stats.Leased, n)
			}
			s := a
			if n%2 == 1 {
				s = b
			}
			if n == 39 { // the last one is at either
				a.Close(false)
				b.Close(false)
				s = w.join("baggage", bags, 100)
			}
			w.settle("baggage", bags, broker.Acked, w.next(s)...)
		}
	})
}

// TestAPullThatRunsOutCostsAnAttempt: its lease was asked for with its length.
func TestAPullThatRunsOutCostsAnAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(bags, 0, 1, 1)
		for attempt := uint32(1); attempt <= 3; attempt++ {
			got := w.pull(bags, 1)
			if len(got) != 1 || got[0].attempt != attempt {
				t.Fatalf("pull %d got %+v", attempt, got)
			}
			time.Sleep(2 * time.Second)
		}
		if sum := w.total("baggage", bags); sum.DeadLetters != 1 || sum.Counters.Lost != 0 {
			t.Fatalf("in the end %+v", sum)
		}
	})
}

// TestRetentionThatPassesAGroupIsCounted: what was settled above the position is not lost.
func TestRetentionThatPassesAGroupIsCounted(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publish(departed, 0, 100, 100)
		s := w.join("board", departed, 60)
		got := w.next(s)
		for len(got) < 60 {
			got = append(got, w.next(s)...)
		}
		w.settle("board", departed, broker.Acked, got[20:]...) // 20 unsettled below, 40 never seen by a consumer
		s.Close(false)
		w.close() // what it has read is forgotten
		w.open()
		synctest.Wait()
		time.Sleep(8 * 24 * time.Hour)
		w.publish(departed, 100, 5, 5)
		s = w.join("board", departed, 60)
		stop := beat(s)
		defer stop()
		for left := 5; left > 0; {
			ds := w.next(s)
			left -= len(ds)
			w.settle("board", departed, broker.Acked, ds...)
		}
		if sum := w.total("board", departed); sum.Counters.RetentionLost != 60 || sum.Lag != 0 {
			t.Fatalf("%d lost, lag %d; want 60 and 0", sum.Counters.RetentionLost, sum.Lag)
		}
	})
}

// TestRetentionIsNoticedWithoutADelivery: a consumer that takes nothing has read as far ahead as it may; what lies behind that is counted when it
// goes.
func TestRetentionIsNoticedWithoutADelivery(t *testing.T) {
	brief := func(name string, o *mqv1.TopicOptions) {
		onePartition(name, o)
		if name == departed {
			o.Retention = durationpb.New(time.Hour)
		}
	}
	inBubbleWith(t, brief, nil, func(t *testing.T, w *world) {
		const total = 3000 // of which 1,024 were read ahead
		w.publish(departed, 0, total, total)
		s := w.join("board", departed, 0)
		stop := beat(s)
		defer stop()
		time.Sleep(2 * time.Hour)
		if sum := w.total("board", departed); sum.Counters.RetentionLost != total || sum.Lag != 0 {
			t.Fatalf("%d lost of %d, lag %d", sum.Counters.RetentionLost, total, sum.Lag)
		}
	})
}

// TestANewGroupMissesNothing: what was deleted before the group was there was not lost to it.
func TestANewGroupMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.topics = onePartition
		w.declareTopics()
		w.publish(departed, 0, 100, 100)
		time.Sleep(8 * 24 * time.Hour)
		w.publish(departed, 100, 1, 1)
		w.declare(nil)
		synctest.Wait()
		w.next(w.join("board", departed, 10))
		if sum := w.total("board", departed); sum.Counters.RetentionLost != 0 || sum.Lag != 1 {
			t.Fatalf("then %+v", sum)
		}
	})
}

// TestWhatIsGoneWhenItIsSentIsCounted: the records go after they were read and before they are sent.
func TestWhatIsGoneWhenItIsSentIsCounted(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		const total = 600
		w.publishSized(departed, total, 4<<10) // more than is kept in memory, less than is read ahead
		s := w.join("board", departed, 1)
		got := w.next(s)
		if err := w.engine.trimAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.SetCredits(1000, 0); err != nil {
			t.Fatal(err)
		}
		w.settle("board", departed, broker.Acked, got...)
		synctest.Wait()
		sum := w.total("board", departed)
		lost, leased := sum.Counters.RetentionLost, int64(sum.Stats.Leased)
		if lost == 0 || leased == 0 || lost+leased+1 != total || sum.Lag != leased || sum.Counters.Delivered != leased+1 {
			t.Fatalf("%d lost, lag %d, %d leased, %d settled of %d", lost, sum.Lag, leased, sum.Counters.Acknowledged, total)
		}
	})
}
