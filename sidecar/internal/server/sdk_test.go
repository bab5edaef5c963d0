package server_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/typedmq/typedmq/examples/flights/gen/air/baggage/v1/baggagev1mq"
	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

type handled struct {
	flight string
	at     time.Time
	meta   mq.Meta
}

// baggage hands what it gets to the test.
type baggage struct{ handled chan handled }

func (b baggage) OnBagsChecked(ctx context.Context, m *flightsv1.BagsChecked) error {
	b.handled <- handled{m.GetFlightId(), time.Now(), mq.MetaFrom(ctx)}
	return nil
}

// From a generated publisher to a generated consumer: what is kept back is handled when it is due, what is cancelled never.
func TestGeneratedCodeSchedulesAndCancels(t *testing.T) {
	h := newHarness(t)
	client, err := mq.Dial(t.Context(), mq.WithAddress(h.url))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	pub := flightsv1mq.NewFlightEventsPublisher(client)
	publish := func(flight string, opts ...mq.PublishOption) mq.Receipt {
		t.Helper()
		r, err := pub.CheckedIn(t.Context(), &flightsv1.BagsChecked{FlightId: flight}, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	began := time.Now()
	const delay = 200 * time.Millisecond
	cancelled := publish("cancelled", mq.WithDelay(delay))
	kept := publish("kept back", mq.WithDelay(delay), mq.WithTTL(time.Hour))
	now := publish("now", mq.WithDeliverAt(began.Add(-time.Hour)))
	if !cancelled.Scheduled || cancelled.Offset != -1 || !kept.Scheduled || now.Scheduled || now.Offset != 0 {
		t.Errorf("receipts %+v, %+v, %+v", cancelled, kept, now)
	}
	if n, err := client.Cancel(t.Context(), cancelled.Topic, cancelled.ID); n != 1 || err != nil {
		t.Errorf("cancelled %d, %v", n, err)
	}
	if n, err := client.Cancel(t.Context(), cancelled.Topic, cancelled.ID, now.ID); n != 0 || !errors.Is(err, mq.ErrMessageUnknown) {
		t.Errorf("cancelled again: %d, %v", n, err)
	}

	worker := mq.NewWorker(client, mq.WithConcurrency(1), mq.WithPrefetch(8), mq.WithMaxBytesInFlight(1<<20))
	b := baggage{make(chan handled, 8)}
	baggagev1mq.RegisterBaggageConsumer(worker, b)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	first, second := <-b.handled, <-b.handled
	if first.flight != "now" || first.meta.ID != now.ID {
		t.Errorf("first %+v", first)
	}
	if second.flight != "kept back" || second.meta.ID != kept.ID || second.meta.Partition != kept.Partition || second.at.Sub(began) < delay {
		t.Errorf("second %+v after %v", second, second.at.Sub(began))
	}
	publish("last")
	if last := <-b.handled; last.flight != "last" { // and not the one that was cancelled
		t.Errorf("last %+v", last)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
