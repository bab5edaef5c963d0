package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// window is the dedupe window of the tests.
const window = 10 * time.Minute

// inDedupeWorld runs a test in a world whose topics deduplicate.
func inDedupeWorld(t *testing.T, f func(t *testing.T, w *world)) {
	inBubble(t, func(t *testing.T, w *world) {
		w.deduplicate(window)
		f(t, w)
	})
}

func (w *world) deduplicate(window time.Duration) {
	w.t.Helper()
	w.topics = func(_ string, o *mqv1.TopicOptions) {
		o.Dedupe = nil
		if window > 0 {
			o.Dedupe = &mqv1.Dedupe{Window: durationpb.New(window)}
		}
	}
	w.declareTopics()
}

// flight is a record: its id, what is in it, and what else is said of it.
type flight struct {
	id, text string
	delay    time.Duration
}

func (w *world) set(topic string, flights ...flight) (records []byte) {
	w.t.Helper()
	for _, f := range flights {
		s, err := structpb.NewStruct(map[string]any{"flightId": f.text, "origin": "O" + f.text})
		if err != nil {
			w.t.Fatal(err)
		}
		raw, err := w.Compose(topic, broker.Draft{JSON: s, ID: f.id, Delay: f.delay})
		if err != nil {
			w.t.Fatal(err)
		}
		records = engine.AppendRecord(records, raw)
	}
	return records
}

// sendAll publishes a batch, which must not fail as a whole.
func (w *world) sendAll(topic string, flights ...flight) broker.Placement {
	w.t.Helper()
	placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: topic, Records: w.set(topic, flights...)}})
	if err != nil {
		w.t.Fatal(err)
	}
	return placed[0]
}

// stored counts the records of a topic.
func (w *world) stored(name string) (n int64) {
	w.t.Helper()
	for _, top := range w.Topics(w.t.Context()) {
		if top.Declared.Name == name {
			for _, p := range top.Bounds {
				n += p.End
			}
		}
	}
	return n
}

// repeats checks that a placement is that of duplicates of another's records.
func repeats(t *testing.T, got, first broker.Placement, indices ...uint32) {
	t.Helper()
	if got.Refused != nil {
		t.Fatal(got.Refused)
	}
	if !slices.Equal(got.Duplicates, indices) || !slices.Equal(got.Partitions, first.Partitions) || !slices.Equal(got.Offsets, first.Offsets) {
		t.Fatalf("got %+v, want the duplicates %v of %+v", got, indices, first)
	}
}

// TestAnIDIsPublishedOnce: within the window, in its own topic, with its first receipt.
func TestAnIDIsPublishedOnce(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		first := w.sendAll(bags, flight{id: "a", text: "1"}, flight{text: "x"}, flight{id: "b", text: "2"})
		again := w.sendAll(bags, flight{id: "a", text: "1"}, flight{id: "c", text: "3"}, flight{id: "b", text: "2"})
		if !slices.Equal(again.Duplicates, []uint32{0, 2}) || again.Partitions[0] != first.Partitions[0] || again.Offsets[0] != first.Offsets[0] ||
			again.Partitions[2] != first.Partitions[2] || again.Offsets[2] != first.Offsets[2] {
			t.Errorf("%+v again is %+v", first, again)
		}
		if other := w.sendAll(departed, flight{id: "a", text: "1"}); len(other.Duplicates) > 0 {
			t.Errorf("an id of another topic counted: %+v", other)
		}
		if n := w.stored(bags); n != 4 {
			t.Errorf("the topic has %d records, want 4", n)
		}
		third := w.sendAll(bags, flight{id: "c", text: "3"}, flight{id: "c", text: "3"})
		if !slices.Equal(third.Duplicates, []uint32{0, 1}) || third.Offsets[0] != again.Offsets[1] || third.Partitions[0] != again.Partitions[1] {
			t.Errorf("%+v again is %+v", again, third)
		}
	})
}

// TestAnIDIsOnceInItsBatch: the second record of it is a duplicate of the first, and those after it have their own places.
func TestAnIDIsOnceInItsBatch(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		p := w.sendAll(bags, flight{id: "a", text: "1"}, flight{id: "a", text: "1"}, flight{id: "b", text: "1"}, flight{text: "1"})
		if !slices.Equal(p.Duplicates, []uint32{1}) || !slices.Equal(p.Offsets, []int64{0, 0, 1, 2}) {
			t.Errorf("placed %+v", p)
		}
		repeats(t, w.sendAll(bags, flight{id: "b", text: "1"}), broker.Placement{Partitions: p.Partitions[2:3], Offsets: p.Offsets[2:3]}, 0)
	})
}

