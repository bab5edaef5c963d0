package mqtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/typedmq/typedmq/examples/flights/gen/air/baggage/v1/baggagev1mq"
	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/examples/flights/gen/air/rebooking/v1/rebookingv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/sidecar/mqtest"
)

// everywhere runs a test in real time and in a bubble of fake time.
func everywhere(t *testing.T, test func(t *testing.T)) {
	t.Run("real time", func(t *testing.T) {
		t.Parallel()
		test(t)
	})
	t.Run("bubble", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, test)
	})
}

// baggage handles bags with a function and remembers what it was called with.
type baggage struct {
	mu     sync.Mutex
	seen   []string
	handle func(context.Context, *flightsv1.BagsChecked) error
}

func (b *baggage) OnBagsChecked(ctx context.Context, m *flightsv1.BagsChecked) error {
	b.mu.Lock()
	b.seen = append(b.seen, m.GetFlightId())
	handle := b.handle
	b.mu.Unlock()
	if handle == nil {
		return nil
	}
	return handle(ctx, m)
}

func (b *baggage) calls() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.seen, " ")
}

func (b *baggage) sorted() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(slices.Sorted(slices.Values(b.seen)), " ")
}

func newBaggage(s *mqtest.Sidecar, handle func(context.Context, *flightsv1.BagsChecked) error) *baggage {
	b := &baggage{handle: handle}
	baggagev1mq.RegisterBaggageConsumer(s.Worker(), b)
	return b
}

func check(t *testing.T, s *mqtest.Sidecar, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := flightsv1mq.NewFlightEventsPublisher(s.Client()).CheckedIn(t.Context(), bags(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func bags(id string) *flightsv1.BagsChecked { return &flightsv1.BagsChecked{FlightId: id} }

func TestSettleReturnsWhenAllIsHandled(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		b := newBaggage(s, nil)
		var want []string
		for i := range 100 {
			want = append(want, fmt.Sprintf("F%03d", i))
		}
		check(t, s, want...)
		s.Settle(t)
		if got := b.sorted(); got != strings.Join(want, " ") {
			t.Errorf("handled %s", got)
		}
		s.Settle(t) // again, with nothing to do
		mqtest.AssertNoDeadLetters(t, s)
	})
}

// chain publishes one message less for each that it handles, in another topic.
type chain struct {
	flights flightsv1mq.FlightEventsPublisher
	mu      sync.Mutex
	n       int
}

func (c *chain) OnDeparted(ctx context.Context, m *flightsv1.FlightDeparted) error {
	_, err := c.flights.CheckedIn(ctx, bags(m.GetFlightId()))
	return err
}

func (c *chain) OnBagsChecked(ctx context.Context, m *flightsv1.BagsChecked) error {
	c.mu.Lock()
	c.n++
	n := c.n
	c.mu.Unlock()
	if n == 20 {
		return nil
	}
	_, err := c.flights.Departed(ctx, &flightsv1.FlightDeparted{FlightId: m.GetFlightId(), Origin: fmt.Sprint(n), DelayMinutes: 90})
	return err
}

func TestSettleWaitsForWhatHandlersPublish(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		c := &chain{flights: flightsv1mq.NewFlightEventsPublisher(s.Client())}
		w := s.Worker()
		rebookingv1mq.RegisterRebookingConsumer(w, c)
		baggagev1mq.RegisterBaggageConsumer(w, c)
		check(t, s, "F1")
		s.Settle(t)
		if got := len(mqtest.Published[*flightsv1.BagsChecked](s)); got != 20 {
			t.Errorf("%d links of the chain, should be 20", got)
		}
		if got := len(mqtest.Published[*flightsv1.FlightDeparted](s)); got != 19 {
			t.Errorf("%d departures, should be 19", got)
		}
	})
}

