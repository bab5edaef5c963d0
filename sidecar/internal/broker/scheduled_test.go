package broker_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestCancel: all entries of each id, and nothing else.
func TestCancel(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		id := func(id string, m timed) timed { m.id = id; return m }
		w.mustSend(bags, after("a", time.Minute), id("a", after("a2", 2*time.Minute)), after("ab", time.Minute), after("b", time.Minute),
			timed{name: "nameless", numbers: map[protowire.Number]uint64{delayField: 60_000}})
		w.mustSend(departed, id("a", after("elsewhere", time.Minute)))
		n, unknown, err := w.Cancel(t.Context(), bags, []string{"b", "a", "nobody", "a", "", "a\x00"})
		if n != 3 || !slices.Equal(unknown, []string{"nobody", "", "a\x00"}) || err != nil {
			t.Fatalf("cancelled %d, unknown %q, %v", n, unknown, err)
		}
		if _, _, err := w.Cancel(t.Context(), bags, []string{"a"}); reason(err) != broker.MessageUnknown {
			t.Fatalf("cancelled again: %v", err)
		}
		w.close() // nothing of them is left on the disk
		w.open()
		time.Sleep(time.Hour)
		if got := w.names(bags) + "|" + w.names(departed); got != "ab nameless|elsewhere" {
			t.Fatalf("came %q", got)
		}
		if _, _, err := w.Cancel(t.Context(), bags, []string{"ab"}); reason(err) != broker.MessageUnknown {
			t.Fatalf("cancelled what has come: %v", err)
		}
	})
}

func TestCancelBounds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			topic string
			ids   []string
			want  broker.Reason
		}{
			{bags, nil, broker.BadRequest}, {bags, make([]string, broker.MaxCancel+1), broker.BadRequest},
			{bags, make([]string, broker.MaxCancel), broker.MessageUnknown}, {"nowhere", []string{"a"}, broker.TopicUnknown},
		} {
			if _, _, err := w.Cancel(t.Context(), c.topic, c.ids); reason(err) != c.want {
				t.Errorf("%d ids of %s: %v, want %s", len(c.ids), c.topic, err, c.want)
			}
		}
	})
}

// TestCancelsAtOnceCountOnce: several in one commit, of more entries than one commit takes.
func TestCancelsAtOnceCountOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total = 9000
		ms := slices.Repeat([]timed{after("a", time.Minute)}, total)
		w.mustSend(bags, append(ms, after("b", time.Minute))...)
		w.engine.stall.Store(int64(time.Second)) // while this is committed, the others gather
		go func() { _, _, _ = w.Cancel(context.Background(), bags, []string{"b"}) }()
		synctest.Wait()
		counts := make(chan int)
		for range 5 {
			go func() {
				n, _, err := w.Cancel(context.Background(), bags, []string{"a"})
				if err != nil && reason(err) != broker.MessageUnknown {
					t.Error(err)
				}
				counts <- n
			}()
		}
		sum := 0
		for range 5 {
			sum += <-counts
		}
		w.engine.stall.Store(0)
		if l, _, err := w.Scheduled(t.Context(), bags, "", 10, ""); sum != total || err != nil || len(l) != 0 {
			t.Fatalf("cancelled %d, left %d, %v", sum, len(l), err)
		}
	})
}

// TestACancelAtTheLastMoment either takes the message back or does not: never both, never neither.
func TestACancelAtTheLastMoment(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		canceled := map[string]bool{}
		for i := range 60 {
			name := fmt.Sprint(i)
			w.mustSend(bags, after(name, 100*time.Millisecond))
			w.engine.stall.Store(int64(i % 3 * int(time.Millisecond)))
			time.Sleep(95*time.Millisecond + time.Duration(i)*200*time.Microsecond)
			_, _, err := w.Cancel(t.Context(), bags, []string{name})
			if err != nil && reason(err) != broker.MessageUnknown {
				t.Fatal(err)
			}
			canceled[name] = err == nil
			time.Sleep(time.Second)
		}
		came := map[string]bool{}
		for _, m := range w.in(bags) {
			came[m.name] = true
		}
		n := 0
		for name, was := range canceled {
			if was == came[name] {
				t.Errorf("message %s: cancelled %v, came %v", name, was, came[name])
			}
			if was {
				n++
			}
		}
		if n == 0 || n == len(canceled) {
			t.Fatalf("%d of %d were cancelled: no race was run", n, len(canceled))
		}
	})
}