// TestAnIDOfAnotherMessageIsRefused: its batch is, and nothing of that is remembered.
func TestAnIDOfAnotherMessageIsRefused(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		w.sendAll(bags, flight{id: "a", text: "1"})
		refused := func(why string, p broker.Placement) {
			t.Helper()
			if p.Refused == nil || p.Refused.Reason != broker.DedupeConflict || p.Refused.Metadata["index"] != "1" || p.Refused.Metadata["id"] != "a" {
				t.Errorf("%s: %+v, %v", why, p, p.Refused)
			}
		}
		refused("another payload", w.sendAll(bags, flight{id: "b", text: "1"}, flight{id: "a", text: "2"}))
		refused("another payload in a batch", w.sendAll(departed, flight{id: "a", text: "2"}, flight{id: "a", text: "1"}))
		if p := w.sendAll(bags, flight{id: "b", text: "3"}); p.Refused != nil || len(p.Duplicates) > 0 {
			t.Errorf("the id of a record that was refused with its batch is taken: %+v", p)
		}
		if p := w.sendAll(departed, flight{id: "a", text: "1"}); p.Refused != nil || len(p.Duplicates) > 0 {
			t.Errorf("the id of a record that was refused with its batch is taken: %+v", p)
		}
		for i, key := range []string{"k", "k", "l"} {
			raw := broker.NewRecord([]byte(key), nil, nil, "e")
			placed, err := w.Publish(t.Context(), []broker.Batch{{Topic: bags, Records: engine.AppendRecord(nil, raw)}})
			if err != nil {
				t.Fatal(err)
			}
			if p := placed[0]; (p.Refused != nil) != (i == 2) || len(p.Duplicates) != i%2 {
				t.Errorf("key %q: %+v", key, p)
			}
		}
	})
}

// TestTheWindowEnds: an id counts until exactly then, by a clock that jumps do not move, over restarts, and what is over is deleted.
func TestTheWindowEnds(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		first := w.sendAll(bags, flight{id: "a", text: "1"})
		time.Sleep(window / 2)
		second := w.sendAll(bags, flight{id: "b", text: "2"})
		time.Sleep(window/2 - time.Millisecond)
		repeats(t, w.sendAll(bags, flight{id: "a", text: "1"}), first, 0)
		w.close()
		w.open()
		repeats(t, w.sendAll(bags, flight{id: "a", text: "1"}), first, 0)
		time.Sleep(time.Millisecond)
		if p := w.sendAll(bags, flight{id: "a", text: "other"}); p.Refused != nil || len(p.Duplicates) > 0 {
			t.Errorf("the id counts after its window: %+v", p)
		}
		repeats(t, w.sendAll(bags, flight{id: "b", text: "2"}), second, 0)
		time.Sleep(2 * window)
		if keys := w.keys("e"); len(keys) > 0 {
			t.Errorf("the store still has %q", keys)
		}
	})
}

// keys are those of the ledger that begin with prefix.
func (w *world) keys(prefix string) (keys []string) {
	w.t.Helper()
	for pair, err := range w.engine.View(engine.ShardID{Group: "__published"}).Scan(w.t.Context(), []byte(prefix), nil) {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, string(pair.Key))
	}
	return keys
}

// TestAClockSetBackForgetsNothing: from start to start the time goes on from the last id.
func TestAClockSetBackForgetsNothing(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		skewed := &skewedClock{}
		w.clock = skewed
		w.close()
		w.open()
		first := w.sendAll(bags, flight{id: "a", text: "1"})
		skewed.skew = -10 * time.Hour
		repeats(t, w.sendAll(bags, flight{id: "a", text: "1"}), first, 0)
		w.close()
		w.open()
		time.Sleep(window - time.Millisecond)
		repeats(t, w.sendAll(bags, flight{id: "a", text: "1"}), first, 0)
		time.Sleep(time.Millisecond)
		if p := w.sendAll(bags, flight{id: "a", text: "1"}); len(p.Duplicates) > 0 {
			t.Errorf("the id counts after its window: %+v", p)
		}
		skewed.skew = 10 * time.Hour // while it runs, that is nothing
		second := w.sendAll(bags, flight{id: "b", text: "1"})
		repeats(t, w.sendAll(bags, flight{id: "b", text: "1"}), second, 0)
	})
}

