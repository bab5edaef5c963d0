package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
)

// sidecar stands for one: it keeps what it is sent, as far as it does not refuse it.
type sidecar struct {
	mu     sync.Mutex
	took   []sent
	refuse func(ctx context.Context, s sent) error // may be nil
}

// sent is one message that a relay sent.
type sent struct{ topic, key, id, flight string }

func (s *sidecar) Send(ctx context.Context, p *mq.Publication) (mq.Receipt, error) {
	got := sent{p.Topic(), string(p.Record().Key), p.Record().ID, ""}
	if m, ok := p.Message().(*flightsv1.FlightDeparted); ok {
		got.flight = m.GetFlightId()
	}
	s.mu.Lock()
	refuse := s.refuse
	s.mu.Unlock()
	if refuse != nil {
		if err := refuse(ctx, got); err != nil {
			return mq.Receipt{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again := slices.Contains(s.took, got)
	s.took = append(s.took, got)
	return mq.Receipt{ID: got.id, Topic: got.topic, Offset: int64(len(s.took) - 1), Duplicate: again}, nil
}

// flights are the ids of the flights, in the order in which they came.
func (s *sidecar) flights() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.took {
		all = append(all, m.flight)
	}
	return all
}

// refusing sets what is refused.
func (s *sidecar) refusing(refuse func(context.Context, sent) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

// await waits until something is so, and fails the test if that takes too long.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("not so in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// run runs a relay until stop is called, or the test ends. A relay that ends with an error fails the test.
func run(t testing.TB, r *mqsql.Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// depart publishes a flight.
func depart(t testing.TB, db *database, o *mqsql.Outbox, origin, flight string, opts ...mq.PublishOption) (receipt mq.Receipt) {
	t.Helper()
	db.tx(t, func(ctx context.Context, tx *sql.Tx) (err error) {
		receipt, err = flightsv1mq.NewFlightEventsPublisher(o.On(tx)).Departed(ctx, &flightsv1.FlightDeparted{FlightId: flight, Origin: origin}, opts...)
		return err
	})
	return receipt
}

func TestOnlyWhatIsCommittedIsSent(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := &sidecar{}
		o := mqsql.NewOutbox(db.DB, db.dialect)
		run(t, o.Relay(s))
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		pub := flightsv1mq.NewFlightEventsPublisher(o.On(tx))
		if _, err := pub.Departed(t.Context(), &flightsv1.FlightDeparted{FlightId: "never", Origin: "SFO"}); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		receipt := depart(t, db, o, "SFO", "HA1", mq.WithHeader("gate", "A1"))
		own := depart(t, db, o, "LAX", "HA2", mq.WithID("mine"))
		await(t, "both are sent", func() bool { return len(s.flights()) == 2 })
		if receipt.Topic != "flights.departed" || receipt.Offset != -1 || len(receipt.ID) != 32 || own.ID != "mine" {
			t.Errorf("receipts %+v, %+v", receipt, own)
		}
		want := []sent{{"flights.departed", "SFO", receipt.ID, "HA1"}, {"flights.departed", "LAX", "mine", "HA2"}}
		for _, w := range want {
			if !slices.Contains(s.took, w) {
				t.Errorf("%+v was not sent, but %+v", w, s.took)
			}
		}
		await(t, "all is noted", func() bool {
			stats, err := o.Stats(t.Context())
			return err == nil && stats.Sent == 2 && stats.Waiting == 0 && stats.Oldest == 0
		})
	})
}

// A message that cannot be sent is refused where it is published, and its transaction is the caller's to end.
func TestABadMessageIsRefusedAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		o := mqsql.NewOutbox(db.DB, db.dialect)
		db.tx(t, func(ctx context.Context, tx *sql.Tx) error {
			pub := flightsv1mq.NewFlightEventsPublisher(o.On(tx))
			_, err := pub.Departed(ctx, &flightsv1.FlightDeparted{Origin: strings.Repeat("x", 2000)})
			if !errors.Is(err, mq.ErrTooLarge) {
				t.Errorf("the error is %v", err)
			}
			_, err = pub.Departed(ctx, &flightsv1.FlightDeparted{Origin: "SFO"})
			return err
		})
		if _, err := flightsv1mq.NewFlightEventsPublisher(o.On(nil)).Departed(t.Context(), &flightsv1.FlightDeparted{}); err == nil {
			t.Error("published without a transaction")
		}
		if stats, err := o.Stats(t.Context()); err != nil || stats.Waiting != 1 {
			t.Errorf("%+v, %v", stats, err)
		}
	})
}

