package broker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// txID is the n-th id of a transaction.
func txID(n int) []byte {
	return binary.BigEndian.AppendUint64([]byte("transact"), uint64(n))
}

func batchOf(topic string, ms ...timed) broker.Batch {
	var records []byte
	for _, m := range ms {
		records = engine.AppendRecord(records, m.record())
	}
	return broker.Batch{Topic: topic, Records: records}
}

// each is messages of different keys.
func each(n int) (ms []timed) {
	for i := range n {
		ms = append(ms, timed{name: fmt.Sprint("m", i), key: fmt.Sprint("k", i)})
	}
	return ms
}

func tokensOf(ds ...delivery) (tokens []byte) {
	for _, d := range ds {
		tokens = append(tokens, d.token...)
	}
	return tokens
}

// take leases n messages of a group.
func (w *world) take(s *broker.Session, n int) (all []delivery) {
	w.t.Helper()
	for len(all) < n {
		all = append(all, w.next(s)...)
	}
	return all
}

func (w *world) mustCommit(tx broker.Transaction) broker.Committed {
	w.t.Helper()
	c, err := w.Commit(w.t.Context(), tx)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// TestATransactionDoesAllThatItSays: publishes, schedules, acknowledges and cancels, over topics and partitions.
func TestATransactionDoesAllThatItSays(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, after("gone", time.Hour), after("gone2", time.Hour), after("stays", time.Hour))
		w.mustSend(bags, each(20)...)
		got := w.take(w.join("baggage", bags, 100), 20)
		c := w.mustCommit(broker.Transaction{
			ID:        txID(1),
			Publishes: []broker.Batch{batchOf(departed, each(10)...), batchOf(bags, after("later", time.Minute), now("now"))},
			Acks:      []broker.Acks{{Group: "baggage", Topic: bags, Tokens: tokensOf(got[:12]...)}, {Group: "baggage", Topic: bags, Tokens: tokensOf(got[10:15]...)}},
			Cancels:   []broker.Cancellation{{Topic: bags, IDs: []string{"gone", "nobody", "gone2", "gone"}}, {Topic: departed, IDs: []string{"gone"}}},
		})
		if c.Duplicate || len(c.Placements) != 2 || len(c.Placements[0].Offsets) != 10 || c.Placements[1].Offsets[0] != -1 || c.Placements[1].Offsets[1] < 0 {
			t.Fatalf("placed %+v", c)
		}
		if want := []broker.CancelResult{{N: 2, Unknown: []string{"nobody"}}, {Unknown: []string{"gone"}}}; !reflect.DeepEqual(c.Canceled, want) {
			t.Fatalf("cancelled %+v, want %+v", c.Canceled, want)
		}
		if n := len(w.in(departed)); n != 10 {
			t.Errorf("%d messages in %s", n, departed)
		}
		if sum := w.total("baggage", bags); sum.Stats.Leased != 6 || sum.Counters.Acknowledged != 15 || sum.End != 21 {
			t.Errorf("then %+v", sum)
		}
		tail := map[string]int64{}
		_ = w.Tail(t.Context(), broker.TailOptions{Topic: departed, Earliest: true, StopAtEnd: true}, func(ms []broker.Tailed) bool {
			for _, m := range ms {
				tail[fmt.Sprint(m.Partition, "-", string(m.Record.Payload[2:]))] = m.Offset
			}
			return true
		})
		for i := range 10 {
			if at, ok := tail[fmt.Sprint(c.Placements[0].Partitions[i], "-m", i)]; !ok || at != c.Placements[0].Offsets[i] {
				t.Errorf("m%d is not where the answer says: %v", i, c.Placements[0])
			}
		}
		w.close()
		w.open()
		time.Sleep(2 * time.Hour)
		if names := w.names(bags); !strings.Contains(names, "stays") || !strings.Contains(names, "later") || strings.Contains(names, "gone") {
			t.Errorf("came %q", names)
		}
		s := w.join("baggage", bags, 100)
		if again := w.take(s, 8); len(again) != 8 { // 5, now, later, stays
			t.Errorf("came again: %d", len(again))
		}
	})
}

// full is a transaction with something of every kind, over what world holds.
func full(id []byte, got []delivery) broker.Transaction {
	return broker.Transaction{
		ID: id, Publishes: []broker.Batch{batchOf(departed, append(each(10), after("later", 30*time.Minute))...)},
		Acks:    []broker.Acks{{Group: "baggage", Topic: bags, Tokens: tokensOf(got...)}},
		Cancels: []broker.Cancellation{{Topic: bags, IDs: []string{"gone"}}},
	}
}