// skewedClock is a clock whose time of day may be set.
type skewedClock struct {
	wall
	skew time.Duration
}

func (c *skewedClock) Wall() time.Time { return time.Now().Add(c.skew) }

// TestAnotherWindowCountsFromThenOn: a longer one, a shorter one, none.
func TestAnotherWindowCountsFromThenOn(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		first := w.sendAll(bags, flight{id: "a", text: "1"})
		w.deduplicate(time.Hour)
		time.Sleep(59 * time.Minute)
		repeats(t, w.sendAll(bags, flight{id: "a", text: "1"}), first, 0)
		w.deduplicate(time.Minute)
		if p := w.sendAll(bags, flight{id: "a", text: "1"}); len(p.Duplicates) > 0 {
			t.Errorf("the id counts after its window: %+v", p)
		}
		w.deduplicate(0)
		if p := w.sendAll(bags, flight{id: "a", text: "1"}); len(p.Duplicates) > 0 {
			t.Errorf("the id counts in a topic without a window: %+v", p)
		}
	})
}

// TestOneIDByManyAtOnce: one is first, the others are its duplicates.
func TestOneIDByManyAtOnce(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		w.engine.stall.Store(int64(10 * time.Millisecond))
		const publishers, ids = 20, 15
		var (
			all  [publishers][ids]broker.Placement
			work sync.WaitGroup
		)
		for i := range publishers {
			work.Go(func() {
				for n := range ids {
					all[i][n] = w.sendAll(bags, flight{text: "filler"}, flight{id: fmt.Sprint(n), text: "1"})
				}
			})
		}
		work.Wait()
		for n := range ids {
			firsts := 0
			for i := range publishers {
				p := all[i][n]
				if len(p.Duplicates) == 0 {
					firsts++
				}
				if p.Refused != nil || p.Partitions[1] != all[0][n].Partitions[1] || p.Offsets[1] != all[0][n].Offsets[1] {
					t.Fatalf("id %d is at %+v and at %+v", n, p, all[0][n])
				}
			}
			if firsts != 1 {
				t.Errorf("id %d was stored %d times", n, firsts)
			}
		}
		if n := w.stored(bags); n != publishers*ids+ids {
			t.Errorf("the topic has %d records, want %d", n, publishers*ids+ids)
		}
	})
}

// TestAScheduledIDIsScheduledOnce: before and after it is due.
func TestAScheduledIDIsScheduledOnce(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		later := flight{id: "a", text: "1", delay: time.Minute}
		first := w.sendAll(bags, later, flight{text: "now"}, later, flight{id: "b", text: "2", delay: time.Minute})
		if !slices.Equal(first.Duplicates, []uint32{2}) || first.Offsets[0] != -1 || first.Offsets[1] != 0 || first.Offsets[2] != -1 || first.Offsets[3] != -1 {
			t.Fatalf("placed %+v", first)
		}
		for range 2 {
			again := w.sendAll(bags, flight{id: "b", text: "2"}, flight{id: "a", text: "1"})
			if !slices.Equal(again.Duplicates, []uint32{0, 1}) || again.Offsets[0] != -1 || again.Offsets[1] != -1 {
				t.Errorf("placed again %+v", again)
			}
			time.Sleep(2 * time.Minute)
		}
		if n := w.stored(bags); n != 3 {
			t.Errorf("the topic has %d records, want 3", n)
		}
	})
}