func TestRetriesComeInTheirTime(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		start := s.Now()
		var at []time.Duration
		b := newBaggage(s, func(context.Context, *flightsv1.BagsChecked) error {
			at = append(at, s.Now().Sub(start)) // one at a time: it is one message
			return errors.New("the belt is broken")
		})
		check(t, s, "F1")
		s.Settle(t)
		if got := b.calls(); got != "F1" {
			t.Fatalf("before the clock moved, handled %q", got)
		}
		s.Advance(24 * time.Hour)
		for i := 1; i < len(at); i++ {
			if at[i] <= at[i-1] {
				t.Errorf("attempts at %v: not each in its time", at)
			}
		}
		dead := mqtest.DeadLetters[*flightsv1.BagsChecked](s, "baggage")
		if len(dead) != 1 || dead[0].LastError != "the belt is broken" || int(dead[0].Attempts) != len(at) || dead[0].Reason != "attempts_spent" {
			t.Fatalf("dead letters %+v after %d attempts", dead, len(at))
		}
		mqtest.AssertDeadLetters(t, s, "baggage", bags("F1"))

		b.mu.Lock()
		b.handle = nil
		b.mu.Unlock()
		if n := mqtest.Redrive[*flightsv1.BagsChecked](s, "baggage", dead[0].ID); n != 1 {
			t.Errorf("redrove %d", n)
		}
		s.Settle(t)
		mqtest.AssertNoDeadLetters(t, s)
		if n := strings.Count(b.calls(), "F1"); n != len(at)+1 {
			t.Errorf("handled %d times, should be %d", n, len(at)+1)
		}
	})
}

func TestADelayedMessageComesWhenTheClockSaysSo(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		b := newBaggage(s, nil)
		publisher := flightsv1mq.NewFlightEventsPublisher(s.Client())
		if _, err := publisher.CheckedIn(t.Context(), bags("late"), mq.WithDelay(48*time.Hour)); err != nil {
			t.Fatal(err)
		}
		s.Advance(48*time.Hour - time.Second)
		if got := b.calls(); got != "" {
			t.Fatalf("a second early came %q", got)
		}
		mqtest.AssertPublished[*flightsv1.BagsChecked](t, s)
		s.Advance(time.Second)
		if got := b.calls(); got != "late" {
			t.Errorf("in its time came %q", got)
		}
		mqtest.AssertPublished(t, s, bags("late"))
	})
}

func TestWhatNobodyConsumesKeepsNobodyWaiting(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		check(t, s, "F1", "F2")
		s.Settle(t)
		mqtest.AssertPublished(t, s, bags("F1"), bags("F2"))
	})
}

func TestDuplicateEverything(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t, mqtest.DuplicateEverything())
		b := newBaggage(s, func(_ context.Context, m *flightsv1.BagsChecked) error {
			if m.GetFlightId() == "bad" {
				return mq.Permanent(errors.New("no such flight"))
			}
			return nil
		})
		check(t, s, "F1", "F2", "bad")
		s.Settle(t)
		if got := b.sorted(); got != "F1 F1 F2 F2 bad bad" {
			t.Errorf("handled %s", got)
		}
		mqtest.AssertDeadLetters(t, s, "baggage", bags("bad"))
	})
}

func TestCrashes(t *testing.T) {
	for _, c := range []struct {
		step      mqtest.Step
		name      string
		published int
		handled   int
	}{
		{mqtest.BeforePublish, "before publish", 1, 1},
		{mqtest.AfterPublish, "after publish", 1, 1},
		{mqtest.BeforeDelivery, "before delivery", 1, 1},
		{mqtest.BeforeSettle, "before settle", 1, 2},
		{mqtest.AfterSettle, "after settle", 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T) {
				s := mqtest.New(t)
				var attempts []uint32
				b := newBaggage(s, func(ctx context.Context, _ *flightsv1.BagsChecked) error {
					attempts = append(attempts, mq.MetaFrom(ctx).Attempt)
					return nil
				})
				s.Settle(t)
				s.CrashAt(c.step)
				check(t, s, "F1")
				s.Settle(t)
				if got := len(mqtest.Published[*flightsv1.BagsChecked](s)); got != c.published {
					t.Errorf("stored %d times, should be %d", got, c.published)
				}
				got := strings.Count(b.calls(), "F1")
				if c.step == mqtest.AfterPublish && got == c.handled+1 {
					got-- // a handler that was faster than the crash: its outcome was lost
				}
				if got != c.handled {
					t.Errorf("handled %d times, should be %d", got, c.handled)
				}
				for _, n := range attempts {
					if n != 1 {
						t.Errorf("attempts %v: a crash has used one", attempts)
					}
				}
			})
		})
	}
}

