package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	rebookingv1 "github.com/typedmq/typedmq/examples/flights/gen/air/rebooking/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/rebooking/v1/rebookingv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
	"github.com/typedmq/typedmq/sidecar/mqtest"
)

// consumer implements the generated interface with a function.
type consumer func(ctx context.Context, msg *flightsv1.FlightDeparted) error

func (c consumer) OnDeparted(ctx context.Context, msg *flightsv1.FlightDeparted) error {
	return c(ctx, msg)
}

// seats is what handlers change: a row for each time that a flight had an effect.
func (db *database) seats(t testing.TB) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE seats (flight TEXT NOT NULL)"); err != nil {
		t.Fatal(err)
	}
}

func book(ctx context.Context, flight string) error {
	_, err := mqsql.TxFrom(ctx).ExecContext(ctx, "INSERT INTO seats VALUES ('"+flight+"')")
	return err
}

// late is a flight that the group rebooking wants, which is one that is late.
func late(flight string) *flightsv1.FlightDeparted {
	return &flightsv1.FlightDeparted{FlightId: flight, Origin: flight, Destination: "LAX", DelayMinutes: 90}
}

func departed(t testing.TB, s *mqtest.Sidecar, flights ...string) {
	t.Helper()
	pub := flightsv1mq.NewFlightEventsPublisher(s.Client())
	for _, f := range flights {
		if _, err := pub.Departed(t.Context(), late(f)); err != nil {
			t.Fatal(err)
		}
	}
}

// Every message comes twice, and the sidecar crashes: each has its effect once.
func TestEachMessageHasItsEffectOnce(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.seats(t)
		s := mqtest.New(t, mqtest.DuplicateEverything())
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		var calls atomic.Int64
		rebookingv1mq.RegisterRebookingConsumer(s.Worker(mq.WithHandlerInterceptors(inbox.Interceptor())),
			consumer(func(ctx context.Context, msg *flightsv1.FlightDeparted) error {
				calls.Add(1)
				return book(ctx, msg.GetFlightId())
			}))
		for n := range 30 {
			departed(t, s, fmt.Sprint("F", n))
			if n == 15 {
				s.Settle(t)
			}
		}
		s.Settle(t)
		if n, d := db.number(t, "SELECT count(*) FROM seats"), db.number(t, "SELECT count(DISTINCT flight) FROM seats"); n != 30 || d != 30 || calls.Load() != 30 {
			t.Errorf("%d effects of %d messages, %d calls", n, d, calls.Load())
		}
		if c := inbox.Counts(); c.Handled != 30 || c.Skipped != 30 || c.Failed != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// What the handler's return means is kept: an error, a panic and the rest have no effect and come again as ever; Skip has one.
func TestWhatFailsHasNoEffect(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.seats(t)
		s := mqtest.New(t)
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		var mu sync.Mutex
		calls := map[string]int{}
		rebookingv1mq.RegisterRebookingConsumer(s.Worker(mq.WithHandlerInterceptors(inbox.Interceptor())),
			consumer(func(ctx context.Context, msg *flightsv1.FlightDeparted) error {
				f := msg.GetFlightId()
				mu.Lock()
				calls[f]++
				n := calls[f]
				mu.Unlock()
				if err := book(ctx, f); err != nil {
					return err
				}
				switch {
				case f == "error" && n == 1:
					return errors.New("once")
				case f == "panic" && n == 1:
					panic("once")
				case f == "snooze" && n == 1:
					return mq.Snooze(time.Minute)
				case f == "permanent":
					return mq.Permanent(errors.New("always"))
				case f == "skip":
					return mq.Skip("uninteresting")
				}
				return nil
			}))
		departed(t, s, "error", "panic", "snooze", "permanent", "skip", "fine")
		s.Settle(t)
		s.Advance(time.Hour)
		for f, want := range map[string][2]int64{"error": {2, 1}, "panic": {2, 1}, "snooze": {2, 1}, "permanent": {1, 0}, "skip": {1, 1}, "fine": {1, 1}} {
			got := [2]int64{int64(calls[f]), db.number(t, "SELECT count(*) FROM seats WHERE flight = '"+f+"'")}
			if got != want {
				t.Errorf("%s: calls and effects %v, not %v", f, got, want)
			}
		}
		if c := inbox.Counts(); c.Handled != 5 || c.Failed != 4 || c.Skipped != 0 {
			t.Errorf("%+v", c)
		}
		if dead := mqtest.DeadLetters[*flightsv1.FlightDeparted](s, "rebooking"); len(dead) != 1 {
			t.Errorf("%d dead letters", len(dead))
		}
	})
}

