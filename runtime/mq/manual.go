package mq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// ErrSettled is returned by the methods of [Delivery] when the message is settled already.
var ErrSettled = errors.New("mq: the message is settled already")

// MaxProcessingTime bounds how long [Delivery.Extend] lets a handler go on from now.
const MaxProcessingTime = 12 * time.Hour

// Delivery is one message, to be settled by the handler itself: once, before the handler returns. Each method that settles returns when the
// outcome is durable. Its error is [ErrSettled] after an earlier call, [ErrProcessingTimeout] if the attempt has failed by that,
// [ErrLeaseLost] if the message is delivered again, and an error of ctx if that ends before the answer, which leaves open whether it is settled.
//
// Its methods are safe for concurrent use. After the handler has returned there is nothing left to settle.
type Delivery[M proto.Message] struct{ call *Call }

// Message returns the message.
func (d *Delivery[M]) Message() M { return d.call.items[0].message.(M) }

// Meta returns what is known of the message besides its content. Its Deadline is the one that the handler began with.
func (d *Delivery[M]) Meta() *Meta { return d.call.Meta(0) }

// Ack settles the message as done.
func (d *Delivery[M]) Ack(ctx context.Context) error { return d.call.manual.settle(ctx, nil) }

// Nack ends the attempt with an error: the message is tried again by the subscription's policy, or as an error made by [RetryAfter] says.
func (d *Delivery[M]) Nack(ctx context.Context, err error) error {
	if err == nil {
		err = errNack
	}
	return d.call.manual.settle(ctx, verdict(context.Background(), err))
}

// Reject makes the message a dead letter now.
func (d *Delivery[M]) Reject(ctx context.Context, err error) error {
	if err == nil {
		err = errReject
	}
	return d.call.manual.settle(ctx, verdict(context.Background(), Permanent(err)))
}

// Snooze has the message delivered again after d, at most [MaxDelay], without using an attempt.
func (d *Delivery[M]) Snooze(ctx context.Context, delay time.Duration) error {
	return d.call.manual.settle(ctx, verdict(context.Background(), Snooze(delay)))
}

// Extend gives the handler that long from now, instead of the processing timeout: 1 ms to [MaxProcessingTime]. The lease itself is kept for as
// long as the connection lives. It fails as settling does. The context is not used at present: no message goes to the sidecar.
func (d *Delivery[M]) Extend(_ context.Context, by time.Duration) error {
	if by < time.Millisecond || by > MaxProcessingTime {
		return fmt.Errorf("mq: extend by %v: must be %v to %v", by, time.Millisecond, MaxProcessingTime)
	}
	return d.call.manual.extend(by)
}

var (
	errNack      = errors.New("the handler did not acknowledge the message")
	errReject    = errors.New("the handler rejected the message")
	errUnsettled = errors.New("the handler returned without settling the message")
)

// HandleDelivery registers a handler that settles each message itself, as [Handle] does for one whose return settles it. If it returns and the message is
// not settled, what it returns is the outcome, and nil is an error: the message is tried again. If the message is settled, what
// it returns changes nothing. A handler that goes on after settling keeps its place among those that may run.
func HandleDelivery[T any, P interface {
	*T
	proto.Message
}](w *Worker, s Subscription, handler func(context.Context, *Delivery[P]) error) {
	var handle HandlerFunc
	if handler != nil {
		handle = func(ctx context.Context, c *Call) error {
			if c.Failure(0) != nil {
				return nil
			}
			err := handler(ctx, &Delivery[P]{c})
			if err == nil && !c.manual.settled() {
				return errUnsettled
			}
			return err
		}
	}
	w.register(&subscription{Subscription: s, style: bySelf, decode: decode[T, P], handle: handle})
}

// manual is what a handler that settles itself can do to its delivery.
type manual struct {
	delivery *delivery
	timer    *time.Timer // calls expire

	result Outcome // how the handler settled the message; guarded by consumer.mu
}

// lease implements Leased.
func (d *Delivery[M]) lease() *delivery { return d.call.items[0].delivery }

func (m *manual) settled() bool {
	c := m.delivery.session.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.delivery.settled
}

// outcome returns how the handler settled the message, "" if it did not. A handler of another kind has no manual, which is nil.
func (m *manual) outcome() Outcome {
	if m == nil {
		return ""
	}
	c := m.delivery.session.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.result
}

func outcomeOfSettlement(s *brokerv1.Settlement) Outcome {
	switch o := s.GetOutcome().(type) {
	case *brokerv1.Settlement_Ack_:
		if o.Ack.GetSkipReason() != "" {
			return OutcomeSkip
		}
		return OutcomeAck
	case *brokerv1.Settlement_Retry_:
		return OutcomeRetry
	case *brokerv1.Settlement_Reject_:
		return OutcomeReject
	case *brokerv1.Settlement_Snooze_:
		return OutcomeSnooze
	default:
		return OutcomeAck
	}
}

// openLocked returns why the delivery can no longer be settled, nil if it can.
func (d *delivery) openLocked() error {
	switch s := d.session; {
	case d.early, d.over, d.held:
		return ErrSettled
	case d.settled:
		return s.timedOut
	case s.state.deaf:
		return ErrLeaseLost
	}
	return nil
}

// settle reports the outcome, nil for an acknowledgement, and returns what the sidecar made of it.
func (m *manual) settle(ctx context.Context, outcome *brokerv1.Settlement) error {
	d := m.delivery
	s := d.session
	answer := make(chan error, 1)
	if err := func() error {
		s.consumer.mu.Lock()
		defer s.consumer.mu.Unlock()
		if err := d.openLocked(); err != nil {
			return err
		}
		if s.state.answers == nil {
			s.state.answers = make(map[string]chan error)
		}
		s.state.answers[string(d.token[:])] = answer
		d.settled, d.early, m.result = true, true, outcomeOfSettlement(outcome)
		s.state.active--
		s.state.early++
		s.reportLocked(d, outcome)
		signal(s.adjust)
		return nil
	}(); err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("mq: the sidecar has not confirmed the outcome: %w", ctx.Err())
	}
}

func (m *manual) extend(by time.Duration) error {
	c := m.delivery.session.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := m.delivery.openLocked(); err != nil {
		return err
	}
	if !m.timer.Reset(by) { // it has just fired, and expire waits for the lock
		return m.delivery.session.timedOut
	}
	return nil
}

// answer tells a handler that waits for it what became of its outcome. Most handlers do not.
func (s *session) answer(token []byte, err error) {
	if s.consumer.subscription.style != bySelf {
		return
	}
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	if answer := s.state.answers[string(token)]; answer != nil {
		delete(s.state.answers, string(token))
		answer <- err
	}
}

// answerAll is answer for outcomes that were given up.
func (s *session) answerAll(batch outcomes, err error) {
	for acks := batch.acks; len(acks) > 0; acks = acks[tokenBytes:] {
		s.answer(acks[:tokenBytes], err)
	}
	for _, outcome := range batch.others {
		s.answer(outcome.GetToken(), err)
	}
}