// TestAFailedCancelHoldsWhatItSays: the commit fails before or after it is made.
func TestAFailedCancelHoldsWhatItSays(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.mustSend(bags, after("a", time.Hour), after("b", time.Hour))
		w.engine.failCommits.Store(1)
		if _, _, err := w.Cancel(t.Context(), bags, []string{"a"}); reason(err) != broker.OutcomeUnknown {
			t.Fatalf("cancelling returned %v", err)
		}
		w.engine.failCommits.Store(-1 << 30)
		time.Sleep(time.Second)
		w.engine.failAfter.Store(true)
		if _, _, err := w.Cancel(t.Context(), bags, []string{"b"}); reason(err) != broker.OutcomeUnknown {
			t.Fatalf("cancelling returned %v", err)
		}
		time.Sleep(2 * time.Hour)
		if got := w.names(bags); got != "a" {
			t.Fatalf("came %q", got)
		}
	})
}

// TestTheListGoesByDueTime: pages, ids, topics, and tokens that nobody made.
func TestTheListGoesByDueTime(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		var want []string
		for i := range 25 {
			w.mustSend(bags, after(fmt.Sprintf("m%02d", 24-i), time.Duration(25-i)*time.Minute))
			w.mustSend(departed, after("other", time.Duration(i)*time.Minute+time.Second))
			want = append(want, fmt.Sprintf("m%02d", i))
		}
		list := func(id string, limit int) (names []string, pages int) {
			t.Helper()
			for page := ""; pages == 0 || page != ""; pages++ {
				l, next, err := w.Scheduled(t.Context(), bags, id, limit, page)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range l {
					names = append(names, m.ID)
					if n := len(names); id == "" && !m.Due.Equal(start.Add(time.Duration(n)*time.Minute)) {
						t.Errorf("%s is due at %v", m.ID, m.Due)
					}
				}
				page = next
			}
			return names, pages
		}
		if names, pages := list("", 10); !slices.Equal(names, want) || pages != 3 {
			t.Errorf("in %d pages %q", pages, names)
		}
		if names, _ := list("m07", 10); !slices.Equal(names, []string{"m07"}) {
			t.Errorf("of one id %q", names)
		}
		w.mustSend(bags, after("m07", time.Hour), after("m07", time.Hour))
		if names, pages := list("m07", 2); len(names) != 3 || pages != 2 {
			t.Errorf("of one id with three messages %d pages of %q", pages, names)
		}
		time.Sleep(10 * time.Minute)
		if names, _ := list("m", 3); len(names) != 0 {
			t.Errorf("of an unknown id %q", names)
		}
		synctest.Wait()
		l, token, err := w.Scheduled(t.Context(), bags, "", 3, "")
		if err != nil || len(l) != 3 || l[0].ID != "m10" {
			t.Fatalf("after ten minutes %v, %v", l, err)
		}
		flipped := []byte(token)
		flipped[3] ^= 1
		for _, page := range []string{"x", string(flipped), token[:len(token)-4], strings.Repeat("A", 32), "0.0"} {
			if _, _, err := w.Scheduled(t.Context(), bags, "", 3, page); reason(err) != broker.BadPageToken {
				t.Errorf("page token %q: %v", page, err)
			}
		}
		if _, _, err := w.Scheduled(t.Context(), departed, "", 3, token); reason(err) != broker.BadPageToken {
			t.Errorf("the page token of another topic: %v", err)
		}
	})
}

// reminders declares a topic whose messages say when they are to come, how urgent they are, and what nobody may read.
const reminders = "reminders"

func (w *world) declareReminders() {
	w.t.Helper()
	options, err := os.ReadFile("../../../schemas/mq/v1/options.proto")
	if err != nil {
		w.t.Fatal(err)
	}
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{
			"mq/v1/options.proto": string(options),
			"r.proto": `syntax = "proto3"; package test.v1; import "mq/v1/options.proto"; import "google/protobuf/timestamp.proto";
message Reminder { option (mq.v1.topic) = {name: "reminders"};
  google.protobuf.Timestamp at = 1 [(mq.v1.field).deliver_at = true]; string secret = 2 [(mq.v1.field).sensitive = true]; int32 urgency = 3; string text = 4; }`,
		}),
	})}
	files, err := compiler.Compile(w.t.Context(), "r.proto")
	if err != nil {
		w.t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(files[0])
	if _, err := w.Declare(w.t.Context(), broker.Declaration{Descriptors: set, Topics: []string{"test.v1.Reminder"}}); err != nil {
		w.t.Fatal(err)
	}
	w.AlterTopic(reminders, func(t *topic.Topic) {
		t.PriorityLevels = 3
		t.Priority = t.Message.Fields().ByName("urgency")
	})
}