// inOrder checks that the flights of each origin, "origin/number", came in order, from 1 to n, those that came again aside.
func inOrder(t testing.TB, flights []string, n int) {
	t.Helper()
	last := map[string]int{}
	for _, f := range flights {
		origin, number, _ := strings.Cut(f, "/")
		var i int
		_, _ = fmt.Sscan(number, &i)
		switch {
		case i == last[origin]+1:
			last[origin] = i
		case i > last[origin]+1:
			t.Errorf("%s came after %d", f, last[origin])
		}
	}
	for origin, i := range last {
		if i != n {
			t.Errorf("%s: %d of %d", origin, i, n)
		}
	}
}

func TestKeysKeepTheirOrder(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		const origins, each = 8, 40
		s := &sidecar{}
		o := mqsql.NewOutbox(db.DB, db.dialect)
		run(t, o.Relay(s))
		var writers sync.WaitGroup
		for i := range origins {
			writers.Go(func() {
				for n := range each {
					origin := fmt.Sprintf("A%d", i)
					depart(t, db, o, origin, fmt.Sprintf("%s/%d", origin, n+1))
				}
			})
		}
		writers.Wait()
		await(t, "all is sent", func() bool { return len(s.flights()) >= origins*each })
		if n := len(s.flights()); n != origins*each {
			t.Errorf("%d were sent, not %d", n, origins*each)
		}
		inOrder(t, s.flights(), each)
	})
}

func refusal(code connect.Code, reason string) error {
	return &mq.Error{Code: code, Reason: reason, Message: "no"}
}

func TestARefusedMessageIsParkedAndHoldsItsKeyAlone(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := &sidecar{}
		bad := func(_ context.Context, m sent) error {
			if m.flight == "A/2" || m.flight == "B/1" {
				return fmt.Errorf("publish: %w", refusal(connect.CodeInvalidArgument, "SCHEMA_MISMATCH"))
			}
			return nil
		}
		s.refusing(bad)
		o := mqsql.NewOutbox(db.DB, db.dialect)
		relay := o.Relay(s)
		run(t, relay)
		for n := range 4 {
			for _, origin := range []string{"A", "B", "C"} {
				depart(t, db, o, origin, fmt.Sprintf("%s/%d", origin, n+1))
			}
		}
		await(t, "what can be sent is", func() bool { return len(s.flights()) == 5 && relay.Counts().Parked == 2 })
		var got []mqsql.Parked
		await(t, "two are parked", func() bool {
			got, _ = o.Parked(t.Context(), 0, 10)
			return len(got) == 2
		})
		// B/1 was written second, A/2 fourth.
		if p := got[1]; string(p.Key) != "A" || p.Attempts != 1 || !strings.Contains(p.Error, "SCHEMA_MISMATCH") || p.Topic != "flights.departed" ||
			time.Since(p.Created).Abs() > time.Minute {
			t.Errorf("%+v", p)
		}
		await(t, "all that is noted", func() bool {
			stats, err := o.Stats(t.Context())
			return err == nil && stats.Parked == 2 && stats.Waiting == 5 && stats.Sent == 5 && stats.Oldest > 0
		})
		if n, err := o.Discard(t.Context(), got[0].Seq); n != 1 || err != nil {
			t.Errorf("discarded %d, %v", n, err)
		}
		await(t, "the rest of B is sent", func() bool { return len(s.flights()) == 8 })
		s.refusing(nil)
		if n, err := o.Retry(t.Context()); n != 1 || err != nil {
			t.Errorf("retried %d, %v", n, err)
		}
		await(t, "all is sent", func() bool { return len(s.flights()) == 11 })
		all := slices.DeleteFunc(s.flights(), func(f string) bool { return strings.HasPrefix(f, "B/") })
		inOrder(t, all, 4)
		b := slices.DeleteFunc(s.flights(), func(f string) bool { return !strings.HasPrefix(f, "B/") })
		if !slices.Equal(b, []string{"B/2", "B/3", "B/4"}) {
			t.Errorf("%v", b)
		}
	})
}