// TestAFailedCommitAppliesNothingOrAll: whatever becomes of the commit, the same id then says, and applies it once.
func TestAFailedCommitAppliesNothingOrAll(t *testing.T) {
	for _, c := range []struct {
		name    string
		fail    func(w *world)
		mend    func(w *world)
		applied bool // by the first call
		reason  broker.Reason
	}{
		{name: "before", fail: func(w *world) { w.engine.failCommits.Store(1) }, reason: broker.PartitionAway},
		{name: "after", fail: func(w *world) { w.engine.failAfter.Store(true) }, applied: true},
		{name: "late", fail: func(w *world) { w.engine.late.Store(true) }, reason: broker.PartitionAway},
		{name: "no room", fail: func(w *world) { w.engine.full.Store(true) }, mend: func(w *world) { w.engine.full.Store(false) }, reason: broker.DiskFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.mustSend(bags, after("gone", time.Hour))
				w.mustSend(bags, each(8)...)
				s := w.join("baggage", bags, 100)
				defer beat(s)()
				got := w.take(s, 8)
				w.mustCommit(broker.Transaction{ID: txID(7), Publishes: []broker.Batch{batchOf(bags, now("x"))}}) // so that the memory is owned
				w.settle("baggage", bags, broker.Acked, w.take(s, 1)...)
				tx := full(txID(1), got)
				c.fail(w)
				first, err := w.Commit(t.Context(), tx)
				if reason(err) != c.reason || first.Duplicate {
					t.Fatalf("the first call: %+v, %v, want %q", first, err, c.reason)
				}
				if c.mend != nil {
					c.mend(w)
				}
				time.Sleep(5 * time.Second) // a late write comes now, if it can
				if n := len(w.in(departed)); n != 0 && !c.applied || n != 10 && c.applied {
					t.Fatalf("after %v %d messages are there", err, n)
				}
				if !c.applied { // the shards that took part began anew: what they leased came again
					if _, err := w.Commit(t.Context(), tx); reason(err) != broker.LeaseLost {
						t.Fatalf("leases of before: %v", err)
					}
					tx.Acks[0].Tokens = tokensOf(w.take(s, 8)...)
				}
				second := w.mustCommit(tx)
				if second.Duplicate != c.applied || c.applied && !reflect.DeepEqual(second.Placements, first.Placements) {
					t.Fatalf("the second call: %+v after %+v", second, first)
				}
				third := w.mustCommit(tx)
				if !third.Duplicate || !reflect.DeepEqual(third.Placements, second.Placements) || !reflect.DeepEqual(third.Canceled, second.Canceled) {
					t.Fatalf("the third call: %+v after %+v", third, second)
				}
				if third.Canceled[0].N != 1 {
					t.Errorf("cancelled %+v", third.Canceled)
				}
				if n, sum := len(w.in(departed)), w.total("baggage", bags); n != 10 || sum.Lag != 0 {
					t.Errorf("%d messages are there, and %+v", n, sum)
				}
				time.Sleep(2 * time.Hour)
				if n := len(w.in(departed)); n != 11 || strings.Contains(w.names(bags), "gone") {
					t.Errorf("then %d messages, and %s", n, w.names(bags))
				}
			})
		})
	}
}

// TestAFullDiskEndsLeasesOnce: the first transaction that finds no room makes its shards begin anew. Those that follow change nothing until there is room.
func TestAFullDiskEndsLeasesOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, each(8)...)
		s := w.join("baggage", bags, 100)
		defer beat(s)()
		w.engine.full.Store(true)
		if _, err := w.Commit(t.Context(), full(txID(1), w.take(s, 8))); reason(err) != broker.DiskFull {
			t.Fatal(err)
		}
		got := w.take(s, 8)
		for i := range 3 {
			if _, err := w.Commit(t.Context(), full(txID(2+i), got)); reason(err) != broker.DiskFull {
				t.Fatal(err)
			}
		}
		w.engine.full.Store(false)
		w.mustCommit(full(txID(1), got))
		if sum := w.total("baggage", bags); sum.Lag != 0 {
			t.Errorf("then %+v", sum)
		}
	})
}