func (w *world) compose(text string, d broker.Draft) (broker.Record, error) {
	w.t.Helper()
	d.JSON = new(structpb.Struct)
	if err := protojson.Unmarshal([]byte(text), d.JSON); err != nil {
		w.t.Fatal(err)
	}
	raw, err := w.Compose(reminders, d)
	if err != nil {
		return broker.Record{}, err
	}
	r, err := broker.ParseRecord(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, nil
}

// TestADraftTakesItsIDFromItsMessage, unless it has its own.
func TestADraftTakesItsIDFromItsMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.declareReminders()
		w.AlterTopic(reminders, func(t *topic.Topic) { t.Dedupe.ID = t.Message.Fields().ByName("urgency") })
		for own, want := range map[string]string{"": "3", "own": "own"} {
			r, err := w.compose(`{"urgency":3}`, broker.Draft{ID: own, Delay: time.Hour})
			if err != nil || string(r.ID) != want {
				t.Errorf("id %q: got %q, %v", own, r.ID, err)
			}
		}
	})
}

// TestADraftTakesTimeAndPriorityFromItsMessage, unless it has its own.
func TestADraftTakesTimeAndPriorityFromItsMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.declareReminders()
		start := time.Now().Truncate(time.Millisecond)
		in := func(d time.Duration) string { return start.Add(d).UTC().Format(time.RFC3339Nano) }
		at := func(d time.Duration) int64 { return start.Add(d).UnixMilli() }
		for _, c := range []struct {
			name     string
			text     string
			draft    broker.Draft
			want     broker.Record
			randomID bool
			reason   broker.Reason
		}{
			{name: "nothing", text: `{}`},
			{name: "fields", text: `{"at":"` + in(time.Hour) + `","urgency":3}`, want: broker.Record{Priority: 3, DeliverAtMS: at(time.Hour)}, randomID: true},
			{name: "an id of its own", text: `{"at":"` + in(time.Hour) + `"}`, draft: broker.Draft{ID: "x"}, want: broker.Record{DeliverAtMS: at(time.Hour), ID: []byte("x")}},
			{name: "rounded up", text: `{"at":"` + in(time.Hour+time.Nanosecond) + `"}`, want: broker.Record{DeliverAtMS: at(time.Hour) + 1}, randomID: true},
			{name: "delay wins", text: `{"at":"` + in(time.Hour) + `"}`, draft: broker.Draft{Delay: time.Second + 1}, want: broker.Record{DelayMS: 1001}, randomID: true},
			{name: "instant wins", text: `{"at":"` + in(time.Hour) + `"}`, draft: broker.Draft{DeliverAt: start.Add(2 * time.Hour)},
				want: broker.Record{DeliverAtMS: at(2 * time.Hour)}, randomID: true},
			{name: "an instant in the past", text: `{"at":"` + in(time.Hour) + `"}`, draft: broker.Draft{DeliverAt: start.Add(-time.Hour)},
				want: broker.Record{DeliverAtMS: at(-time.Hour)}},
			{name: "priority wins", text: `{"urgency":3}`, draft: broker.Draft{Priority: 2}, want: broker.Record{Priority: 2}},
			{name: "ttl", text: `{}`, draft: broker.Draft{TTL: time.Millisecond + 1}, want: broker.Record{TTLMS: 2}},
			{name: "both", text: `{}`, draft: broker.Draft{Delay: 1, DeliverAt: start}, reason: broker.BadDelay},
			{name: "negative delay", text: `{}`, draft: broker.Draft{Delay: -1}, reason: broker.BadDelay},
			{name: "long delay", text: `{}`, draft: broker.Draft{Delay: broker.MaxAhead + 1}, reason: broker.BadDelay},
			{name: "far instant", text: `{}`, draft: broker.Draft{DeliverAt: start.AddDate(11, 0, 0)}, reason: broker.BadDelay},
			{name: "far field", text: `{"at":"9999-12-31T23:59:59Z"}`, reason: broker.BadDelay},
			{name: "before 1970", text: `{"at":"1900-01-01T00:00:00Z"}`, reason: broker.BadDelay},
			{name: "the zero time", text: `{"at":"0001-01-01T00:00:00Z"}`, reason: broker.BadDelay},
			{name: "a moment before 1970", text: `{"at":"1969-12-31T23:59:59.999999999Z"}`, reason: broker.BadDelay},
			{name: "an instant before 1970", text: `{}`, draft: broker.Draft{DeliverAt: time.Unix(0, -1)}, reason: broker.BadDelay},
			{name: "ten years", text: `{}`, draft: broker.Draft{DeliverAt: start.AddDate(10, 0, 0)}, want: broker.Record{DeliverAtMS: start.AddDate(10, 0, 0).UnixMilli()}, randomID: true},
			{name: "priority 4 of 3", text: `{}`, draft: broker.Draft{Priority: 4}, reason: broker.BadPriority},
			{name: "field of 4", text: `{"urgency":4}`, reason: broker.BadPriority},
			{name: "negative field", text: `{"urgency":-1}`, reason: broker.BadPriority},
			{name: "negative ttl", text: `{}`, draft: broker.Draft{TTL: -1}, reason: broker.BadTTL},
			{name: "short ttl", text: `{}`, draft: broker.Draft{TTL: time.Millisecond - 1}, reason: broker.BadTTL},
			{name: "long ttl", text: `{}`, draft: broker.Draft{TTL: broker.MaxTTL + 1}, reason: broker.BadTTL},
			{name: "no ttl", text: `{}`, draft: broker.Draft{HasTTL: true}, reason: broker.BadTTL},
			{name: "no priority", text: `{}`, draft: broker.Draft{HasPriority: true}, reason: broker.BadPriority},
		} {
			r, err := w.compose(c.text, c.draft)
			if reason(err) != c.reason {
				t.Errorf("%s: %v, want %q", c.name, err, c.reason)
			}
			if err != nil {
				continue
			}
			if random := len(r.ID) == 32 && c.draft.ID == ""; random != c.randomID || !random && string(r.ID) != string(c.want.ID) {
				t.Errorf("%s: id %q", c.name, r.ID)
			}
			if r.Priority != c.want.Priority || r.DelayMS != c.want.DelayMS || r.DeliverAtMS != c.want.DeliverAtMS || r.TTLMS != c.want.TTLMS {
				t.Errorf("%s: %+v", c.name, r)
			}
		}
	})
}

