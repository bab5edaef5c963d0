package broker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// producer numbers batches as an SDK does.
type producer struct {
	w *world
	broker.Producer
}

func (w *world) producer(n int) *producer {
	p := &producer{w: w}
	binary.BigEndian.PutUint64(p.ID[:], uint64(n))
	return p
}

func (p *producer) batch(number uint64, topic string, flights ...flight) broker.Batch {
	return broker.Batch{Topic: topic, Records: p.w.set(topic, flights...), Number: number}
}

// send publishes batches, which must not fail as a whole.
func (p *producer) send(batches ...broker.Batch) []broker.Placement {
	p.w.t.Helper()
	placed, err := p.w.PublishAs(p.w.t.Context(), p.Producer, batches)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return placed
}

// same checks that a batch got its first answer.
func same(t *testing.T, got, first broker.Placement) {
	t.Helper()
	if got.Refused != nil || !slices.Equal(got.Partitions, first.Partitions) || !slices.Equal(got.Offsets, first.Offsets) || !slices.Equal(got.Duplicates, first.Duplicates) {
		t.Errorf("got %+v, want %+v", got, first)
	}
}

// TestANumberedBatchIsStoredOnce: at once, after a restart, with others that are new, beside another producer's of the same number.
func TestANumberedBatchIsStoredOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.producer(1)
		one := p.batch(1, bags, flight{text: "1"}, flight{id: "later", text: "2", delay: time.Hour}, flight{text: "3"})
		two := p.batch(2, departed, flight{text: "1"}, flight{text: "2"}, flight{text: "1"})
		first := p.send(one, two)
		again := p.send(one, two)
		same(t, again[0], first[0])
		same(t, again[1], first[1])
		w.close()
		w.open()
		three := p.batch(3, bags, flight{text: "4"})
		mixed := p.send(three, two, one)
		same(t, mixed[1], first[1])
		same(t, mixed[2], first[0])
		if other := w.producer(2).send(one); other[0].Offsets[0] == first[0].Offsets[0] && other[0].Partitions[0] == first[0].Partitions[0] {
			t.Errorf("another producer's batch is at %+v", other)
		}
		w.close()
		w.open()
		same(t, p.send(three)[0], mixed[0])
		if n, m := w.stored(bags), w.stored(departed); n != 5 || m != 3 {
			t.Errorf("%d and %d records, want 5 and 3", n, m)
		}
		scheduled, _, err := w.Scheduled(t.Context(), bags, "later", 10, "")
		if err != nil || len(scheduled) != 2 {
			t.Errorf("%d scheduled, %v, want 2", len(scheduled), err)
		}
	})
}

// TestWhatWasAnsweredIsForgotten: and is refused if it comes late after all; memory and store do not grow.
func TestWhatWasAnsweredIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.producer(1)
		for n := uint64(1); n <= 3000; n++ {
			p.AnsweredBelow = n
			p.send(p.batch(n, bags, flight{text: "1"}))
		}
		late := p.send(p.batch(2999, bags, flight{text: "1"}))[0]
		if late.Refused == nil || late.Refused.Reason != broker.BadRequest {
			t.Errorf("%+v", late)
		}
		w.close()
		w.open()
		p.AnsweredBelow = 0 // of a frame that was sent before
		if late := p.send(p.batch(2999, bags, flight{text: "1"}))[0]; late.Refused == nil {
			t.Errorf("after a restart: %+v", late)
		}
		if n := w.stored(bags); n != 3000 {
			t.Errorf("%d records", n)
		}
		if keys := w.keys("p"); len(keys) != 1 {
			t.Errorf("keys %q", keys)
		}
	})
}

// TestUnansweredBatchesAreBounded: the next one is refused, until some are answered.
func TestUnansweredBatchesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.producer(1)
		for n := range uint64(broker.MaxUnanswered) {
			if got := p.send(p.batch(n+1, bags, flight{text: "1"}))[0]; got.Refused != nil {
				t.Fatal(n, got.Refused)
			}
		}
		next := p.batch(broker.MaxUnanswered+1, bags, flight{text: "1"})
		if got := p.send(next)[0]; got.Refused == nil || got.Refused.Field != "answered_below" {
			t.Errorf("%+v", got)
		}
		p.AnsweredBelow = 2
		if got := p.send(next)[0]; got.Refused != nil {
			t.Error(got.Refused)
		}
	})
}