func TestWhatIsStoredSurvivesACrash(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		check(t, s, "F1")
		s.Crash()
		b := newBaggage(s, nil)
		check(t, s, "F2")
		s.Settle(t)
		if got := b.sorted(); got != "F1 F2" {
			t.Errorf("handled %s", got)
		}
		s.Crash()
		check(t, s, "F3")
		s.Settle(t)
		if got := b.sorted(); got != "F1 F2 F3" {
			t.Errorf("after another crash, handled %s", got)
		}
	})
}

// TestConsumersOutliveTheirLeases: the clock moves by years between two heartbeats, and no message comes twice for it.
func TestConsumersOutliveTheirLeases(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		b := &baggage{}
		w := s.Worker()
		baggagev1mq.RegisterBaggageConsumer(w, b)
		s.Settle(t)
		s.Advance(30 * 24 * time.Hour)
		check(t, s, "F1")
		s.Settle(t)
		if got := b.calls(); got != "F1" || w.Counts().Reconnects != 0 {
			t.Errorf("handled %q, reconnected %d times", got, w.Counts().Reconnects)
		}
	})
}

func TestAWorkerOfTheTestsOwn(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		b := &baggage{}
		w := mq.NewWorker(s.Client())
		baggagev1mq.RegisterBaggageConsumer(w, b)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		s.AwaitConsumers(t, "baggage")
		check(t, s, "F1")
		s.Settle(t)
		if got := b.calls(); got != "F1" {
			t.Errorf("handled %q", got)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// fakeT is a test that may fail.
type fakeT struct {
	testing.TB
	failed []string
}

func (f *fakeT) Helper()      {}
func (f *fakeT) Failed() bool { return false } // so that all that is wrong is said
func (f *fakeT) Errorf(format string, args ...any) {
	f.failed = append(f.failed, fmt.Sprintf(format, args...))
}
func (f *fakeT) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	panic(f)
}

func (f *fakeT) run(do func()) {
	defer func() {
		if p := recover(); p != nil && p != f {
			panic(p)
		}
	}()
	do()
}

// TestSettleTellsWhatIsNotDone: in a bubble, where its patience costs nothing.
func TestSettleTellsWhatIsNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mqtest.New(t)
		gate := make(chan struct{})
		newBaggage(s, func(context.Context, *flightsv1.BagsChecked) error { <-gate; return nil })
		check(t, s, "F1")
		f := &fakeT{TB: t}
		f.run(func() { s.Settle(f) })
		if len(f.failed) != 1 || !strings.Contains(f.failed[0], `group "baggage" in topic "bags.checked": 1 messages of partition`) {
			t.Errorf("Settle says %q", f.failed)
		}
		close(gate)
		s.Settle(t)
	})
}

func TestAssertionsFail(t *testing.T) {
	t.Parallel()
	s := mqtest.New(t)
	newBaggage(s, func(context.Context, *flightsv1.BagsChecked) error { return mq.Permanent(errors.New("no")) })
	check(t, s, "F1")
	s.Settle(t)
	f := &fakeT{TB: t}
	mqtest.AssertPublished(f, s, bags("F2"))
	mqtest.AssertDeadLetters[*flightsv1.BagsChecked](f, s, "baggage")
	mqtest.AssertNoDeadLetters(f, s)
	want := []string{`published to "bags.checked"`, `dead letters of group "baggage"`, `gave up on message`}
	for i, text := range want {
		if len(f.failed) != len(want) || !strings.Contains(f.failed[i], text) {
			t.Fatalf("failed with %q, should be %q", f.failed, want)
		}
	}
}

