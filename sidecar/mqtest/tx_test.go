package mqtest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/sidecar/mqtest"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
)

// depart publishes two flights in the transaction of the message that ctx is of.
func depart(ctx context.Context, m *flightsv1.BagsChecked) error {
	return mq.InTx(ctx, func(tx *mq.Tx) error {
		flights := flightsv1mq.NewFlightEventsPublisher(tx)
		for _, leg := range []string{"out", "back"} {
			if _, err := flights.Departed(ctx, &flightsv1.FlightDeparted{FlightId: m.GetFlightId(), Origin: leg}); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestInTxTakesEffectOnce: wherever the sidecar crashes and whatever comes twice, what a handler publishes with its acknowledgement is there once.
func TestInTxTakesEffectOnce(t *testing.T) {
	for _, c := range []struct {
		name    string
		step    mqtest.Step
		opts    []mqtest.Option
		handled int
	}{
		{"no fault", 0, nil, 1},
		{"before publish", mqtest.BeforePublish, nil, 1},
		{"before delivery", mqtest.BeforeDelivery, nil, 1},
		{"before commit", mqtest.BeforeCommit, nil, 2},
		{"after commit", mqtest.AfterCommit, nil, 1},
		{"everything twice", 0, []mqtest.Option{mqtest.DuplicateEverything()}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T) {
				s := mqtest.New(t, c.opts...)
				handled := 0
				newBaggage(s, func(ctx context.Context, m *flightsv1.BagsChecked) error {
					handled++
					if n := mq.MetaFrom(ctx).Attempt; n != 1 {
						t.Errorf("attempt %d", n)
					}
					return depart(ctx, m)
				})
				s.Settle(t)
				s.CrashAt(c.step)
				check(t, s, "F1")
				s.Settle(t)
				var legs []string
				for _, m := range mqtest.Published[*flightsv1.FlightDeparted](s) {
					legs = append(legs, m.Value.GetOrigin())
				}
				if fmt.Sprint(legs) != "[out back]" && fmt.Sprint(legs) != "[back out]" {
					t.Errorf("published %q", legs)
				}
				if handled != c.handled {
					t.Errorf("handled %d times, should be %d", handled, c.handled)
				}
				mqtest.AssertNoDeadLetters(t, s)
			})
		})
	}
}

// TestTxIsAppliedOnce: a client that does not get the answer tries again until it knows.
func TestTxIsAppliedOnce(t *testing.T) {
	for name, step := range map[string]mqtest.Step{"no fault": 0, "before commit": mqtest.BeforeCommit, "after commit": mqtest.AfterCommit} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T) {
				s := mqtest.New(t)
				s.CrashAt(step)
				var tx *mq.Tx
				err := s.Client().Tx(t.Context(), func(own *mq.Tx) error {
					tx = own
					flights := flightsv1mq.NewFlightEventsPublisher(tx)
					_, first := flights.CheckedIn(t.Context(), bags("F1"))
					_, second := flights.Departed(t.Context(), &flightsv1.FlightDeparted{FlightId: "F1", Origin: "SFO"}, mq.WithDelay(time.Hour))
					return errors.Join(first, second)
				})
				if err != nil {
					t.Fatal(err)
				}
				b := newBaggage(s, nil)
				s.Settle(t)
				if b.calls() != "F1" {
					t.Errorf("handled %s", b.calls())
				}
				receipts := tx.Receipts()
				if len(receipts) != 2 || receipts[0].Offset != 0 || receipts[0].ID == "" || !receipts[1].Scheduled {
					t.Errorf("receipts %+v", receipts)
				}
				mqtest.AssertPublished[*flightsv1.FlightDeparted](t, s)

				err = s.Client().Tx(t.Context(), func(own *mq.Tx) error {
					tx = own
					return tx.Cancel(receipts[1].Topic, receipts[1].ID, "never there")
				})
				if got := fmt.Sprint(tx.Canceled()); err != nil || got != "[{flights.departed 1 [never there]}]" {
					t.Errorf("cancelled %s, %v", got, err)
				}
				s.Advance(2 * time.Hour)
				mqtest.AssertPublished[*flightsv1.FlightDeparted](t, s)
			})
		})
	}
}

// TestARefusedTxLeavesNothing: one item that is refused by the sidecar alone, and nothing of the others is there.
func TestARefusedTxLeavesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		handled := 0
		newBaggage(s, func(ctx context.Context, m *flightsv1.BagsChecked) error {
			if handled++; handled > 1 {
				return nil
			}
			err := mq.InTx(ctx, func(tx *mq.Tx) error {
				_, err := flightsv1mq.NewFlightEventsPublisher(tx).Departed(ctx, &flightsv1.FlightDeparted{FlightId: m.GetFlightId(), Origin: "SFO"})
				return errors.Join(err, tx.Cancel("nowhere", "x"))
			})
			if !errors.Is(err, mq.ErrTopicUnknown) {
				t.Errorf("got %v", err)
			}
			return mq.RetryAfter(err, time.Minute)
		})
		check(t, s, "F1")
		s.Settle(t)
		s.Advance(time.Hour)
		if handled != 2 {
			t.Errorf("handled %d times", handled)
		}
		mqtest.AssertPublished[*flightsv1.FlightDeparted](t, s)
	})
}