// TestAPublishThatComesLateIsKeptFromIt: a commit that may still be made when its outcome is asked for is not, though no shard took part in it.
func TestAPublishThatComesLateIsKeptFromIt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		tx := broker.Transaction{ID: txID(1), Publishes: []broker.Batch{batchOf(departed, each(10)...)}}
		w.engine.late.Store(true)
		if _, err := w.Commit(t.Context(), tx); reason(err) != broker.PartitionAway {
			t.Fatal(err)
		}
		if c := w.mustCommit(tx); c.Duplicate {
			t.Error("it was applied")
		}
		time.Sleep(time.Minute)
		if n := len(w.in(departed)); n != 10 {
			t.Errorf("%d messages are there", n)
		}
	})
}

// TestAStaleTokenAppliesNothing: wherever it is, of whatever group; and the others' leases go on.
func TestAStaleTokenAppliesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, append(each(12), after("gone", time.Hour))...)
		w.mustSend(departed, each(12)...)
		sb, sd := w.join("baggage", bags, 100), w.join("board", departed, 100)
		defer beat(sb)()
		defer beat(sd)()
		b, d := w.take(sb, 12), w.take(sd, 12)
		w.settle("baggage", bags, broker.Released, b[3])
		again := w.take(sb, 1)
		w.settle("baggage", bags, broker.Acked, b[4])
		acks := func(b, d []delivery) []broker.Acks {
			return []broker.Acks{{Group: "board", Topic: departed, Tokens: tokensOf(d...)}, {Group: "baggage", Topic: bags, Tokens: tokensOf(b...)}}
		}
		for i, c := range []struct {
			b, d  []delivery
			field string
			index string
		}{
			{[]delivery{b[0], b[1], b[3]}, d, "acknowledgements[1]", "2"}, // leased anew
			{[]delivery{b[4], b[0]}, d, "acknowledgements[1]", "0"},       // settled, by this very lease
			{b[:3], append(d[:2:2], b[3]), "acknowledgements[0].tokens", "2"},
		} {
			tx := full(txID(i), nil)
			tx.Acks = acks(c.b, c.d)
			_, err := w.Commit(t.Context(), tx)
			if refused := broker.Refusal(err); refused == nil || refused.Field != c.field || refused.Metadata["index"] != c.index ||
				refused.Reason != broker.LeaseLost && i < 2 || refused.Reason != broker.BadToken && i == 2 {
				t.Errorf("case %d: %+v", i, refused)
			}
		}
		if n := len(w.in(departed)); n != 12 {
			t.Errorf("%d messages are there", n)
		}
		if sb, sd := w.total("baggage", bags), w.total("board", departed); sb.Stats.Leased != 11 || sd.Stats.Leased != 12 {
			t.Errorf("leased are %d and %d", sb.Stats.Leased, sd.Stats.Leased)
		}
		tx := full(txID(1), nil) // the id was not used up
		tx.Acks = acks(append(append(b[:3:3], b[5:]...), again...), d)
		if c := w.mustCommit(tx); c.Duplicate || c.Canceled[0].N != 1 {
			t.Errorf("then %+v", c)
		}
		if sb, sd := w.total("baggage", bags), w.total("board", departed); sb.Lag != 0 || sd.Lag != 10 {
			t.Errorf("left are %d and %d", sb.Lag, sd.Lag)
		}
	})
}

// TestTransactionsThatOverlapDoNotWaitForEachOther: in opposite orders, over shards and the schedule, with others in between.
func TestTransactionsThatOverlapDoNotWaitForEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const n, share = 40, 10
		s := w.join("baggage", bags, n*share)
		d := w.join("board", departed, n*share)
		var ms []timed
		for i := range n * share {
			ms = append(ms, timed{name: fmt.Sprint("m", i), key: fmt.Sprint("k", i)})
		}
		w.mustSend(bags, ms...)
		w.mustSend(departed, ms...)
		b, f := w.take(s, n*share), w.take(d, n*share)
		defer beat(s)()
		defer beat(d)()
		w.engine.stall.Store(int64(20 * time.Millisecond))
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				acks := []broker.Acks{
					{Group: "baggage", Topic: bags, Tokens: tokensOf(b[i*share : (i+1)*share]...)}, {Group: "board", Topic: departed, Tokens: tokensOf(f[i*share : (i+1)*share]...)},
				}
				if i%2 == 1 {
					acks[0], acks[1] = acks[1], acks[0]
				}
				tx := broker.Transaction{ID: txID(i), Acks: acks}
				if i%4 == 0 { // the schedule's turn is before all others'
					tx.Publishes = []broker.Batch{batchOf(bags, after(fmt.Sprint("later", i), time.Hour))}
				}
				if _, err := w.Commit(context.Background(), tx); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() { w.mustSend(bags, after(fmt.Sprint("other", i), time.Hour)) })
		}
		all.Wait()
		if sb, sd := w.total("baggage", bags), w.total("board", departed); sb.Lag != 0 || sd.Lag != 0 {
			t.Errorf("left are %d and %d", sb.Lag, sd.Lag)
		}
	})
}

