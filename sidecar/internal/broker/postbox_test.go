package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// inboxA and inboxB share a log.
var inboxA, inboxB = []byte("0123456789abcdef"), []byte("0123456789ABCDEF")

func (w *world) inbox(name []byte, from int64) *broker.Inbox {
	w.t.Helper()
	in, err := w.OpenInbox(w.t.Context(), name, from)
	if err != nil {
		w.t.Fatal(err)
	}
	return in
}

// answer settles a delivery with a reply.
func (w *world) answer(inbox []byte, text string, d delivery) []broker.SettleRefusal {
	w.t.Helper()
	refused, err := w.Settle(w.t.Context(), "baggage", bags, nil, []broker.Settlement{
		{Token: d.token, Outcome: broker.Answered, Reply: broker.Reply{Inbox: inbox, Encoding: []byte(text)}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return refused
}

// replies waits for n replies.
func (w *world) replies(in *broker.Inbox, n int) (texts []string) {
	w.t.Helper()
	for len(texts) < n {
		replies, err := in.Next(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range replies {
			texts = append(texts, string(r.Encoding))
		}
	}
	return texts
}

// TestRepliesReachTheirInbox: each its own, in order, those of a time without a stream too.
func TestRepliesReachTheirInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.close() }()
		w.declare(nil)
		w.publish(bags, 0, 40, 40)
		s := w.join("baggage", bags, 100)
		var calls []delivery
		for len(calls) < 40 {
			calls = append(calls, w.next(s)...)
		}
		a, b := w.inbox(inboxA, -1), w.inbox(inboxB, -1)
		var want []string
		for i, d := range calls[:20] {
			w.answer(inboxA, fmt.Sprint("a", i), d)
			want = append(want, fmt.Sprint("a", i))
		}
		w.answer(inboxB, "b", calls[20])
		if got := w.replies(a, 20); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		if got := w.replies(b, 1); got[0] != "b" {
			t.Errorf("got %v", got)
		}
		if refused := w.answer(inboxA, "again", calls[0]); len(refused) > 0 {
			t.Errorf("an answer that was given was refused: %v", refused[0].Error)
		}
		at := a.At()
		a.Close()
		w.answer(inboxA, "meanwhile", calls[21])
		a = w.inbox(inboxA, at)
		w.answer(inboxA, "then", calls[22])
		if got := w.replies(a, 2); !slices.Equal(got, []string{"meanwhile", "then"}) {
			t.Errorf("after a reconnect: %v", got)
		}
		w.answer(inboxA, "before the end", calls[23])
		synctest.Wait()
		at = a.At()
		w.close()
		if _, err := a.Next(t.Context()); err == nil {
			// what was there may still be taken, the end comes then
			if _, err = a.Next(t.Context()); !is(err, broker.Draining) {
				t.Errorf("the inbox of a closed broker: %v", err)
			}
		} else if !is(err, broker.Draining) {
			t.Errorf("the inbox of a closed broker: %v", err)
		}
		w.open()
		a = w.inbox(inboxA, at)
		if got := w.replies(a, 1); got[0] != "before the end" {
			t.Errorf("after a restart: %v", got)
		}
	})
}

func is(err error, reason broker.Reason) bool {
	var e *broker.Error
	return errors.As(err, &e) && e.Reason == reason
}

// TestSlowInboxLosesNothing: what does not fit its queue is read from the log later, and none comes twice.
func TestSlowInboxLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.declare(nil)
		w.publish(bags, 0, 60, 60)
		s := w.join("baggage", bags, 100)
		var calls []delivery
		for len(calls) < 60 {
			calls = append(calls, w.next(s)...)
		}
		a := w.inbox(inboxA, -1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Next(ctx); !errors.Is(err, context.DeadlineExceeded) { // from now on replies are brought to it
			t.Fatal(err)
		}
		large := make([]byte, 100<<10)
		for i, d := range calls[:50] {
			w.answer(inboxA, fmt.Sprintf("%d %s", i, large), d)
		}
		synctest.Wait()
		got := w.replies(a, 50)
		for i, d := range calls[50:] {
			w.answer(inboxA, fmt.Sprintf("%d %s", 50+i, large), d)
		}
		got = append(got, w.replies(a, 10)...)
		for i, text := range got {
			if n := 0; len(got) != 60 {
				t.Fatalf("%d replies", len(got))
			} else if _, err := fmt.Sscan(text, &n); err != nil || n != i {
				t.Fatalf("reply %d is %.10q", i, text)
			}
		}
	})
}

// TestReplyAndAcknowledgementAreOne: a commit that fails gives no reply, and the message comes again.
func TestReplyAndAcknowledgementAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.declare(nil)
		w.publish(bags, 0, 1, 1)
		s := w.join("baggage", bags, 10)
		call := w.next(s)[0]
		a := w.inbox(inboxA, -1)
		w.engine.failCommits.Store(1)
		if refused := w.answer(inboxA, "lost", call); len(refused) != 1 {
			t.Fatalf("refused: %v", refused)
		}
		w.engine.failCommits.Store(-1 << 30)
		call = w.next(s)[0]
		w.answer(inboxA, "given", call)
		if got := w.replies(a, 1); got[0] != "given" {
			t.Errorf("got %v", got)
		}
	})
}