// TestACrashThatDoesNotHappenFails: the test believes to have tried something.
func TestACrashThatDoesNotHappenFails(t *testing.T) {
	t.Parallel()
	f := &fakeT{TB: t}
	run := newSubtest(f)
	s := mqtest.New(run)
	newBaggage(s, nil)
	check(t, s, "F1")
	s.CrashAt(mqtest.BeforePublish)
	check(t, s, "F2")
	s.CrashAt(mqtest.AfterSettle)
	s.CrashAt(mqtest.AfterPublish) // a message has come to the step before only if it settled
	run.finish()
	want := []string{"the crash after settle did not happen", "the crash after publish did not happen"}
	if len(f.failed) != len(want) || !strings.Contains(f.failed[0], want[0]) || !strings.Contains(f.failed[1], want[1]) {
		t.Errorf("failed with %q, should be %q", f.failed, want)
	}
}

// TestWhatIsNotThereYet: before anybody declared a topic, nothing was published and nothing is dead. A name that is wrong is no such case.
func TestWhatIsNotThereYet(t *testing.T) {
	t.Parallel()
	s := mqtest.New(t)
	mqtest.AssertPublished[*flightsv1.BagsChecked](t, s)
	mqtest.AssertDeadLetters[*flightsv1.BagsChecked](t, s, "baggage")
	if n := mqtest.Redrive[*flightsv1.BagsChecked](s, "baggage"); n != 0 {
		t.Errorf("redrove %d", n)
	}
	check(t, s, "F1") // declares the topic
	newBaggage(s, nil)
	mqtest.AssertDeadLetters[*flightsv1.BagsChecked](t, s, "baggage") // its worker does not run yet
	s.Settle(t)
	mqtest.AssertDeadLetters[*flightsv1.BagsChecked](t, s, "baggage")

	for what, do := range map[string]func(*mqtest.Sidecar, *fakeT){
		`group "bagage" does not consume topic "bags.checked"; those that do: ["baggage"]`: func(s *mqtest.Sidecar, f *fakeT) {
			newBaggage(s, nil)
			check(t, s, "F1")
			s.Settle(t)
			mqtest.AssertDeadLetters[*flightsv1.BagsChecked](f, s, "bagage")
		},
		"message google.protobuf.Empty is no topic: it has no (mq.v1.topic)": func(s *mqtest.Sidecar, f *fakeT) {
			mqtest.AssertPublished[*emptypb.Empty](f, s)
		},
		"no dead letter has the ids": func(s *mqtest.Sidecar, _ *fakeT) { mqtest.Redrive[*flightsv1.BagsChecked](s, "baggage", "0-0") },
	} {
		f := &fakeT{TB: t}
		run := newSubtest(f)
		s := mqtest.New(run)
		f.run(func() { do(s, f) })
		run.finish()
		if len(f.failed) != 1 || !strings.Contains(f.failed[0], what) {
			t.Errorf("failed with %q, should be %q", f.failed, what)
		}
	}
}

func BenchmarkTest(b *testing.B) {
	for b.Loop() {
		run := newSubtest(b)
		s := mqtest.New(run)
		c := &baggage{}
		baggagev1mq.RegisterBaggageConsumer(s.Worker(), c)
		flights := flightsv1mq.NewFlightEventsPublisher(s.Client())
		for range 10 {
			if _, err := flights.CheckedIn(b.Context(), bags("F1")); err != nil {
				b.Fatal(err)
			}
		}
		s.Settle(b)
		if len(c.seen) != 10 {
			b.Fatalf("handled %d", len(c.seen))
		}
		run.finish()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/test")
}

// subtest collects the cleanup of one round of a benchmark.
type subtest struct {
	testing.TB
	cleanup []func()
}

func newSubtest(tb testing.TB) *subtest { return &subtest{TB: tb} }

func (s *subtest) Cleanup(f func()) { s.cleanup = append(s.cleanup, f) }

func (s *subtest) finish() {
	for _, f := range slices.Backward(s.cleanup) {
		f()
	}
}
