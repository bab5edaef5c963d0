package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// billing charges payments. It implements scenariosv1mq.BillingConsumer.
type billing struct {
	bank    bank
	journal journal
}

// OnRequested says by its error what is to become of the message.
func (b *billing) OnRequested(ctx context.Context, payment *scenariosv1.Payment) error {
	return b.journal.handle(ctx, payment.GetPaymentId(), func() error {
		err := b.bank.charge(payment, mq.MetaFrom(ctx).Attempt)
		switch {
		case errors.Is(err, errStolen):
			return mq.Permanent(err) // no attempt will help: a dead letter, now
		case errors.Is(err, errBusy):
			return mq.RetryAfter(err, busyFor) // the bank said when to come again
		case errors.Is(err, errPending):
			return mq.Snooze(pendingFor) // nothing is wrong, it is only too early: this is no attempt
		default:
			return err // nil: done. Another error: again by the policy in retry.proto
		}
	})
}

// bank is a bank whose answers depend on the payment's id, so that the outcome is known beforehand.
type bank struct{ asked journal }

var (
	errStolen  = errors.New("the card is stolen")
	errBusy    = errors.New("too many requests")
	errPending = errors.New("the payment before is pending")
	errOutage  = errors.New("the bank does not answer")
)

const (
	busyFor    = 500 * time.Millisecond
	pendingFor = 150 * time.Millisecond
	snoozes    = 3
)

func (b *bank) charge(payment *scenariosv1.Payment, attempt uint32) error {
	id := payment.GetPaymentId()
	kind, _, _ := strings.Cut(id, "-")
	switch {
	case kind == "flaky" && attempt <= 2:
		return errOutage
	case kind == "busy" && attempt == 1:
		return errBusy
	case kind == "stolen":
		return errStolen
	case kind == "pending":
		return b.pending(id)
	default:
		return nil
	}
}

// pending is the answer to the first requests for a payment.
func (b *bank) pending(id string) error {
	if len(byID(b.asked.all())[id]) >= snoozes {
		return nil
	}
	return b.asked.handle(context.Background(), id, func() error { return errPending })
}

func runRetry(ctx context.Context, s *stage) (measured figures, err error) {
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewPaymentsPublisher(client)
	handler := &billing{}
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterBillingConsumer(w, handler) })

	kinds := map[string]int{"plain": 60, "flaky": 20, "busy": 5, "pending": 5, "stolen": 5}
	var payments []*scenariosv1.Payment
	for kind, n := range kinds {
		for i := range n {
			payments = append(payments, &scenariosv1.Payment{PaymentId: fmt.Sprintf("%s-%d", kind, i), Cents: 995})
		}
	}
	err = publishAll(ctx, payments, func(ctx context.Context, p *scenariosv1.Payment) error {
		_, err := publisher.Requested(ctx, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, err := s.settled(ctx, "billing", "payments"); err != nil {
		return nil, err
	}
	letters, err := s.buried(ctx, "billing", "payments", kinds["stolen"])
	if err != nil {
		return nil, err
	}
	for _, d := range letters {
		if d.GetReason() != "permanent" || d.GetAttempts() != 1 || d.GetLastError() != errStolen.Error() {
			return nil, fmt.Errorf("dead letter %s: reason %q, attempts %d, error %q", d.GetId(), d.GetReason(), d.GetAttempts(), d.GetLastError())
		}
	}
	waits, err := checkRetries(handler.journal.all(), kinds)
	if err != nil {
		return nil, err
	}
	measured.add("payments", len(payments))
	measured.span("first_wait_ms", waits["flaky 1"])
	measured.span("second_wait_ms", waits["flaky 2"])
	measured.span("retry_after_ms", waits["busy 1"])
	measured.add("snoozes", len(waits["pending 1"])+len(waits["pending 2"])+len(waits["pending 3"]))
	measured.add("dead_lettered", len(letters))
	return measured, nil
}

// A step is what has to happen after a delivery of a payment: its error, and the wait to the next.
type step struct {
	attempt     uint32
	err         error // that the handler's is, or wraps; nil if it is done
	least, most time.Duration
}

// lateBy is how late a delivery may be on a machine that has other things to do.
const lateBy = time.Second

// course is what happens to each kind of payment, by the policy in retry.proto: 200 ms, then twice that, each up to a fifth longer.
func course(kind string) []step {
	first, second := 200*time.Millisecond, 400*time.Millisecond
	switch kind {
	case "flaky":
		return []step{{1, errOutage, first, first * 6 / 5}, {2, errOutage, second, second * 6 / 5}, {attempt: 3}}
	case "busy":
		return []step{{1, errBusy, busyFor, busyFor}, {attempt: 2}}
	case "stolen":
		return []step{{attempt: 1, err: errStolen}}
	case "pending":
		snoozed := step{attempt: 1, least: pendingFor, most: pendingFor}
		return []step{snoozed, snoozed, snoozed, {attempt: 1}}
	default:
		return []step{{attempt: 1}}
	}
}

// checkRetries compares what the handler saw with the course of each kind, and returns the waits by kind and delivery, "flaky 1".
func checkRetries(all []handling, kinds map[string]int) (map[string][]time.Duration, error) {
	seen := byID(all)
	waits := map[string][]time.Duration{}
	for kind, n := range kinds {
		steps := course(kind)
		for i := range n {
			id := fmt.Sprintf("%s-%d", kind, i)
			if len(seen[id]) != len(steps) {
				return nil, fmt.Errorf("payment %s was delivered %d times, not %d", id, len(seen[id]), len(steps))
			}
			for j, want := range steps {
				got := seen[id][j]
				if got.meta.Attempt != want.attempt {
					return nil, fmt.Errorf("payment %s: delivery %d is attempt %d, not %d", id, j+1, got.meta.Attempt, want.attempt)
				}
				if want.err != nil && !errors.Is(got.err, want.err) {
					return nil, fmt.Errorf("payment %s: delivery %d ended with %v, not %v", id, j+1, got.err, want.err)
				}
				if j == len(steps)-1 {
					continue
				}
				wait := seen[id][j+1].begin.Sub(got.end)
				if wait < want.least || wait > want.most+lateBy {
					return nil, fmt.Errorf("payment %s: %v after delivery %d, not %v to %v", id, wait, j+1, want.least, want.most+lateBy)
				}
				at := fmt.Sprintf("%s %d", kind, j+1)
				waits[at] = append(waits[at], wait)
			}
		}
	}
	return waits, nil
}