func TestABatchIsOneTransaction(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.seats(t)
		s := mqtest.New(t, mqtest.DuplicateEverything())
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		failed := map[string]bool{}
		largest := 0
		mq.HandleBatch(s.Worker(mq.WithConcurrency(1), mq.WithHandlerInterceptors(inbox.Interceptor())), mq.Subscription{
			Group: "rebooking", Topic: "flights.departed", RPC: "air.rebooking.v1.Rebooking/OnDeparted", File: rebookingv1.File_air_rebooking_v1_rebooking_proto,
		}, func(ctx context.Context, b *mq.Batch[*flightsv1.FlightDeparted]) error {
			if largest == 0 {
				time.Sleep(50 * time.Millisecond) // so that the next batch is a large one
			}
			first := largest == 0
			largest = max(largest, b.Len())
			for i, msg := range b.Messages() {
				if f := msg.GetFlightId(); f == "F7" && !failed[f] {
					failed[f] = true
					b.Fail(i, errors.New("once"))
				} else if err := book(ctx, f); err != nil {
					return err
				}
			}
			if first && b.Len() < 10 { // those of a large one would come again one by one
				return errors.New("the whole batch")
			}
			return nil
		})
		pub := flightsv1mq.NewFlightEventsPublisher(s.Client())
		for n := range 20 {
			f := fmt.Sprint("F", n)
			if n%5 == 1 { // handled before, beside others that were not
				if _, err := db.ExecContext(t.Context(), "INSERT INTO mq_inbox VALUES ('rebooking', 'flights.departed', 'id-"+f+"', 0)"); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := pub.Departed(t.Context(), late(f), mq.WithID("id-"+f)); err != nil {
				t.Fatal(err)
			}
		}
		s.Settle(t)
		s.Advance(time.Hour)
		if n, d := db.number(t, "SELECT count(*) FROM seats"), db.number(t, "SELECT count(DISTINCT flight) FROM seats"); n != 16 || d != 16 || len(failed) != 1 {
			t.Errorf("%d effects of %d messages", n, d)
		}
		if c := inbox.Counts(); c.Handled != 16 || c.Failed < 1 {
			t.Errorf("%+v", c)
		}
	})
}

func TestHandlersThatSettleAreRefused(t *testing.T) {
	db := newSQLite(t)
	s := mqtest.New(t)
	mq.HandleDelivery(s.Worker(mq.WithHandlerInterceptors(mqsql.NewInbox(db.DB, db.dialect).Interceptor())), mq.Subscription{
		Group: "rebooking", Topic: "flights.departed", RPC: "air.rebooking.v1.Rebooking/OnDeparted", File: rebookingv1.File_air_rebooking_v1_rebooking_proto,
	}, func(ctx context.Context, d *mq.Delivery[*flightsv1.FlightDeparted]) error {
		t.Error("it was called")
		return d.Ack(ctx)
	})
	departed(t, s, "F1")
	s.Settle(t)
}

// Do is the same, for one handler.
func TestDo(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.seats(t)
		s := mqtest.New(t, mqtest.DuplicateEverything())
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		calls := 0
		rebookingv1mq.RegisterRebookingConsumer(s.Worker(), consumer(func(ctx context.Context, msg *flightsv1.FlightDeparted) error {
			return inbox.Do(ctx, func(ctx context.Context, tx *sql.Tx) error {
				if calls++; tx != mqsql.TxFrom(ctx) || tx == nil {
					t.Error("another transaction")
				}
				if err := book(ctx, msg.GetFlightId()); err != nil {
					return err
				}
				if calls == 1 {
					return errors.New("once")
				}
				return nil
			})
		}))
		departed(t, s, "F1")
		s.Settle(t)
		s.Advance(time.Hour)
		if n := db.number(t, "SELECT count(*) FROM seats"); n != 1 || calls != 2 {
			t.Errorf("%d effects, %d calls", n, calls)
		}
		if err := inbox.Do(t.Context(), nil); err == nil {
			t.Error("it works outside of a handler")
		}
		if mqsql.TxFrom(t.Context()) != nil {
			t.Error("there is a transaction outside of a handler")
		}
	})
}