// TestNumbersOutOfBoundsAreRefused: in records as an SDK sends them.
func TestNumbersOutOfBoundsAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		ms := func(d time.Duration) uint64 { return uint64(d.Milliseconds()) }
		start := time.Now()
		for _, c := range []struct {
			name    string
			numbers map[protowire.Number]uint64
			want    broker.Reason
		}{
			{"delay of ten years", map[protowire.Number]uint64{delayField: ms(broker.MaxAhead)}, ""},
			{"longer delay", map[protowire.Number]uint64{delayField: ms(broker.MaxAhead) + 1}, broker.BadDelay},
			{"negative delay", map[protowire.Number]uint64{delayField: 1<<64 - 1}, broker.BadDelay},
			{"instant in ten years", map[protowire.Number]uint64{deliverField: uint64(start.Add(broker.MaxAhead).UnixMilli())}, ""},
			{"later instant", map[protowire.Number]uint64{deliverField: uint64(start.Add(broker.MaxAhead).UnixMilli()) + 2}, broker.BadDelay},
			{"negative instant", map[protowire.Number]uint64{deliverField: 1<<64 - 1}, broker.BadDelay},
			{"both", map[protowire.Number]uint64{delayField: 1, deliverField: 1}, broker.BadDelay},
			{"priority 1 of 1", map[protowire.Number]uint64{priorityField: 1}, ""},
			{"priority 2 of 1", map[protowire.Number]uint64{priorityField: 2}, broker.BadPriority},
			{"huge priority", map[protowire.Number]uint64{priorityField: 1<<32 + 1}, broker.BadPriority},
			{"ttl of ten years", map[protowire.Number]uint64{ttlField: ms(broker.MaxTTL)}, ""},
			{"longer ttl", map[protowire.Number]uint64{ttlField: ms(broker.MaxTTL) + 1}, broker.BadTTL},
			{"negative ttl", map[protowire.Number]uint64{ttlField: 1<<64 - 1}, broker.BadTTL},
		} {
			_, err := w.send(bags, timed{name: "x", numbers: c.numbers})
			if reason(err) != c.want {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			if err != nil && broker.Refusal(err).Metadata["bound"] == "" {
				t.Errorf("%s: the refusal names no bound", c.name)
			}
		}
	})
}

