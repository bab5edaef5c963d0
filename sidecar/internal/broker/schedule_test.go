package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Field numbers of mq.broker.v1.Record.
const (
	idField       = 4
	priorityField = 5
	delayField    = 6
	deliverField  = 7
	ttlField      = 8
)

// timed is a message of the bags topic with numbers of its record. Its name is its payload.
type timed struct {
	name    string
	id      string
	key     string
	numbers map[protowire.Number]uint64
}

func (m timed) record() []byte {
	payload := append([]byte{0x0a, byte(len(m.name))}, m.name...)
	if m.key == "" {
		m.key = "O1"
	}
	raw := broker.NewRecord([]byte(m.key), payload, nil, m.id)
	for n, v := range m.numbers {
		raw = protowire.AppendVarint(protowire.AppendTag(raw, n, protowire.VarintType), v)
	}
	return raw
}

// after is a message that is delayed.
func after(name string, d time.Duration) timed {
	return timed{name: name, id: name, numbers: map[protowire.Number]uint64{delayField: uint64(d.Milliseconds())}}
}

// now is one that is not.
func now(name string) timed { return timed{name: name} }

// send publishes messages in one batch.
func (w *world) send(topicName string, ms ...timed) (broker.Placement, error) {
	w.t.Helper()
	var records []byte
	for _, m := range ms {
		records = engine.AppendRecord(records, m.record())
	}
	placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: topicName, Records: records}})
	if err != nil {
		return broker.Placement{}, err
	}
	if placed[0].Refused != nil {
		return placed[0], placed[0].Refused
	}
	return placed[0], nil
}

func (w *world) mustSend(topicName string, ms ...timed) broker.Placement {
	w.t.Helper()
	p, err := w.send(topicName, ms...)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// seen is a message in a topic.
type seen struct {
	name string
	at   time.Time // its append time
}

// in lists what is in a topic, by partition and offset.
func (w *world) in(topicName string) (all []seen) {
	w.t.Helper()
	err := w.Tail(w.t.Context(), broker.TailOptions{Topic: topicName, Earliest: true, StopAtEnd: true}, func(ms []broker.Tailed) bool {
		for _, m := range ms {
			name, _ := protowire.ConsumeBytes(m.Record.Payload[1:])
			all = append(all, seen{string(name), time.UnixMilli(m.AppendMS)})
		}
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func (w *world) names(topicName string) string {
	w.t.Helper()
	var names []string
	for _, m := range w.in(topicName) {
		names = append(names, m.name)
	}
	return strings.Join(names, " ")
}

func reason(err error) broker.Reason {
	if err == nil {
		return ""
	}
	return broker.Refusal(err).Reason
}

// TestAScheduledMessageComesWhenItIsDue: not before, at most a millisecond after, those of one key in the order of their instants, and of one instant in the
// order in which they came.
func TestAScheduledMessageComesWhenItIsDue(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		p := w.mustSend(bags, after("c", 3*time.Hour), after("a", time.Hour), after("b1", 2*time.Hour), after("b2", 2*time.Hour), after("b3", 2*time.Hour))
		for i, o := range p.Offsets {
			if o != -1 || p.Partitions[i] != w.partitionOf(bags, "O1") {
				t.Errorf("message %d rests at %d/%d", i, p.Partitions[i], o)
			}
		}
		for _, step := range []struct {
			until time.Duration
			want  string
		}{
			{time.Hour - time.Nanosecond, ""}, {time.Hour + time.Millisecond, "a"}, {2*time.Hour - time.Nanosecond, "a"}, {2*time.Hour + time.Millisecond, "a b1 b2 b3"},
			{3*time.Hour - time.Nanosecond, "a b1 b2 b3"}, {3*time.Hour + time.Millisecond, "a b1 b2 b3 c"},
		} {
			time.Sleep(time.Until(start.Add(step.until)))
			synctest.Wait()
			if got := w.names(bags); got != step.want {
				t.Errorf("after %v: %q, want %q", step.until, got, step.want)
			}
		}
		if at := w.in(bags)[0].at; at.Before(start.Add(time.Hour)) {
			t.Errorf("entered the topic at %v", at)
		}
	})
}

// TestOtherWorkWakesNothingEarly: the schedule has something to do just before a message is due.
func TestOtherWorkWakesNothingEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, after("a", time.Minute))
		time.Sleep(time.Minute - time.Nanosecond)
		w.mustSend(bags, after("b", time.Minute))
		synctest.Wait()
		if got := w.names(bags); got != "" {
			t.Fatalf("a nanosecond before its time came %q", got)
		}
		w.mustSend(bags, timed{name: "c", numbers: map[protowire.Number]uint64{deliverField: uint64(time.Now().Add(2 * time.Millisecond).UnixMilli())}})
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got := w.names(bags); got != "a" {
			t.Fatalf("a millisecond before the second is due came %q", got)
		}
	})
}