// TestANumberHasOneContent: another one is refused, also within a call.
func TestANumberHasOneContent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.producer(1)
		got := p.send(p.batch(1, bags, flight{text: "1"}), p.batch(1, bags, flight{text: "2"}), p.batch(1, departed, flight{text: "1"}), p.batch(1, bags, flight{text: "1"}))
		if got[0].Refused != nil || got[1].Refused == nil || got[2].Refused == nil {
			t.Fatalf("%+v", got)
		}
		same(t, got[3], got[0])
		if got := p.send(p.batch(1, bags, flight{text: "2"}))[0]; got.Refused == nil || got.Refused.Field != "number" {
			t.Fatalf("%+v", got)
		}
	})
}

// TestABatchWaitsForItself: what is sent again while it is under way gets the one answer.
func TestABatchWaitsForItself(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.engine.stall.Store(int64(time.Second))
		p := w.producer(1)
		batch := p.batch(1, bags, flight{text: "1"}, flight{text: "2"})
		var (
			all  [10]broker.Placement
			work sync.WaitGroup
		)
		for i := range all {
			work.Go(func() {
				time.Sleep(time.Duration(i) * 150 * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if i%3 == 0 { // which gives up
					cancel()
				}
				placed, err := w.PublishAs(ctx, p.Producer, []broker.Batch{batch})
				if err == nil {
					all[i] = placed[0]
				} else if i%3 != 0 {
					t.Error(err)
				}
			})
		}
		work.Wait()
		for i := range all {
			if i%3 != 0 {
				same(t, all[i], all[1])
			}
		}
		if n := w.stored(bags); n != 2 {
			t.Errorf("%d records, want 2", n)
		}
	})
}

// TestABatchAfterAnUnknownOutcome: whatever became of it, it is there once in the end.
func TestABatchAfterAnUnknownOutcome(t *testing.T) {
	for name, fail := range map[string]func(w *world){
		"not made":  func(w *world) { w.engine.failCommits.Store(1) },
		"made":      func(w *world) { w.engine.failAfter.Store(true) },
		"made late": func(w *world) { w.engine.late.Store(true) },
		"fenced":    func(w *world) { w.engine.fenceLedger() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				p := w.producer(1)
				p.send(p.batch(1, bags, flight{text: "0"}))
				batch := p.batch(2, bags, flight{text: "1"}, flight{text: "later", delay: time.Hour}, flight{text: "2"})
				fail(w)
				if _, err := w.PublishAs(t.Context(), p.Producer, []broker.Batch{batch}); err == nil {
					t.Fatal("it did not fail")
				}
				time.Sleep(time.Minute) // the schedule is claimed anew
				first := p.send(batch)[0]
				if first.Refused != nil {
					t.Fatal(first.Refused)
				}
				time.Sleep(time.Minute)
				same(t, p.send(batch)[0], first)
				w.close()
				w.open()
				same(t, p.send(batch)[0], first)
				if n := w.stored(bags); n != 3 {
					t.Errorf("%d records, want 3", n)
				}
				time.Sleep(2 * time.Hour)
				if n := w.stored(bags); n != 4 {
					t.Errorf("%d records, want 4", n)
				}
			})
		})
	}
}