// TestRefusalsOfTimesSayWhatWasGiven: in a form that people write, however far out of bounds it is.
func TestRefusalsOfTimesSayWhatWasGiven(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const bound = "87672h0m0s (10 years)"
		for _, c := range []struct {
			numbers map[protowire.Number]uint64
			want    string
		}{
			{map[protowire.Number]uint64{delayField: 876_000 * 3_600_000}, "delay 876000h0m0s: must be 0s to " + bound},
			{map[protowire.Number]uint64{delayField: 1<<64 - 1}, "delay 18446744073709551.615s: must be 0s to " + bound},
			{map[protowire.Number]uint64{deliverField: uint64(time.Date(9999, 1, 1, 0, 0, 0, 5e6, time.UTC).UnixMilli())},
				"deliver_at 9999-01-01T00:00:00.005Z: must not lie before 1970 nor more than " + bound + " ahead"},
			{map[protowire.Number]uint64{deliverField: 1<<64 - 1000},
				"deliver_at 1969-12-31T23:59:59Z: must not lie before 1970 nor more than " + bound + " ahead"},
			{map[protowire.Number]uint64{deliverField: 1<<63 - 1},
				"deliver_at 9223372036854775807 ms since 1970: must not lie before 1970 nor more than " + bound + " ahead"},
			{map[protowire.Number]uint64{delayField: 1500, deliverField: 1000}, "delay 1.5s and deliver_at 1970-01-01T00:00:01Z: set one of them"},
			{map[protowire.Number]uint64{ttlField: 1<<64 - 1}, "ttl 18446744073709551.615s: must be 1ms to " + bound},
		} {
			if _, err := w.send(bags, timed{name: "x", numbers: c.numbers}); err == nil || err.Error() != c.want {
				t.Errorf("%v: %v, want %s", c.numbers, err, c.want)
			}
		}
		w.declareReminders()
		for _, c := range []struct {
			draft broker.Draft
			want  string
		}{
			{broker.Draft{Delay: broker.MaxAhead + 1}, "delay 87672h0m0.000000001s: must be 0s to " + bound},
			{broker.Draft{TTL: time.Microsecond}, "ttl 1µs: must be 1ms to " + bound},
			{broker.Draft{DeliverAt: time.Date(2050, 1, 1, 0, 0, 0, 1, time.UTC)},
				"deliver_at 2050-01-01T00:00:00.000000001Z: must not lie before 1970 nor more than " + bound + " ahead"},
		} {
			if _, err := w.compose(`{}`, c.draft); err == nil || err.Error() != c.want {
				t.Errorf("%+v: %v, want %s", c.draft, err, c.want)
			}
		}
	})
}

// TestTheListShowsNoSecrets.
func TestTheListShowsNoSecrets(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.declareReminders()
		w.AlterTopic(reminders, func(t *topic.Topic) { t.PriorityLevels = 1; t.Priority = nil })
		s := new(structpb.Struct)
		if err := protojson.Unmarshal([]byte(`{"text":"pay","secret":"1234"}`), s); err != nil {
			t.Fatal(err)
		}
		raw, err := w.Compose(reminders, broker.Draft{JSON: s, Delay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Publish(t.Context(), []broker.Batch{{Topic: reminders, Records: protowire.AppendBytes([]byte{0x0a}, raw)}}); err != nil {
			t.Fatal(err)
		}
		l, _, err := w.Scheduled(t.Context(), reminders, "", 10, "")
		if err != nil || len(l) != 1 || l[0].JSON.GetFields()["text"].GetStringValue() != "pay" || len(l[0].ID) != 32 {
			t.Fatalf("listed %v, %v", l, err)
		}
		if l[0].Record.Payload != nil || strings.Contains(l[0].JSON.String(), "1234") {
			t.Fatalf("the list shows %v", l[0])
		}
	})
}