// TestAnInstantInThePastIsNow.
func TestAnInstantInThePastIsNow(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := timed{name: "past", numbers: map[protowire.Number]uint64{deliverField: uint64(time.Now().Add(-time.Second).UnixMilli())}}
		if p := w.mustSend(bags, m); p.Offsets[0] != 0 || w.names(bags) != "past" {
			t.Fatalf("placed at %v, topic %q", p, w.names(bags))
		}
	})
}

// TestAScheduleOfManyIsReleasedWhole: more than one commit releases.
func TestAScheduleOfManyIsReleasedWhole(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total = 10_000
		var ms []timed
		for i := range total {
			ms = append(ms, after(fmt.Sprint(i), time.Minute))
		}
		w.mustSend(bags, ms...)
		time.Sleep(time.Minute + time.Millisecond)
		synctest.Wait()
		all := w.in(bags)
		for i, m := range all {
			if m.name != fmt.Sprint(i) {
				t.Fatalf("at offset %d came %s", i, m.name)
			}
		}
		if len(all) != total {
			t.Fatalf("%d came", len(all))
		}
	})
}

// TestAnEarlierMessageGoesBeforeTheFront: an entry that is added after others were released, and is due before those that are left.
func TestAnEarlierMessageGoesBeforeTheFront(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, after("a", time.Second), after("z", time.Hour))
		time.Sleep(2 * time.Second)
		w.mustSend(bags, after("m", time.Second))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := w.names(bags); got != "a m" {
			t.Fatalf("came %q", got)
		}
		if l, _, err := w.Scheduled(t.Context(), bags, "", 10, ""); err != nil || len(l) != 1 || l[0].ID != "z" {
			t.Fatalf("left %v, %v", l, err)
		}
	})
}

// TestAMixedBatchIsStoredAllOrNone: the store fails before or after the commit.
func TestAMixedBatchIsStoredAllOrNone(t *testing.T) {
	for _, c := range []struct {
		name   string
		before bool
		want   string
	}{{"before", true, "x"}, {"after", false, "now later x"}} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				if c.before {
					w.engine.failCommits.Store(1)
				} else {
					w.engine.failAfter.Store(true)
				}
				if _, err := w.send(bags, now("now"), after("later", time.Second)); reason(err) != broker.OutcomeUnknown {
					t.Fatalf("publishing returned %v", err)
				}
				w.engine.failCommits.Store(-1 << 30)
				time.Sleep(5 * time.Second)
				w.mustSend(bags, after("x", time.Second))
				time.Sleep(5 * time.Second)
				if got := w.names(bags); got != c.want {
					t.Fatalf("came %q, want %q", got, c.want)
				}
			})
		})
	}
}

// TestAMixedBatchTellsItsPlaces: the records that enter the topic have their offsets, in both topics of one call.
func TestAMixedBatchTellsItsPlaces(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, now("0"))
		p := w.mustSend(bags, after("s", time.Minute), now("1"), after("s", time.Minute), now("2"))
		if !slices.Equal(p.Offsets, []int64{-1, 1, -1, 2}) {
			t.Fatalf("offsets %v", p.Offsets)
		}
		if got := w.names(bags); got != "0 1 2" {
			t.Fatalf("came %q", got)
		}
	})
}

// TestARefusedBatchSchedulesNothing: one record of a batch is at fault.
func TestARefusedBatchSchedulesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, err := w.send(bags, after("ok", time.Minute), after("bad", 4000*24*time.Hour))
		if reason(err) != broker.BadDelay {
			t.Fatal(err)
		}
		if l, _, err := w.Scheduled(t.Context(), bags, "", 10, ""); err != nil || len(l) != 0 {
			t.Fatalf("scheduled %v, %v", l, err)
		}
	})
}

// TestAFailedReleaseComesOnce: the commit of a release fails before or after it is made, or is under way for longer than its caller waits.
func TestAFailedReleaseComesOnce(t *testing.T) {
	for _, fails := range []string{"before", "after", "late"} {
		t.Run(fails, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				var want []string
				for i := range 20 {
					w.mustSend(bags, after(fmt.Sprint(i), time.Second))
					want = append(want, fmt.Sprint(i))
				}
				switch fails {
				case "before":
					w.engine.failCommits.Store(3)
				case "after":
					w.engine.failAfter.Store(true)
				case "late":
					w.engine.late.Store(true)
				}
				time.Sleep(20 * time.Second)
				w.engine.failCommits.Store(-1 << 30)
				if got := w.names(bags); got != strings.Join(want, " ") {
					t.Fatalf("came %q", got)
				}
				if l, _, err := w.Scheduled(t.Context(), bags, "", 10, ""); err != nil || len(l) != 0 {
					t.Fatalf("left %v, %v", l, err)
				}
			})
		})
	}
}