// TestAFailedCommitDecidesNothing: an id counts if and only if its record is there, whatever the publisher was told.
func TestAFailedCommitDecidesNothing(t *testing.T) {
	publish := func(w *world, f flight) (broker.Placement, error) {
		placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: bags, Records: w.set(bags, f)}})
		if err != nil {
			return broker.Placement{}, err
		}
		return placed[0], nil
	}
	for name, test := range map[string]struct {
		fail   func(w *world)
		mend   func(w *world)
		reason broker.Reason
		stored bool
	}{
		"not made": {fail: func(w *world) { w.engine.failCommits.Store(1) }, reason: broker.OutcomeUnknown},
		"made":     {fail: func(w *world) { w.engine.failAfter.Store(true) }, reason: broker.OutcomeUnknown, stored: true},
		"full":     {fail: func(w *world) { w.engine.full.Store(true) }, mend: func(w *world) { w.engine.full.Store(false) }, reason: broker.DiskFull},
		"fenced":   {fail: func(w *world) { w.engine.fenceLedger() }, reason: broker.PartitionAway},
	} {
		for _, delay := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprint(name, delay), func(t *testing.T) {
				inDedupeWorld(t, func(t *testing.T, w *world) {
					a := flight{id: "a", text: "1", delay: delay}
					before := w.sendAll(bags, flight{id: "z", text: "1"})
					time.Sleep(time.Second)
					test.fail(w)
					_, err := publish(w, a)
					if err == nil || broker.Refusal(err).Reason != test.reason {
						t.Fatalf("published with %v, want %s", err, test.reason)
					}
					if test.mend != nil {
						test.mend(w)
					}
					time.Sleep(time.Minute)
					p, err := publish(w, a)
					if err != nil || p.Refused != nil || (len(p.Duplicates) == 1) != test.stored {
						t.Errorf("published again: %+v, %v", p, err)
					}
					repeats(t, w.sendAll(bags, a), p, 0)
					repeats(t, w.sendAll(bags, flight{id: "z", text: "1"}), before, 0)
					time.Sleep(2 * time.Minute)
				})
			})
		}
	}
}

// fenceLedger claims the ledger for somebody else, for one commit.
func (f *faulty) fenceLedger() {
	f.epochs.Add(1000)
	if _, err := f.Engine.Fence(context.Background(), engine.ShardID{Group: "__published"}, engine.Epoch(f.epochs.Load())); err != nil {
		panic(err)
	}
}

// TestOneDamagedLogStopsNoOtherIDs: publications that share a commit with one that is refused are stored.
func TestOneDamagedLogStopsNoOtherIDs(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		first := w.sendAll(departed, flight{id: "x", text: "1"})
		id, err := w.TopicID(departed)
		if err != nil {
			t.Fatal(err)
		}
		w.engine.broken.Store(&engine.LogID{Topic: id, Partition: first.Partitions[0]})
		w.engine.stall.Store(int64(time.Second))
		var work sync.WaitGroup
		for i := range 3 { // the first makes the others wait and share a commit
			work.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				_, err := w.Publish(t.Context(), []broker.Batch{{Topic: departed, Records: w.set(departed, flight{id: fmt.Sprint("broken", i), text: "1"})}})
				if err == nil || broker.Refusal(err).Reason != broker.DataLoss {
					t.Errorf("the damaged log took a record: %v", err)
				}
			})
			work.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if p := w.sendAll(bags, flight{id: fmt.Sprint(i), text: "1"}, flight{id: fmt.Sprint(i), text: "1"}); p.Refused != nil || len(p.Duplicates) != 1 {
					t.Errorf("%+v", p)
				}
			})
		}
		work.Wait()
		w.engine.broken.Store(nil)
		if p := w.sendAll(departed, flight{id: "broken1", text: "1"}); len(p.Duplicates) > 0 {
			t.Errorf("%+v", p)
		}
		repeats(t, w.sendAll(departed, flight{id: "x", text: "1"}), first, 0)
		if n := w.stored(bags); n != 3 {
			t.Errorf("%d were stored, want 3", n)
		}
	})
}

// TestIDsAreBounded: what does not fit is refused, not forgotten, until a window is over.
func TestIDsAreBounded(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		w.close()
		w.limits.DedupeIDs = 5000
		w.open()
		id := 0
		fill := func(n int) broker.Placement {
			var flights []flight
			for range n {
				flights = append(flights, flight{id: fmt.Sprint(id), text: "1"})
				id++
			}
			return w.sendAll(bags, flights...)
		}
		for range 5 {
			if p := fill(1000); p.Refused != nil {
				t.Fatal(p.Refused)
			}
		}
		if p := fill(1); p.Refused == nil || p.Refused.Reason != broker.DedupeFull || p.Refused.Metadata["bound"] != "5000" {
			t.Fatalf("%+v, %v", p, p.Refused)
		}
		if p := w.sendAll(bags, flight{text: "none"}); p.Refused != nil {
			t.Fatalf("a record without an id was refused: %v", p.Refused)
		}
		time.Sleep(window + window/4)
		if p := fill(5000); p.Refused != nil {
			t.Fatalf("after the window: %v", p.Refused)
		}
	})
}