// What is refused for now is tried again, with its key behind it, and what is not answered is sent again under the same id.
func TestTroubleIsTriedAgain(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := &sidecar{}
		var mu sync.Mutex
		full, lost := map[string]int{}, map[string]int{}
		ids := map[string]map[string]bool{}
		s.refusing(func(_ context.Context, m sent) error {
			mu.Lock()
			defer mu.Unlock()
			if ids[m.flight] == nil {
				ids[m.flight] = map[string]bool{}
			}
			ids[m.flight][m.id] = true
			switch {
			case m.key == "A" && full[m.flight] < 3:
				full[m.flight]++
				return refusal(connect.CodeResourceExhausted, "DISK_FULL")
			case m.key == "B" && lost[m.flight] < 2:
				lost[m.flight]++
				return mq.ErrUnknownOutcome
			}
			return nil
		})
		o := mqsql.NewOutbox(db.DB, db.dialect)
		relay := o.Relay(s, mqsql.WithBackoff(time.Millisecond, 20*time.Millisecond))
		run(t, relay)
		for n := range 5 {
			depart(t, db, o, "A", fmt.Sprintf("A/%d", n+1))
			depart(t, db, o, "B", fmt.Sprintf("B/%d", n+1))
			depart(t, db, o, "C", fmt.Sprintf("C/%d", n+1))
		}
		await(t, "all is sent", func() bool { return len(s.flights()) == 15 })
		inOrder(t, s.flights(), 5)
		if c := relay.Counts(); c.Retried != 15 || c.Unanswered != 10 || c.Parked != 0 || c.Leases != 1 {
			t.Errorf("%+v", c)
		}
		for flight, all := range ids {
			if len(all) != 1 {
				t.Errorf("%s was sent under %d ids", flight, len(all))
			}
		}
	})
}

func TestWhatWasSentIsDeleted(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := &sidecar{}
		at := mqsql.NewOutbox(db.DB, db.dialect, mqsql.WithRetention(0))
		stop := run(t, at.Relay(s))
		depart(t, db, at, "A", "A/1")
		await(t, "it is deleted at once", func() bool { return len(s.flights()) == 1 && db.number(t, "SELECT count(*) FROM mq_outbox") == 0 })
		stop()
		kept := mqsql.NewOutbox(db.DB, db.dialect)
		stop = run(t, kept.Relay(s))
		depart(t, db, kept, "A", "A/2")
		await(t, "it is kept", func() bool { return db.number(t, "SELECT count(*) FROM mq_outbox WHERE state = 3") == 1 })
		stop()
		relay := kept.Relay(s, mqsql.WithRetention(time.Millisecond))
		run(t, relay)
		await(t, "it is deleted later", func() bool { return db.number(t, "SELECT count(*) FROM mq_outbox") == 0 && relay.Counts().Deleted == 1 })
	})
}

func TestTablesOfOtherNames(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		prefix := mqsql.WithPrefix("billing_mq_")
		if db.dialect == mqsql.PostgreSQL {
			if _, err := db.ExecContext(t.Context(), "CREATE SCHEMA billing"); err != nil {
				t.Fatal(err)
			}
			prefix = mqsql.WithPrefix("billing.mq_")
		}
		var several sync.WaitGroup
		for range 4 {
			if db.dialect == mqsql.PostgreSQL { // in SQLite one waits for the other, or fails
				several.Go(func() {
					if err := mqsql.CreateTables(t.Context(), db.another(t), db.dialect, prefix); err != nil {
						t.Error(err)
					}
				})
			}
		}
		several.Wait()
		if _, err := db.ExecContext(t.Context(), mqsql.Schema(db.dialect, prefix)); err != nil { // again, as a migration
			t.Fatal(err)
		}
		s := &sidecar{}
		o := mqsql.NewOutbox(db.DB, db.dialect, prefix)
		run(t, o.Relay(s))
		depart(t, db, o, "A", "A/1")
		await(t, "it is sent", func() bool { return len(s.flights()) == 1 })
		if n := db.number(t, "SELECT count(*) FROM mq_outbox"); n != 0 {
			t.Errorf("%d rows in the other table", n)
		}
	})
}

// What this process commits is sent without polling for it; what another process commits is polled for.
func TestARelayLooksWhenThereIsSomething(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := &sidecar{}
		o := mqsql.NewOutbox(db.DB, db.dialect, mqsql.WithPoll(time.Hour))
		stop := run(t, o.Relay(s))
		for n := range 3 {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			msg := &flightsv1.FlightDeparted{FlightId: fmt.Sprintf("A/%d", n+1), Origin: "A"}
			if _, err := flightsv1mq.NewFlightEventsPublisher(o.On(tx)).Departed(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(n) * 20 * time.Millisecond) // a transaction that takes a while
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			await(t, "it is sent", func() bool { return len(s.flights()) == n+1 })
		}
		stop()
		run(t, mqsql.NewOutbox(db.another(t), db.dialect, mqsql.WithPoll(20*time.Millisecond)).Relay(s))
		depart(t, db, o, "A", "A/4")
		await(t, "it is found", func() bool { return len(s.flights()) == 4 })
	})
}