// TestTheScheduleOutlivesItsOwner: a restart, and a lease that ends, lose and double nothing.
func TestTheScheduleOutlivesItsOwner(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		w.mustSend(bags, after("a", time.Minute), after("b", 10*time.Minute), after("c", 20*time.Minute), after("c2", 20*time.Minute))
		time.Sleep(5 * time.Minute)
		w.close()
		time.Sleep(time.Minute)
		w.open()
		w.member.Expire()
		time.Sleep(time.Second)
		if owners, err := w.member.Owners(t.Context(), "__schedule", 0); err != nil || len(owners) != 1 {
			t.Fatalf("a second after its lease was over the schedule is owned by %v, %v", owners, err)
		}
		time.Sleep(time.Until(start.Add(10*time.Minute - time.Nanosecond)))
		if got := w.names(bags); got != "a" {
			t.Fatalf("at ten minutes came %q", got)
		}
		time.Sleep(time.Minute)
		if got := w.names(bags); got != "a b" {
			t.Fatalf("at eleven minutes came %q", got)
		}
		w.close()
		time.Sleep(time.Hour)
		w.open()
		time.Sleep(time.Second)
		w.mustSend(bags, after("d", time.Millisecond))
		time.Sleep(time.Second)
		if got := w.names(bags); got != "a b c c2 d" {
			t.Fatalf("in the end came %q", got)
		}
	})
}

// TestNewEntriesOfOneInstantKeepTheirOrderAcrossRestarts: the sequence number is not begun anew.
func TestNewEntriesOfOneInstantKeepTheirOrderAcrossRestarts(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		due := uint64(time.Now().Add(time.Hour).UnixMilli())
		for _, name := range []string{"a", "b", "c"} {
			w.mustSend(bags, timed{name: name, numbers: map[protowire.Number]uint64{deliverField: due}})
			w.close()
			w.open()
		}
		time.Sleep(time.Hour + time.Second)
		if got := w.names(bags); got != "a b c" {
			t.Fatalf("came %q", got)
		}
	})
}

// TestAFullDiskDelaysAndLosesNothing.
func TestAFullDiskDelaysAndLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, after("a", time.Second), after("b", time.Minute))
		w.engine.full.Store(true)
		if _, err := w.send(bags, now("x"), after("y", time.Second)); reason(err) != broker.DiskFull {
			t.Fatalf("publishing to a full disk: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if got := w.names(bags); got != "" {
			t.Fatalf("came %q", got)
		}
		w.engine.full.Store(false)
		time.Sleep(3 * time.Second)
		if got := w.names(bags); got != "a b" {
			t.Fatalf("when there is room came %q", got)
		}
	})
}

// TestADamagedLogDoesNotHoldTheOthers: its messages wait, in their order.
func TestADamagedLogDoesNotHoldTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		good := "O2"
		for w.partitionOf(bags, good) == w.partitionOf(bags, "O1") {
			good += "x"
		}
		other := after("good", time.Second)
		other.key = good
		id := w.logOf(bags)
		w.mustSend(bags, after("a", time.Second), after("b", 2*time.Second), other, after("c", 7*time.Minute))
		w.engine.broken.Store(&id)
		time.Sleep(time.Minute)
		if got := w.names(bags); got != "good" {
			t.Fatalf("while the log is damaged came %q", got)
		}
		// Publishers that share a commit with one to the damaged log are not refused with it.
		w.engine.stall.Store(int64(time.Second))
		results := make(chan error, 3)
		for _, m := range []timed{{name: "first", key: good}, {name: "bad"}, {name: "second", key: good}} {
			go func() {
				m.numbers = map[protowire.Number]uint64{delayField: 1000}
				fresh := now("n" + m.name)
				fresh.key = m.key
				_, err := w.send(bags, m, fresh)
				results <- err
			}()
		}
		var reasons []string
		for range 3 {
			reasons = append(reasons, string(reason(<-results)))
		}
		w.engine.stall.Store(0)
		slices.Sort(reasons)
		if !slices.Equal(reasons, []string{"", "", string(broker.DataLoss)}) {
			t.Fatalf("publishers were told %q", reasons)
		}
		time.Sleep(20 * time.Minute)
		w.engine.broken.Store(nil)
		time.Sleep(20 * time.Minute)
		var of []string
		for _, name := range strings.Fields(w.names(bags)) {
			if strings.Contains("a b c", name) {
				of = append(of, name)
			}
		}
		if got := strings.Join(of, " "); got != "a b c" {
			t.Fatalf("when it is mended came %q", got)
		}
	})
}