// While the database is away no attempt is used.
func TestADatabaseThatIsAwayCostsNoAttempt(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.seats(t)
		s := mqtest.New(t)
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		attempt := uint32(0)
		rebookingv1mq.RegisterRebookingConsumer(s.Worker(mq.WithHandlerInterceptors(inbox.Interceptor())),
			consumer(func(ctx context.Context, msg *flightsv1.FlightDeparted) error {
				attempt = mq.MetaFrom(ctx).Attempt
				return book(ctx, msg.GetFlightId())
			}))
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE mq_inbox RENAME TO gone"); err != nil {
			t.Fatal(err)
		}
		departed(t, s, "F1")
		s.Settle(t)
		for range 20 {
			s.Advance(2 * time.Second)
		}
		if attempt != 0 {
			t.Fatal("it was handled")
		}
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE gone RENAME TO mq_inbox"); err != nil {
			t.Fatal(err)
		}
		s.Advance(2 * time.Second)
		if n := db.number(t, "SELECT count(*) FROM seats"); n != 1 || attempt != 1 {
			t.Errorf("%d effects, attempt %d", n, attempt)
		}
		if dead := mqtest.DeadLetters[*flightsv1.FlightDeparted](s, "rebooking"); len(dead) != 0 {
			t.Errorf("%d dead letters", len(dead))
		}
	})
}

// Two handlers that have one message at the same time, as after a lost lease: one waits for the other, and does nothing.
func TestOneMessageAtTwoHandlers(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.seats(t)
		one, two := mqtest.New(t), mqtest.New(t) // two sidecars have a message of the same place
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		began, end := make(chan struct{}), make(chan struct{})
		var calls atomic.Int64
		for _, s := range []*mqtest.Sidecar{one, two} {
			rebookingv1mq.RegisterRebookingConsumer(s.Worker(mq.WithHandlerInterceptors(inbox.Interceptor())),
				consumer(func(ctx context.Context, msg *flightsv1.FlightDeparted) error {
					if calls.Add(1) == 1 {
						close(began)
						<-end
					}
					return book(ctx, msg.GetFlightId())
				}))
		}
		pub := func(s *mqtest.Sidecar) {
			if _, err := flightsv1mq.NewFlightEventsPublisher(s.Client()).Departed(t.Context(), late("F1"), mq.WithID("one")); err != nil {
				t.Error(err)
			}
		}
		pub(one)
		pub(two)
		var both sync.WaitGroup
		both.Go(func() { one.Settle(t) })
		<-began
		both.Go(func() { two.Settle(t) })
		await(t, "the other waits", func() bool { return db.Stats().InUse == 2 })
		close(end)
		both.Wait()
		if n := db.number(t, "SELECT count(*) FROM seats"); n != 1 || calls.Load() != 1 {
			t.Errorf("%d effects, %d calls", n, calls.Load())
		}
		if c := inbox.Counts(); c.Handled != 1 || c.Skipped != 1 {
			t.Errorf("%+v", c)
		}
	})
}