// TestATransactionIsKnownAcrossARestart: the same gets its first answer, another is a conflict; and both while the first is under way.
func TestATransactionIsKnownAcrossARestart(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, each(5)...)
		got := w.take(w.join("baggage", bags, 10), 5)
		tx := full(txID(1), got)
		other := tx
		other.Publishes = []broker.Batch{batchOf(departed, each(9)...)}
		same := func(first, c broker.Committed, err error) {
			t.Helper()
			if err != nil || !c.Duplicate || !reflect.DeepEqual(c.Placements, first.Placements) || !reflect.DeepEqual(c.Canceled, first.Canceled) {
				t.Errorf("got %+v, %v, want the first answer %+v", c, err, first)
			}
		}
		w.engine.stall.Store(int64(time.Second))
		answers := make(chan broker.Committed, 3)
		for range 3 { // two wait for the one that came first
			go func() {
				c, err := w.Commit(context.Background(), tx)
				if err != nil {
					t.Error(err)
				}
				answers <- c
			}()
		}
		synctest.Wait()
		if _, err := w.Commit(t.Context(), other); reason(err) != broker.TransactionConflict {
			t.Errorf("another transaction under the same id, at once: %v", err)
		}
		first, duplicates := broker.Committed{}, 0
		for range 3 {
			c := <-answers
			if c.Duplicate {
				duplicates++
			} else {
				first = c
			}
		}
		if duplicates != 2 {
			t.Errorf("%d of 3 are duplicates", duplicates)
		}
		w.engine.stall.Store(0)
		c, err := w.Commit(t.Context(), tx)
		same(first, c, err)
		w.close()
		w.open()
		c, err = w.Commit(t.Context(), tx)
		same(first, c, err)
		if _, err := w.Commit(t.Context(), other); reason(err) != broker.TransactionConflict {
			t.Errorf("another transaction under the same id, later: %v", err)
		}
		if n := len(w.in(departed)); n != 10 {
			t.Errorf("%d messages are there", n)
		}
	})
}

// TestATransactionIsForgotten: not before ten minutes, whatever the clock does across restarts, and then for good.
func TestATransactionIsForgotten(t *testing.T) {
	withJumpyClock(t, func(t *testing.T, w *world, c *jumpy) {
		commit := func(n int) bool {
			t.Helper()
			return w.mustCommit(broker.Transaction{ID: txID(n), Publishes: []broker.Batch{batchOf(bags, now("a"))}}).Duplicate
		}
		for i := range 600 { // more than one commit forgets
			commit(i)
		}
		restart := func(jump time.Duration) { // after a crash: nothing is saved at the end
			w.engine.full.Store(true)
			w.close()
			w.engine.full.Store(false)
			c.set(jump)
			w.open()
		}
		time.Sleep(9*time.Minute + 59*time.Second)
		if !commit(0) {
			t.Error("forgotten within ten minutes")
		}
		restart(24 * time.Hour)
		commit(1000)
		if !commit(1) {
			t.Error("forgotten after the clock was set forward")
		}
		restart(-48 * time.Hour)
		time.Sleep(5 * time.Minute)
		commit(1001)
		if !commit(2) {
			t.Error("forgotten after the clock was set back")
		}
		time.Sleep(20 * time.Minute)
		for i := range 4 {
			commit(2000 + i)
		}
		if n := w.remembered(); n != 4 {
			t.Errorf("%d keys are left of the old transactions", n-4)
		}
		if commit(3) {
			t.Error("still known after twenty minutes")
		}
	})
}