func (w *world) partitionOf(topicName, key string) uint32 {
	w.t.Helper()
	for _, top := range w.Topics(w.t.Context()) {
		if top.Declared.Name == topicName {
			return broker.PartitionOf([]byte(key), top.Declared.Partitions)
		}
	}
	w.t.Fatalf("no topic %q", topicName)
	return 0
}

// logOf finds the log of the messages of a topic that have no key of their own here, and leaves it empty.
func (w *world) logOf(topicName string) engine.LogID {
	w.t.Helper()
	w.mustSend(topicName, now("probe"))
	for id := engine.TopicID(1); id < 10; id++ {
		log := engine.LogID{Topic: id, Partition: w.partitionOf(topicName, "O1")}
		if b, err := w.engine.Bounds(w.t.Context(), log); err == nil && b.End > 0 {
			if err := w.engine.Trim(w.t.Context(), log, b.End); err != nil {
				w.t.Fatal(err)
			}
			return log
		}
	}
	w.t.Fatalf("topic %q has no log", topicName)
	return engine.LogID{}
}

// TestPublishingToAClosedSidecar: what is scheduled is refused as what is not.
func TestPublishingToAClosedSidecar(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.close()
		if _, err := w.send(bags, after("a", time.Second)); reason(err) != broker.Draining {
			t.Fatalf("publishing returned %v", err)
		}
	})
}

// TestACallerWhoGaveUpBeforeItsTurnIsNotServed: while another call is committed.
func TestACallerWhoGaveUpBeforeItsTurnIsNotServed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.engine.stall.Store(int64(time.Second))
		go func() { _, _ = w.send(bags, after("first", time.Minute)) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		records := engine.AppendRecord(nil, after("second", time.Minute).record())
		if _, err := w.Publish(ctx, []broker.Batch{{Topic: bags, Records: records}}); reason(err) != broker.DeadlineExceeded {
			t.Fatalf("publishing returned %v", err)
		}
		w.engine.stall.Store(0)
		time.Sleep(2 * time.Minute)
		if got := w.names(bags); got != "first" {
			t.Fatalf("came %q", got)
		}
	})
}

// TestPrioritiesHaveLogsOfTheirOwn: now and when due.
func TestPrioritiesHaveLogsOfTheirOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		log := w.logOf(bags)
		before, err := w.engine.Bounds(t.Context(), log)
		if err != nil {
			t.Fatal(err)
		}
		w.AlterTopic(bags, func(t *topic.Topic) { t.PriorityLevels = 3 })
		with := func(m timed, priority uint64) timed {
			if m.numbers == nil {
				m.numbers = map[protowire.Number]uint64{}
			}
			m.numbers[priorityField] = priority
			return m
		}
		p := w.mustSend(bags, with(now("a"), 3), now("b"), with(now("c"), 1), with(now("d"), 3), with(after("e", time.Second), 3), with(now("f"), 2))
		if want := []int64{0, int64(before.End), int64(before.End) + 1, 1, -1, 0}; !slices.Equal(p.Offsets, want) {
			t.Fatalf("offsets %v, want %v", p.Offsets, want)
		}
		for i, q := range p.Partitions {
			if q != log.Partition {
				t.Errorf("record %d is in partition %d", i, q)
			}
		}
		time.Sleep(2 * time.Second)
		for lane, want := range []engine.Offset{before.End + 2, 1, 3} {
			log.Lane = uint8(lane)
			if b, err := w.engine.Bounds(t.Context(), log); err != nil || b.End != want {
				t.Errorf("lane %d ends at %v, %v, want %d", lane, b, err, want)
			}
		}
		r, err := broker.ParseRecord(with(now("x"), 3).record())
		if id := broker.MessageID(r, 7, 2, 9); err != nil || id != "7.3-9" {
			t.Errorf("a message of priority 3 is known as %q", id)
		}
		for _, id := range []string{"7.3-9", "7-9"} {
			if _, err := w.send(bags, timed{name: "x", id: id}); reason(err) != broker.BadName {
				t.Errorf("an id %q is taken: %v", id, err)
			}
		}
	})
}
