package broker_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestWhatIsPublishedWhileAnEmptiedLogIsReadIsNoGap: the log was trimmed to its end; a message comes between the read that finds nothing and the
// machine's hearing of it.
func TestWhatIsPublishedWhileAnEmptiedLogIsReadIsNoGap(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		if _, err := w.Pull(t.Context(), "board", departed, 1, 0, 0); err != nil { // so that the group runs
			t.Fatal(err)
		}
		w.publish(departed, 0, 20, 1)
		if err := w.engine.trimAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		published := false
		publish := func() {
			published = true
			w.publish(departed, 20, 3, 1)
		}
		w.engine.onEmptyRead.Store(&publish)
		s := w.join("board", departed, 10)
		stop := beat(s)
		defer stop()
		for seen := 0; seen < 3; {
			ds := w.next(s)
			seen += len(ds)
			w.settle("board", departed, broker.Acked, ds...)
		}
		if !published {
			t.Fatal("no read found the log empty")
		}
	})
}

// TestAGroupThatBeganAtTheLatestStaysThere: before its first message is settled, only blocks are saved.
func TestAGroupThatBeganAtTheLatestStaysThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		latest := func(_ string, o *mqv1.SubscribeOptions) { o.StartFrom = mqv1.StartFrom_START_FROM_LATEST.Enum() }
		w.declareTopics()
		for i := range 100 { // before there is a group: some in each partition
			w.publish(bags, i, 1, 1)
		}
		w.declare(latest)
		const news = 80
		for i := range news {
			w.publish(bags, 100+i, 1, 1)
		}
		s := w.join("baggage", bags, 100)
		kept := map[uint32]bool{} // the first of each partition is left unsettled, so that no position moves
		for got := 0; got < news; {
			for _, d := range w.next(s) {
				got++
				if !kept[d.partition] {
					kept[d.partition] = true
					continue
				}
				w.settle("baggage", bags, broker.Acked, d)
			}
		}
		w.close()
		w.open()
		synctest.Wait()
		w.join("baggage", bags, 1000)
		synctest.Wait()
		if sum := w.total("baggage", bags); sum.Stats.Leased != len(kept) {
			t.Errorf("after the restart came %d messages, want the %d that were not settled", sum.Stats.Leased, len(kept))
		}
		w.close()
	})
}

// TestACatalogueThatIsNotSureReadsItselfAnew: a declaration whose commit is durable though it failed keeps its topic's id.
func TestACatalogueThatIsNotSureReadsItselfAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.engine.failAfter.Store(true) // the next commit is made, and reported as unknown
		if err := w.tryDeclareTopic("air.flights.v1.FlightDeparted"); err == nil {
			t.Fatal("the declaration did not fail")
		}
		if err := w.tryDeclareTopic("air.flights.v1.BagsChecked"); err != nil {
			t.Fatal(err)
		}
		w.publish(departed, 0, 10, 10)
		w.publish(bags, 0, 5, 1)
		counts := map[string]int64{}
		for _, top := range w.Topics(t.Context()) {
			for _, p := range top.Bounds {
				counts[top.Declared.Name] += p.End - p.Begin
			}
		}
		if counts[departed] != 10 || counts[bags] != 5 {
			t.Fatalf("the topics hold %v", counts)
		}
		w.close()
	})
}

// TestASlowDiskEndsNoLiveSession: a commit takes longer than a lease, while the consumer sends its heartbeats.
func TestASlowDiskEndsNoLiveSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(bags, 0, 3, 1)
		s := w.join("baggage", bags, 10)
		got := w.next(s)
		stop := beat(s)
		defer stop()
		w.engine.stall.Store(int64(2 * s.Lease))
		if r := w.settle("baggage", bags, broker.Acked, got[0]); len(r) > 0 {
			t.Fatalf("refused %+v", r)
		}
		w.engine.stall.Store(0)
		if r := w.settle("baggage", bags, broker.Acked, got[1:]...); len(r) > 0 {
			t.Fatalf("after the stall: refused %+v", r)
		}
	})
}

// TestWhatWasNeverSentUsesNoAttempt: the consumer dies before its deliveries leave the sidecar.
func TestWhatWasNeverSentUsesNoAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 10)
		w.publish(bags, 0, 1, 1)
		synctest.Wait()
		s.Close(true)
		if got := w.next(w.join("baggage", bags, 10)); got[0].attempt != 1 {
			t.Fatalf("came as attempt %d", got[0].attempt)
		}
	})
}

// TestLongErrorsAreCutBetweenCharacters: a cut through one cannot be stored.
func TestLongErrorsAreCutBetweenCharacters(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 10)
		w.publish(bags, 0, 1, 1)
		got := w.next(s)
		refused, err := w.Settle(t.Context(), "baggage", bags, nil, []broker.Settlement{
			{Token: got[0].token, Outcome: broker.Rejected, Error: strings.Repeat("a", broker.MaxErrorBytes-1) + "éé"},
		})
		if err != nil || len(refused) > 0 {
			t.Fatal(err, refused)
		}
		if sum := w.total("baggage", bags); sum.DeadLetters != 1 {
			t.Fatalf("then %+v", sum)
		}
	})
}

// TestTwoRedrivesAtOnceCountOnce: both are in one commit.
func TestTwoRedrivesAtOnceCountOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 10)
		w.publish(bags, 0, 2, 1)
		got := w.next(s)
		w.settle("baggage", bags, broker.Rejected, got[0])
		w.engine.stall.Store(int64(time.Second)) // while this is committed, the redrives gather
		go func() { _, _ = w.Settle(context.Background(), "baggage", bags, got[1].token, nil) }()
		synctest.Wait()
		total := make(chan int)
		for range 5 {
			go func() {
				n, _, _, err := w.Redrive(context.Background(), "baggage", bags, broker.Selection{All: true})
				if err != nil {
					t.Error(err)
				}
				total <- n
			}()
		}
		sum := 0
		for range 5 {
			sum += <-total
		}
		if st := w.total("baggage", bags); sum != 1 || st.DeadLetters != 0 {
			t.Fatalf("redrove %d, dead letters %d", sum, st.DeadLetters)
		}
	})
}