// TestIDsOfATransaction: they are known like others, to it and to those after it, and its answer is the same when it comes again.
func TestIDsOfATransaction(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		commit := func(n byte, flights ...flight) (broker.Committed, error) {
			return w.Commit(t.Context(), broker.Transaction{ID: bytes.Repeat([]byte{n}, 16), Publishes: []broker.Batch{
				{Topic: departed, Records: w.set(departed, flight{id: "a", text: "1"})},
				{Topic: bags, Records: w.set(bags, flights...)},
			}})
		}
		known := w.sendAll(bags, flight{text: "filler"}, flight{id: "k", text: "1"})
		first, err := commit(1, flight{text: "x"}, flight{id: "b", text: "1"}, flight{id: "k", text: "1"}, flight{id: "b", text: "1"}, flight{text: "y"})
		if err != nil {
			t.Fatal(err)
		}
		p := first.Placements[1]
		if !slices.Equal(p.Duplicates, []uint32{2, 3}) || p.Offsets[2] != known.Offsets[1] || p.Partitions[2] != known.Partitions[1] || p.Offsets[3] != p.Offsets[1] ||
			p.Offsets[4] != p.Offsets[1]+1 {
			t.Errorf("placed %+v", p)
		}
		w.close()
		w.open()
		again, err := commit(1, flight{text: "x"}, flight{id: "b", text: "1"}, flight{id: "k", text: "1"}, flight{id: "b", text: "1"}, flight{text: "y"})
		if err != nil || !again.Duplicate {
			t.Fatalf("%+v, %v", again, err)
		}
		repeats(t, again.Placements[1], p, 2, 3)
		repeats(t, w.sendAll(departed, flight{id: "a", text: "1"}), first.Placements[0], 0)
		if _, err := commit(2, flight{id: "c", text: "1"}, flight{id: "k", text: "2"}); err == nil || broker.Refusal(err).Reason != broker.DedupeConflict ||
			broker.Refusal(err).Field != "publishes[1].id" {
			t.Fatalf("a conflict was answered with %v", err)
		}
		if p := w.sendAll(bags, flight{id: "c", text: "1"}); len(p.Duplicates) > 0 {
			t.Errorf("the id of a transaction that was refused is taken: %+v", p)
		}
		other, err := commit(3, flight{id: "b", text: "1"})
		if err != nil {
			t.Fatal(err)
		}
		repeats(t, other.Placements[1], broker.Placement{Partitions: p.Partitions[1:2], Offsets: p.Offsets[1:2]}, 0)
	})
}

// TestACallThatEndsEarlyIsWhole: its record is there if and only if its id is.
func TestACallThatEndsEarlyIsWhole(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		w.engine.stall.Store(int64(time.Second))
		var work sync.WaitGroup
		for i := range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*300*time.Millisecond)
			records := w.set(bags, flight{id: fmt.Sprint(i), text: "1"})
			work.Go(func() {
				defer cancel()
				_, err := w.Publish(ctx, []broker.Batch{{Topic: bags, Records: records}})
				clear(records) // it is the caller's again
				if err != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		work.Wait()
		time.Sleep(time.Minute)
		n := w.stored(bags)
		for i := range 10 {
			if p := w.sendAll(bags, flight{id: fmt.Sprint(i), text: "1"}); p.Refused != nil {
				t.Fatal(p.Refused)
			} else if len(p.Duplicates) == 0 {
				n++
			}
		}
		if n != 10 || w.stored(bags) != 10 {
			t.Errorf("%d records of 10 ids", w.stored(bags))
		}
	})
}

// TestAnOutcomeThatCannotBeFoundOutIsUnknown: what is in the way of finding out, here a full disk, does not stand for it, and ids that may be durable are not given away.
func TestAnOutcomeThatCannotBeFoundOutIsUnknown(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		tx := broker.Transaction{ID: txID(1), Publishes: []broker.Batch{{Topic: bags, Records: w.set(bags, flight{id: "a", text: "1"})}}}
		w.mustCommit(broker.Transaction{ID: txID(2), Publishes: []broker.Batch{batchOf(departed, now("x"))}}) // so that the memory is owned
		w.engine.failAfter.Store(true)
		w.engine.fullFence.Store(true)
		if _, err := w.Commit(t.Context(), tx); reason(err) != broker.OutcomeUnknown {
			t.Errorf("it was answered with %v", err)
		}
		w.engine.fullFence.Store(false)
		time.Sleep(time.Minute)
		if p := w.sendAll(bags, flight{id: "a", text: "1"}); !slices.Equal(p.Duplicates, []uint32{0}) {
			t.Errorf("its message was stored again: %+v", p)
		}
		if c := w.mustCommit(tx); !c.Duplicate {
			t.Error("it was applied again")
		}
	})
}
