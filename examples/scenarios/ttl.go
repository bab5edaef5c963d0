package main

import (
	"context"
	"fmt"
	"time"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// desk implements scenariosv1mq.TradingConsumer and ComplianceConsumer.
type desk struct{ journal journal }

// OnQuoted never sees a price that is older than its ttl.
func (d *desk) OnQuoted(ctx context.Context, quote *scenariosv1.Quote) error {
	return d.journal.handle(ctx, quote.GetQuoteId(), func() error { return nil })
}

func runTTL(ctx context.Context, s *stage) (measured figures, err error) {
	const topic, ofTopic, ofRPC, ofCall, longer, fresh = "quotes", 20, 20, 10, 10, 30
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewMarketPublisher(client)
	quoted := func(options ...mq.PublishOption) func(context.Context, *scenariosv1.Quote) error {
		return func(ctx context.Context, q *scenariosv1.Quote) error {
			_, err := publisher.Quoted(ctx, q, options...)
			return err
		}
	}
	flashed := func(ctx context.Context, q *scenariosv1.Quote) error {
		_, err := publisher.Flashed(ctx, q)
		return err
	}

	// Nobody listens while these are of use: the topic's ttl is 2 s, the rpc's 200 ms, and a longer one of a call does not count.
	for _, old := range []struct {
		name    string
		n       int
		publish func(context.Context, *scenariosv1.Quote) error
	}{
		{"topic", ofTopic, quoted()}, {"rpc", ofRPC, flashed},
		{"call", ofCall, quoted(mq.WithTTL(300 * time.Millisecond))}, {"longer", longer, quoted(mq.WithTTL(time.Hour))},
	} {
		if err := publishAll(ctx, quotes(old.name, old.n), old.publish); err != nil {
			return nil, err
		}
	}
	const stale = ofTopic + ofRPC + ofCall + longer
	if err := sleep(ctx, 2200*time.Millisecond); err != nil {
		return nil, err
	}

	trading, compliance := &desk{}, &desk{}
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterTradingConsumer(w, trading) })
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterComplianceConsumer(w, compliance) })
	for _, group := range []string{"trading", "compliance"} {
		if _, err := s.settled(ctx, group, topic); err != nil {
			return nil, err
		}
	}
	if err := publishAll(ctx, quotes("fresh", fresh), quoted()); err != nil {
		return nil, err
	}
	for group, d := range map[string]*desk{"trading": trading, "compliance": compliance} {
		now, err := s.settled(ctx, group, topic)
		if err != nil {
			return nil, err
		}
		if err := checkFresh(d.journal.done(), fresh); err != nil {
			return nil, fmt.Errorf("%s: %w", group, err)
		}
		if now.expired != stale {
			return nil, fmt.Errorf("%s: %d quotes expired, not %d", group, now.expired, stale)
		}
	}

	// What expires is dropped, or a dead letter if the subscription says so.
	letters, err := s.deadLetters(ctx, "trading", topic)
	if err != nil {
		return nil, err
	}
	if len(letters) > 0 {
		return nil, fmt.Errorf("trading has %d dead letters", len(letters))
	}
	letters, err = s.buried(ctx, "compliance", topic, stale)
	if err != nil {
		return nil, err
	}
	for _, d := range letters {
		if d.GetReason() != "expired" || d.GetAttempts() != 0 {
			return nil, fmt.Errorf("dead letter %s of compliance: reason %q, attempts %d", d.GetId(), d.GetReason(), d.GetAttempts())
		}
	}
	measured.add("quotes", stale+fresh)
	measured.add("expired", stale)
	measured.add("dead_lettered", len(letters))
	measured.add("delivered", fresh)
	return measured, nil
}

func quotes(name string, n int) (list []*scenariosv1.Quote) {
	for i := range n {
		list = append(list, &scenariosv1.Quote{QuoteId: fmt.Sprintf("%s-%d", name, i), Cents: 100})
	}
	return list
}

// checkFresh checks that all fresh quotes were handled, and no other.
func checkFresh(done map[string]int, fresh int) error {
	for _, q := range quotes("fresh", fresh) {
		if done[q.GetQuoteId()] != 1 {
			return fmt.Errorf("%s was handled %d times", q.GetQuoteId(), done[q.GetQuoteId()])
		}
		delete(done, q.GetQuoteId())
	}
	for id := range done {
		return fmt.Errorf("%s was handled, though it had expired", id)
	}
	return nil
}