// remembered counts the transactions that the store holds.
func (w *world) remembered() (n int) {
	for _, err := range w.engine.View(engine.ShardID{Group: "__transactions"}).Scan(w.t.Context(), []byte("t"), nil) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

// TestATransactionThatWasBegunIsBroughtToItsEnd: its caller has gone.
func TestATransactionThatWasBegunIsBroughtToItsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, each(5)...)
		tx := full(txID(1), w.take(w.join("baggage", bags, 10), 5))
		kept := bytes.Clone(tx.Publishes[0].Records)
		tokens := bytes.Clone(tx.Acks[0].Tokens)
		w.engine.stall.Store(int64(time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Commit(ctx, tx); reason(err) != broker.OutcomeUnknown {
			t.Fatalf("returned %v", err)
		}
		clear(tx.Publishes[0].Records) // they are the caller's again
		clear(tx.Acks[0].Tokens)
		w.engine.stall.Store(0)
		time.Sleep(5 * time.Minute)
		tx.Publishes[0].Records, tx.Acks[0].Tokens = kept, tokens
		if c := w.mustCommit(tx); !c.Duplicate {
			t.Error("it was not applied")
		}
		if names := w.names(departed); !strings.Contains(names, "m9") || w.total("baggage", bags).Lag != 0 {
			t.Errorf("came %q", names)
		}
	})
}

// TestHeartbeatsAreHonouredWhileATransactionIsWaitedFor: the shards stand still for longer than a lease, while the transaction is committed or waits for another
// shard; and nothing is seen of it meanwhile.
func TestHeartbeatsAreHonouredWhileATransactionIsWaitedFor(t *testing.T) {
	for _, other := range []bool{false, true} {
		inBubble(t, func(t *testing.T, w *world) {
			s, d := w.join("baggage", bags, 100), w.join("board", departed, 100)
			w.mustSend(bags, each(40)...)
			w.mustSend(departed, now("first"), now("second"))
			got, waited := w.take(s, 40), w.take(d, 1)
			defer beat(s)()
			defer beat(d)()
			stall := 3 * s.Lease
			var acked, left []delivery // one of each partition, and the others
			asked := map[uint32]bool{}
			for _, m := range got {
				if asked[m.partition] {
					left = append(left, m)
				} else {
					asked[m.partition] = true
					acked = append(acked, m)
				}
			}
			tx := full(txID(1), acked)
			w.engine.stall.Store(int64(stall))
			if other { // the shard of the other group, which comes after those of this one, is busy
				go func() { _, _ = w.Settle(context.Background(), "board", departed, waited[0].token, nil) }()
				synctest.Wait()
				w.engine.stall.Store(0)
				tx.Acks = append(tx.Acks, broker.Acks{Group: "board", Topic: departed, Tokens: waited[0].token})
			}
			over := make(chan error)
			go func() {
				_, err := w.Commit(context.Background(), tx)
				over <- err
			}()
			for range 5 {
				time.Sleep(s.Lease / 2)
				if n := len(w.in(departed)); n != 2 {
					t.Errorf("%d messages are seen before the commit", n)
				}
			}
			w.engine.stall.Store(0)
			if err := <-over; reason(err) != map[bool]broker.Reason{true: broker.LeaseLost}[other] { // the other was settled meanwhile
				t.Fatal(err)
			}
			if other {
				tx.Acks = tx.Acks[:1]
				w.mustCommit(tx)
			}
			if refused := w.settle("baggage", bags, broker.Acked, left...); len(refused) > 0 {
				t.Fatalf("refused %+v", refused[0].Error)
			}
			if sum := w.total("baggage", bags); sum.Lag != 0 || sum.Counters.Delivered != 40 {
				t.Errorf("then %+v", sum)
			}
		})
	}
}

// TestATransactionStepsAfterHeartbeatsWereHeard: its shards stand still for longer than a lease before they step.
func TestATransactionStepsAfterHeartbeatsWereHeard(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s, d := w.join("baggage", bags, 100), w.join("board", departed, 100)
		w.mustSend(bags, each(40)...)
		w.mustSend(departed, each(40)...)
		got := w.take(s, 40)
		byPartition := map[uint32][]delivery{}
		var busy []delivery // two of one partition
		for _, m := range w.take(d, 40) {
			if byPartition[m.partition] = append(byPartition[m.partition], m); len(byPartition[m.partition]) == 2 {
				busy = byPartition[m.partition]
			}
		}
		defer beat(s)()
		defer beat(d)()
		w.engine.stall.Store(int64(3 * s.Lease))
		go func() { _, _ = w.Settle(context.Background(), "board", departed, busy[0].token, nil) }()
		synctest.Wait()
		w.engine.stall.Store(0)
		tx := full(txID(1), got[:1])
		tx.Acks = append(tx.Acks, broker.Acks{Group: "board", Topic: departed, Tokens: busy[1].token})
		w.mustCommit(tx)
		if refused := w.settle("baggage", bags, broker.Acked, got[1:]...); len(refused) > 0 {
			t.Fatalf("refused %+v", refused[0].Error)
		}
	})
}