func TestTheInboxForgets(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		now := time.Now().UnixMilli()
		for i := range 2500 {
			age := int64(0)
			if i%5 != 0 {
				age = int64(15 * 24 * time.Hour / time.Millisecond)
			}
			if _, err := db.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO mq_inbox VALUES ('g', 't%d', 'id-%d', %d)", i%2, i, now-age)); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := inbox.Clean(t.Context()); n != 2000 || err != nil {
			t.Errorf("deleted %d, %v", n, err)
		}
		if n, err := inbox.Forget(t.Context(), "g", "t1"); n != 250 || err != nil {
			t.Errorf("forgot %d, %v", n, err)
		}
		if n := db.number(t, "SELECT count(*) FROM mq_inbox"); n != 250 || inbox.Counts().Deleted != 2000 {
			t.Errorf("%d are left", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := inbox.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// From one database to another: outbox, relay, a sidecar that crashes, inbox.
func TestFromOutboxToInbox(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.seats(t)
		const messages = 40
		s := mqtest.New(t, mqtest.DuplicateEverything())
		inbox := mqsql.NewInbox(db.DB, db.dialect)
		rebookingv1mq.RegisterRebookingConsumer(s.Worker(mq.WithHandlerInterceptors(inbox.Interceptor())),
			consumer(func(ctx context.Context, msg *flightsv1.FlightDeparted) error {
				if got, _ := mq.MetaFrom(ctx).Header("gate"); got != "B2" {
					t.Errorf("header %q", got)
				}
				return book(ctx, msg.GetFlightId())
			}))
		s.Settle(t) // the worker runs
		outbox := mqsql.NewOutbox(db.DB, db.dialect)
		run(t, outbox.Relay(s.Client()))
		for n := range messages {
			if n == 20 {
				s.Crash()
			}
			db.tx(t, func(ctx context.Context, tx *sql.Tx) error {
				_, err := flightsv1mq.NewFlightEventsPublisher(outbox.On(tx)).Departed(ctx, late(fmt.Sprint("F", n)), mq.WithHeader("gate", "B2"))
				return err
			})
		}
		await(t, "all is sent", func() bool {
			stats, err := outbox.Stats(t.Context())
			return err == nil && stats.Sent == messages
		})
		s.Settle(t)
		if n, d := db.number(t, "SELECT count(*) FROM seats"), db.number(t, "SELECT count(DISTINCT flight) FROM seats"); n != messages || d != messages {
			t.Errorf("%d effects of %d messages", n, d)
		}
	})
}

// transactions counts those of a client.
type transactions struct {
	*mq.Client
	n atomic.Int64
}

func (c *transactions) Tx(ctx context.Context, f func(*mq.Tx) error) error {
	c.n.Add(1)
	return c.Client.Tx(ctx, f)
}

// Many messages of one key go to the sidecar together; one that is refused among them holds what is behind it, and nothing else.
func TestARunOfOneKeyGoesTogether(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := mqtest.New(t)
		client := &transactions{Client: s.Client()}
		outbox := mqsql.NewOutbox(db.DB, db.dialect)
		const messages, bad = 300, 120
		db.tx(t, func(ctx context.Context, tx *sql.Tx) error {
			pub := flightsv1mq.NewFlightEventsPublisher(outbox.On(tx))
			for n := range messages {
				msg := &flightsv1.FlightDeparted{FlightId: fmt.Sprintf("A/%d", n+1), Origin: "A"}
				var opts []mq.PublishOption
				if n+1 == bad {
					opts = append(opts, mq.WithPriority(7)) // the topic has no priorities, which the outbox cannot know
				}
				if _, err := pub.Departed(ctx, msg, opts...); err != nil {
					return err
				}
			}
			return nil
		})
		relay := outbox.Relay(client)
		run(t, relay)
		var got []mqsql.Parked
		await(t, "one is parked", func() bool {
			got, _ = outbox.Parked(t.Context(), 0, 10)
			return len(got) == 1
		})
		if stats, err := outbox.Stats(t.Context()); err != nil || stats.Sent != bad-1 || stats.Waiting != messages-bad {
			t.Errorf("%+v, %v", stats, err)
		}
		if _, err := outbox.Discard(t.Context(), got[0].Seq); err != nil {
			t.Fatal(err)
		}
		await(t, "the rest is sent", func() bool { return relay.Counts().Sent == messages-1 })
		if n := client.n.Load(); n < 2 || n > 8 {
			t.Errorf("%d transactions", n)
		}
		published := mqtest.Published[*flightsv1.FlightDeparted](s)
		if len(published) != messages-1 {
			t.Fatalf("%d are published", len(published))
		}
		for i, p := range published {
			n := i + 1
			if n >= bad {
				n++
			}
			if want := fmt.Sprintf("A/%d", n); p.Value.GetFlightId() != want {
				t.Fatalf("%s is where %s should be", p.Value.GetFlightId(), want)
			}
		}
	})
}
