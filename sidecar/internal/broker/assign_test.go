package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// partitionsOf publishes into all partitions and tells whose consumer got what.
func (w *world) partitionsOf(sessions []*broker.Session) map[uint32]*broker.Session {
	w.t.Helper()
	w.publish(departed, 0, 300, 300) // some in each of 16
	synctest.Wait()
	owner := map[uint32]*broker.Session{}
	for _, s := range sessions {
		for _, d := range w.waiting(s) {
			if o := owner[d.partition]; o != nil && o != s {
				w.t.Fatalf("partition %d went to two consumers that could take it all", d.partition)
			}
			owner[d.partition] = s
			w.settle("board", departed, broker.Acked, d)
		}
	}
	if len(owner) != 16 {
		w.t.Fatalf("messages came from %d partitions of 16", len(owner))
	}
	return owner
}

// waiting takes what a session has now, and what follows when that is settled by others.
func (w *world) waiting(s *broker.Session) (all []delivery) {
	w.t.Helper()
	s.Heartbeat() // so that there is something to tell
	news, err := s.Next(w.t.Context(), 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	return deliveries(w.t, news.Slices)
}

func shares(owner map[uint32]*broker.Session) map[*broker.Session]int {
	n := map[*broker.Session]int{}
	for _, s := range owner {
		n[s]++
	}
	return n
}

func moves(before, after map[uint32]*broker.Session) (n int) {
	for p, s := range before {
		if after[p] != s {
			n++
		}
	}
	return n
}

// TestPartitionsSpreadEvenlyAndStay: each consumer has as many as any other or one less, and who joins or leaves moves no more than needed. A Pull
// moves nothing.
func TestPartitionsSpreadEvenlyAndStay(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var sessions []*broker.Session
		before := map[uint32]*broker.Session{}
		even := func() map[uint32]*broker.Session {
			t.Helper()
			after := w.partitionsOf(sessions)
			n := shares(after)
			for _, s := range sessions {
				if least := 16 / len(sessions); n[s] != least && n[s] != least+1 {
					t.Fatalf("of %d consumers one has %d partitions of 16", len(sessions), n[s])
				}
			}
			return after
		}
		for n := 1; n <= 5; n++ {
			sessions = append(sessions, w.join("board", departed, 1000))
			after := even()
			if moved := moves(before, after); n > 1 && moved != 16/n {
				t.Fatalf("with consumer %d moved %d partitions, want the %d that it got", n, moved, 16/n)
			}
			before = after
		}
		pulled := make(chan int)
		go func() {
			slices, err := w.Pull(t.Context(), "board", departed, 10, time.Second, 5*time.Second)
			if err != nil {
				t.Error(err)
			}
			pulled <- len(slices)
		}()
		synctest.Wait()
		if after := even(); moves(before, after) != 0 {
			t.Fatalf("a pull moved %d partitions", moves(before, after))
		}
		if n := <-pulled; n != 0 {
			t.Fatalf("pulled %d slices that belong to others", n)
		}
		for len(sessions) > 1 {
			left := sessions[1]
			had := shares(before)[left]
			left.Close(false)
			sessions = append(sessions[:1], sessions[2:]...)
			after := even()
			if moved := moves(before, after); moved != had {
				t.Fatalf("a consumer with %d partitions left, and %d moved", had, moved)
			}
			before = after
		}
	})
}

// TestAPartitionInOrderHasOneConsumer: nobody helps, also when its consumer can take no more; when that one leaves another has it.
func TestAPartitionInOrderHasOneConsumer(t *testing.T) {
	strict := func(name string, o *mqv1.TopicOptions) {
		onePartition(name, o)
		o.Ordering = mqv1.Ordering_ORDERING_PER_PARTITION.Enum()
	}
	inBubbleWith(t, strict, nil, func(t *testing.T, w *world) {
		a, b := w.join("baggage", bags, 1), w.join("baggage", bags, 1)
		w.publish(bags, 0, 6, 1)
		for range 3 {
			synctest.Wait()
			if other := w.waiting(b); len(other) > 0 {
				t.Fatalf("the other consumer got %+v", other)
			}
			got := w.next(a)
			if len(got) != 1 {
				t.Fatalf("at once came %+v", got)
			}
			w.settle("baggage", bags, broker.Acked, got...)
			if err := a.SetCredits(0, 0); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if other := w.waiting(b); len(other) > 0 {
				t.Fatalf("the other consumer got %+v while the partition's own had no credits", other)
			}
			if got := w.pull(bags, 10); len(got) > 0 {
				t.Fatalf("pulled %+v", got)
			}
			if err := a.SetCredits(1, 0); err != nil {
				t.Fatal(err)
			}
		}
		last := w.next(a)
		a.Close(false)
		if got := w.next(b); len(got) != 1 || got[0].offset != last[0].offset {
			t.Fatalf("after the first consumer left came %+v, want offset %d", got, last[0].offset)
		}
		b.Close(false)
		if got := w.pull(bags, 10); len(got) != 1 || got[0].offset != last[0].offset {
			t.Fatalf("with no consumer to stay was pulled %+v", got)
		}
	})
}

// TestOthersHelp: a partition whose consumer can take no more is served by another.
func TestOthersHelp(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		a, b := w.join("baggage", bags, 3), w.join("baggage", bags, 4)
		w.publish(bags, 0, 10, 1)
		synctest.Wait()
		if mine, help := len(w.waiting(a)), len(w.waiting(b)); mine != 3 || help != 4 {
			t.Fatalf("%d and %d messages were leased, want 3 and 4", mine, help)
		}
	})
}