func TestTransactionBounds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, each(1)...)
		got := w.take(w.join("baggage", bags, 10), 1)
		publish := func(b ...broker.Batch) broker.Transaction { return broker.Transaction{ID: txID(1), Publishes: b} }
		acks := func(group, topic string, tokens []byte) broker.Transaction {
			return broker.Transaction{ID: txID(1), Acks: []broker.Acks{{Group: group, Topic: topic, Tokens: tokens}}}
		}
		cancels := func(topic string, ids ...string) broker.Transaction {
			return broker.Transaction{ID: txID(1), Cancels: []broker.Cancellation{{Topic: topic, IDs: ids}}}
		}
		flipped := bytes.Clone(got[0].token)
		flipped[9] ^= 1
		for i, c := range []struct {
			tx    broker.Transaction
			want  broker.Reason
			field string
		}{
			{broker.Transaction{ID: txID(1)}, broker.BatchEmpty, ""},
			{broker.Transaction{ID: []byte("short"), Publishes: []broker.Batch{batchOf(bags, now("a"))}}, broker.BadRequest, "transaction_id"},
			{publish(batchOf(bags, now("a")), batchOf("nowhere", now("a"))), broker.TopicUnknown, "publishes[1].topic"},
			{publish(batchOf(bags, now("a")), batchOf(bags)), broker.BatchEmpty, "publishes[1].records"},
			{publish(batchOf(bags, make([]timed, 6000)...), batchOf(bags, make([]timed, 4001)...)), broker.BatchTooLarge, ""},
			{publish(broker.Batch{Topic: bags, Records: make([]byte, 16<<20)}, batchOf(bags, now("a"))), broker.BatchTooLarge, ""},
			{publish(make([]broker.Batch, 10_001)...), broker.BatchTooLarge, ""},
			{broker.Transaction{ID: txID(1), Acks: slices.Repeat([]broker.Acks{{Group: "baggage", Topic: bags}}, 10_001), Cancels: cancels(bags, "a").Cancels}, broker.BatchTooLarge, ""},
			{acks("nobody", bags, got[0].token), broker.GroupUnknown, "acknowledgements[0].group"},
			{acks("baggage", "nowhere", got[0].token), broker.TopicUnknown, "acknowledgements[0].topic"},
			{acks("baggage", bags, got[0].token[1:]), broker.BadToken, "acknowledgements[0].tokens"},
			{acks("baggage", bags, flipped), broker.BadToken, "acknowledgements[0].tokens"},
			{acks("board", departed, got[0].token), broker.BadToken, "acknowledgements[0].tokens"},
			{cancels("nowhere", "a"), broker.TopicUnknown, "cancels[0].topic"},
			{cancels(bags), broker.BadRequest, "cancels[0].ids"},
			{cancels(bags, make([]string, 10_001)...), broker.BatchTooLarge, ""},
		} {
			_, err := w.Commit(t.Context(), c.tx)
			if refused := broker.Refusal(err); err == nil || refused.Reason != c.want || refused.Field != c.field {
				t.Errorf("case %d: %+v, want %s of %q", i, refused, c.want, c.field)
			}
		}
		if n := len(w.in(bags)); n != 1 {
			t.Errorf("%d messages are there", n)
		}
		if c := w.mustCommit(publish(batchOf(bags, make([]timed, 10_000)...))); len(c.Placements[0].Offsets) != 10_000 {
			t.Error("not all of 10,000 were placed")
		}
	})
}

// TestTransactionsWhileDraining: what is in hand may be ended with one; nothing else begins.
func TestTransactionsWhileDraining(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, each(1)...)
		s := w.join("baggage", bags, 10)
		got := w.take(s, 1)
		drained := make(chan struct{})
		go func() { w.Drain(context.Background()); close(drained) }()
		synctest.Wait()
		if _, err := w.Commit(t.Context(), broker.Transaction{ID: txID(1), Publishes: []broker.Batch{batchOf(bags, now("a"))}}); reason(err) != broker.Draining {
			t.Errorf("began: %v", err)
		}
		if _, err := w.Commit(t.Context(), full(txID(2), got)); err != nil {
			t.Errorf("did not end: %v", err)
		}
		s.Close(false)
		<-drained
		w.close()
		if _, err := w.Commit(t.Context(), full(txID(3), got)); reason(err) != broker.Draining {
			t.Errorf("after the end: %v", err)
		}
		w.open()
	})
}