// TestNumbersAndIDsTogether: a batch that repeats ids is itself repeated as it was answered, also when the window of the ids is over.
func TestNumbersAndIDsTogether(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		p := w.producer(1)
		known := w.sendAll(bags, flight{id: "a", text: "1"}, flight{id: "s", text: "1", delay: time.Hour})
		batch := p.batch(1, bags, flight{id: "b", text: "1"}, flight{id: "a", text: "1"}, flight{id: "b", text: "1"}, flight{id: "s", text: "1"}, flight{text: "x"})
		copied := p.batch(2, bags, flight{id: "b", text: "1"}, flight{id: "a", text: "1"})
		var (
			got  [2]broker.Placement
			work sync.WaitGroup
		)
		w.engine.stall.Store(int64(time.Second))
		work.Go(func() { w.sendAll(departed, flight{id: "makes them wait", text: "1"}) })
		for i, b := range []broker.Batch{batch, copied} {
			work.Go(func() {
				time.Sleep(time.Duration(i+1) * 100 * time.Millisecond)
				got[i] = p.send(b)[0]
			})
		}
		work.Wait()
		if first := got[0]; !slices.Equal(first.Duplicates, []uint32{1, 2, 3}) || first.Offsets[2] != first.Offsets[0] || first.Offsets[1] != known.Offsets[0] ||
			first.Offsets[3] != -1 || !slices.Equal(got[1].Duplicates, []uint32{0, 1}) || got[1].Offsets[0] != first.Offsets[0] || got[1].Partitions[0] != first.Partitions[0] {
			t.Errorf("placed %+v", got)
		}
		for range 2 {
			time.Sleep(window + time.Second)
			w.close()
			w.open()
			same(t, p.send(batch)[0], got[0])
			same(t, p.send(copied)[0], got[1])
		}
		fresh := p.batch(3, bags, flight{id: "a", text: "1"})
		if got := p.send(fresh)[0]; len(got.Duplicates) > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestIdleProducersAreForgotten: not within the hour that is promised, and those that are heard of not at all.
func TestIdleProducersAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		idle, busy := w.producer(1), w.producer(2)
		batch := idle.batch(1, bags, flight{text: "1"})
		first := idle.send(batch)[0]
		for i := range uint64(59) {
			busy.send(busy.batch(i+1, bags, flight{text: "1"}))
			time.Sleep(time.Minute)
		}
		w.close()
		w.open()
		same(t, idle.send(batch)[0], first)
		for i := range uint64(60) {
			busy.send(busy.batch(i+100, bags, flight{text: "1"}))
			time.Sleep(time.Minute)
		}
		if keys := w.keys("p"); len(keys) != 1 {
			t.Errorf("%d producers are kept", len(keys))
		}
		if keys := w.keys("t"); len(keys) > 9 {
			t.Errorf("%d notes of one producer are kept", len(keys))
		}
		if got := idle.send(batch)[0]; got.Refused != nil || got.Offsets[0] == first.Offsets[0] && got.Partitions[0] == first.Partitions[0] {
			t.Errorf("it is remembered: %+v", got)
		}
	})
}

// TestManyProducers: those that are not in memory are found in the store.
func TestManyProducers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const many = 4200
		firsts := make([]broker.Placement, many)
		for i := range many {
			p := w.producer(i)
			firsts[i] = p.send(p.batch(1, bags, flight{text: fmt.Sprint(i % 7)}))[0]
		}
		for i := range many {
			p := w.producer(i)
			same(t, p.send(p.batch(1, bags, flight{text: fmt.Sprint(i % 7)}))[0], firsts[i])
		}
		if n := w.stored(bags); n != many {
			t.Errorf("%d records", n)
		}
	})
}

// TestMemoryOfAnAbandonedCallIsNotLentAgain: a call that its caller gave up while it was stored is stored as it was, whatever is published meanwhile.
func TestMemoryOfAnAbandonedCallIsNotLentAgain(t *testing.T) {
	inDedupeWorld(t, func(t *testing.T, w *world) {
		w.engine.stall.Store(int64(time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		records := w.set(bags, flight{id: "a", text: "abandoned"})
		if _, err := w.Publish(ctx, []broker.Batch{{Topic: bags, Records: records}}); reason(err) != broker.OutcomeUnknown {
			t.Fatal(err)
		}
		clear(records) // it is the caller's again
		w.sendAll(bags, flight{text: "another 1"}, flight{text: "another 2"})
		time.Sleep(time.Minute)
		stored := map[string]int{}
		err := w.Tail(t.Context(), broker.TailOptions{Topic: bags, Earliest: true, StopAtEnd: true}, func(all []broker.Tailed) bool {
			for _, m := range all {
				for _, text := range []string{"abandoned", "another 1", "another 2"} {
					if bytes.Contains(m.Record.Payload, []byte("O"+text)) {
						stored[text]++
					}
				}
			}
			return true
		})
		if want := map[string]int{"abandoned": 1, "another 1": 1, "another 2": 1}; err != nil || !maps.Equal(stored, want) {
			t.Errorf("stored are %v, %v", stored, err)
		}
	})
}