// TestDamagedReplyLogHoldsNobodyUp: messages are settled without their replies.
func TestDamagedReplyLogHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.declare(nil)
		w.publish(bags, 0, 1, 1)
		call := w.next(w.join("baggage", bags, 10))[0]
		w.engine.broken.Store(&engine.LogID{Partition: uint32(inboxA[0]) % 16})
		if refused := w.answer(inboxA, "lost", call); len(refused) > 0 {
			t.Errorf("refused: %v", refused[0].Error)
		}
		if sum := w.total("baggage", bags); sum.Lag != 0 {
			t.Errorf("lag %d", sum.Lag)
		}
	})
}

// TestOldRepliesGo: they are kept for ten minutes.
func TestOldRepliesGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.declare(nil)
		w.publish(bags, 0, 2, 2)
		s := w.join("baggage", bags, 10)
		calls := w.next(s)
		for len(calls) < 2 {
			calls = append(calls, w.next(s)...)
		}
		w.answer(inboxA, "old", calls[0])
		time.Sleep(8 * time.Minute)
		log := engine.LogID{Partition: uint32(inboxA[0]) % 16}
		kept := func() engine.Offset {
			bounds, err := w.engine.Bounds(t.Context(), log)
			if err != nil {
				t.Fatal(err)
			}
			return bounds.End - bounds.Begin
		}
		if n := kept(); n != 1 {
			t.Errorf("%d replies are kept after 8 minutes", n)
		}
		time.Sleep(4 * time.Minute)
		if n := kept(); n != 0 {
			t.Errorf("%d replies are kept after 12 minutes", n)
		}
	})
}

// TestInboxRefusals: names of a wrong length, places that do not exist, streams that another has replaced.
func TestInboxRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.declare(nil)
		if _, err := w.OpenInbox(t.Context(), []byte("short"), -1); !is(err, broker.BadRequest) {
			t.Errorf("a short name: %v", err)
		}
		if _, err := w.OpenInbox(t.Context(), inboxA, 1); !is(err, broker.BadOffset) {
			t.Errorf("beyond the end: %v", err)
		}
		old := w.inbox(inboxA, -1)
		w.inbox(inboxA, -1)
		if _, err := old.Next(t.Context()); !is(err, broker.SessionLost) {
			t.Errorf("a replaced inbox: %v", err)
		}
		w.publish(bags, 0, 1, 1)
		call := w.next(w.join("baggage", bags, 1))[0]
		if refused := w.answer([]byte("short"), "", call); len(refused) != 1 || refused[0].Error.Reason != broker.BadRequest {
			t.Errorf("an answer to a short name: %v", refused)
		}
		if refused := w.answer(inboxA, string(make([]byte, broker.MaxReplyBytes+1)), call); len(refused) != 1 || refused[0].Error.Reason != broker.MessageTooLarge {
			t.Errorf("a large answer: %v", refused)
		}
		if refused := w.answer(inboxA, "", call); len(refused) != 0 {
			t.Errorf("an answer after refused ones: %v", refused)
		}
	})
}

// TestReplyAndTransactionOfOneTurn: a transaction that has the shard stand still does not part an answer from its acknowledgement.
func TestReplyAndTransactionOfOneTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.declare(nil)
		w.publish(bags, 0, 40, 40)
		s := w.join("baggage", bags, 100)
		byPartition := map[uint32][]delivery{}
		var calls []delivery
		for n := 0; n < 40; {
			for _, d := range w.next(s) {
				n++
				byPartition[d.partition] = append(byPartition[d.partition], d)
				if len(byPartition[d.partition]) == 3 {
					calls = byPartition[d.partition]
				}
			}
		}
		var batches []engine.Batch
		hook := func(b engine.Batch) {
			if b.Appends != nil && b.Appends[0].Log.Topic == 0 {
				batches = append(batches, b)
			}
		}
		w.engine.onCommit.Store(&hook)
		w.engine.stall.Store(int64(time.Second))
		var group sync.WaitGroup
		group.Go(func() { w.settle("baggage", bags, broker.Acked, calls[0]) }) // which the shard is busy with
		time.Sleep(time.Millisecond)
		group.Go(func() { w.answer(inboxA, "given", calls[1]) })
		group.Go(func() {
			if _, err := w.Commit(t.Context(), broker.Transaction{ID: inboxB, Acks: []broker.Acks{{Group: "baggage", Topic: bags, Tokens: calls[2].token}}}); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
		if len(batches) != 1 || len(batches[0].Writes) == 0 {
			t.Errorf("the reply was stored by %v", batches)
		}
	})
}
