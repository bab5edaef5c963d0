package mq

import (
	"context"
	"errors"
	"fmt"
	"time"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// tokenBytes is the length of a lease token.
const tokenBytes = 32

// delivery is one message leased to a session.
type delivery struct {
	session *session
	place
	token     []byte
	encoding  []byte // of the Record
	attempt   uint32
	published time.Time

	// Guarded by consumer.mu.
	settled  bool          // its outcome is decided
	returned chan struct{} // closed when its handler returns; made by the delivery that waits for that
	before   chan struct{} // of an earlier delivery of the message, whose handler has not returned
	manual   *manual       // of a handler that settles itself
	early    bool          // it was settled while its handler went on, by that or by a transaction
	over     bool          // its handler has returned

	// Of one that a transaction acknowledges, guarded as well.
	held      bool                 // the transaction is on its way
	judged    bool                 // outcome is to be reported if the transaction fails
	outcome   *brokerv1.Settlement // nil for an acknowledgement
	committed bool                 // the transaction was applied
	doubtful  bool                 // it is not known whether it was

	// Of subscriptions with batches.
	size    int // bytes of the payload
	arrived time.Time
}

// place is where a message rests in its topic.
type place struct {
	partition uint32
	priority  uint32 // 0 in a topic without priorities
	offset    int64
}

// accept starts handlers for what the sidecar delivers. What there is no handler for waits, as far as it was asked for; the rest is given
// back: that happens while draining, and when the sidecar has not yet heard that a handler is stuck.
func (s *session) accept(slices []*brokerv1.Slice) error {
	var all []*delivery
	for _, slice := range slices {
		var err error
		if all, err = s.appendDeliveries(all, slice); err != nil {
			return err
		}
	}
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	s.state.open += len(all)
	batches := s.consumer.subscription.style == inBatches
	now := s.consumer.worker.client.hooks.Clock.Now()
	for _, d := range all {
		if batches {
			d.size, d.arrived = payloadBytes(d.encoding), now
		}
		s.state.waiting.push(d)
	}
	// Only now: a message of high priority may stand behind others.
	s.startLocked()
	return nil
}

// appendDeliveries appends the deliveries of a slice.
func (s *session) appendDeliveries(all []*delivery, slice *brokerv1.Slice) ([]*delivery, error) {
	n := len(slice.GetOffsets())
	if len(slice.GetTokens()) != n*tokenBytes || (len(slice.GetAttempts()) != 0 && len(slice.GetAttempts()) != n) {
		return nil, fmt.Errorf("the sidecar sent %d offsets with %d bytes of tokens and %d attempts",
			n, len(slice.GetTokens()), len(slice.GetAttempts()))
	}
	published := time.UnixMilli(slice.GetAppendTimeMs())
	i := 0
	for field, err := range bytesFields(slice.GetRecords()) {
		if err != nil {
			return nil, fmt.Errorf("the sidecar sent malformed records: %w", err)
		}
		if field.number != setRecords {
			continue
		}
		if i == n {
			return nil, fmt.Errorf("the sidecar sent more records than the %d offsets", n)
		}
		d := &delivery{
			session:   s,
			place:     place{slice.GetPartition(), slice.GetPriority(), slice.GetOffsets()[i]},
			token:     slice.GetTokens()[i*tokenBytes : (i+1)*tokenBytes],
			encoding:  field.value,
			attempt:   1,
			published: published,
		}
		if len(slice.GetAttempts()) > 0 {
			d.attempt = slice.GetAttempts()[i]
		}
		all = append(all, d)
		i++
	}
	if i != n {
		return nil, fmt.Errorf("the sidecar sent %d records with %d offsets", i, n)
	}
	return all, nil
}

// payloadBytes is the length of a record's payload, 0 if the record is malformed.
func payloadBytes(encoding []byte) int {
	record, _ := parseRecord(encoding)
	return len(record.payload)
}

// startLocked starts handlers while there is room for them, and gives back what may not wait. It is called when deliveries come, when a
// handler returns, when a batch has waited long enough, and when draining begins.
func (s *session) startLocked() {
	c, filling := s.consumer, false
	for !s.state.draining && c.mu.running < s.limit {
		if c.subscription.style == inBatches {
			all := s.fillLocked()
			if filling = all == nil; filling {
				break
			}
			s.holdLocked(all...)
			go s.handleBatch(all)
			continue
		}
		d := s.state.waiting.first()
		if d == nil {
			break
		}
		s.holdLocked(d)
		go d.handle()
	}
	for s.state.waiting.count > max(0, s.roomLocked()) {
		d := s.state.waiting.last()
		d.settled = true
		s.reportLocked(d.token, release())
	}
	if !filling {
		s.parkLocked(0)
		return
	}
	s.parkLocked(s.state.waiting.count)
}

// holdLocked notes that a handler is called with these deliveries.
func (s *session) holdLocked(all ...*delivery) {
	c := s.consumer
	c.mu.running++
	c.mu.held += len(all)
	s.state.handlers++
	s.state.active += len(all)
	for _, d := range all {
		if earlier := c.mu.handled[d.place]; earlier != nil {
			if earlier.returned == nil {
				earlier.returned = make(chan struct{})
			}
			d.before = earlier.returned
		}
		c.mu.handled[d.place] = d
	}
}

// handle runs the handler and reports the outcome.
func (d *delivery) handle() {
	s := d.session
	c := &Call{subscription: s.consumer.subscription}
	c.items = c.single[:]
	ctx, cancel, deadline := d.context(c)
	defer cancel()
	watch := context.AfterFunc(ctx, func() { s.expire([]*delivery{d}, context.Cause(ctx)) })
	call(ctx, func(ctx context.Context) error {
		if err := d.awaitEarlier(ctx); err != nil {
			return err
		}
		if err := d.open(&c.single[0], deadline); err != nil {
			return err
		}
		c.failed = c.subscription.handle(context.WithValue(ctx, callKey{}, c), c)
		return c.failed
	}, s.panicked(d), func(outcome *brokerv1.Settlement) {
		watch()
		if c.Failure(0) != nil {
			c.failed = c.Failure(0)
			outcome = c.outcome(ctx, 0, outcome)
		}
		if c.subscription.style == answering {
			outcome = d.answer(ctx, c, outcome)
		}
		s.finish([]*delivery{d}, []*brokerv1.Settlement{outcome})
	})
}

// context returns the handler's context, which ends when the processing timeout is over.
func (d *delivery) context(c *Call) (context.Context, context.CancelFunc, time.Time) {
	s := d.session
	if c.subscription.style != bySelf {
		ctx, cancel := context.WithTimeoutCause(s.handling, s.policy.timeout, s.timedOut)
		deadline, _ := ctx.Deadline()
		return ctx, cancel, deadline
	}
	// One that can be put off.
	ctx, cancel := context.WithCancelCause(s.handling)
	d.manual = &manual{delivery: d, timer: time.AfterFunc(s.policy.timeout, func() { cancel(s.timedOut) }),
		cause: func() error { return context.Cause(ctx) }}
	c.manual = d.manual
	return ctx, func() {
		d.manual.timer.Stop()
		cancel(nil)
	}, time.Now().Add(s.policy.timeout)
}

// awaitEarlier waits for the handler of an earlier delivery, whose lease was lost, to return: one message, one handler at a time.
func (d *delivery) awaitEarlier(ctx context.Context) error {
	if d.before == nil {
		return nil
	}
	select {
	case <-d.before:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// open decodes the message and what is known of it.
func (d *delivery) open(to *item, deadline time.Time) error {
	record, err := parseRecord(d.encoding)
	if err != nil {
		return &undecodable{err}
	}
	subscription := d.session.consumer.subscription
	to.meta = Meta{
		ID: record.id, Topic: subscription.Topic, Group: subscription.Group, Key: record.key,
		Partition: d.partition, Priority: d.priority, Offset: d.offset, Attempt: d.attempt,
		Deadline: deadline, Published: d.published, record: record,
	}
	if to.meta.ID == "" {
		to.meta.ID = d.place.id()
	}
	to.delivery = d
	to.message, err = subscription.decode(record.payload)
	return err
}

// panicked logs the panic of a handler. First is the first message that it was called with.
func (s *session) panicked(first *delivery) func(value any, stack []byte) {
	return func(value any, stack []byte) {
		s.consumer.log.Error("a handler panicked", "partition", first.partition, "offset", first.offset, "attempt", first.attempt,
			"panic", value, "stack", string(stack))
	}
}

// expire settles deliveries whose handler takes too long. Other ends of its context change nothing: at shutdown the handler
// has a little time left, and without the stream there is no lease to settle.
func (s *session) expire(all []*delivery, cause error) {
	if !errors.Is(cause, ErrProcessingTimeout) {
		return
	}
	c := s.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	expired := 0
	for _, d := range all {
		if d.settled || s.state.lost {
			continue
		}
		d.settled = true
		s.state.active--
		s.settleLocked(d, d.timedOut(cause))
		expired++
	}
	if expired == 0 {
		return
	}
	signal(s.adjust)
	c.log.Warn("a handler takes longer than the processing timeout", "partition", all[0].partition, "offset", all[0].offset,
		"attempt", all[0].attempt, "messages", expired, "timeout", s.policy.timeout)
}

// finish frees the handler's place and reports the outcomes of the deliveries that are not settled.
func (s *session) finish(all []*delivery, outcomes []*brokerv1.Settlement) {
	c := s.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.running--
	c.mu.held -= len(all)
	s.state.handlers--
	settled := 0
	for i, d := range all {
		if c.mu.handled[d.place] == d {
			delete(c.mu.handled, d.place)
		}
		if d.returned != nil {
			close(d.returned)
		}
		if d.early {
			s.state.early--
		}
		d.over = true
		if d.committed && !acknowledges(outcomes[i]) {
			c.log.Warn("a handler failed after its transaction was applied, which has acknowledged the message", "partition", d.partition,
				"offset", d.offset, "attempt", d.attempt, "error", errorOf(outcomes[i]))
		}
		if d.settled {
			continue
		}
		d.settled = true
		settled++
		s.state.active--
		s.settleLocked(d, outcomes[i])
	}
	if c.mu.current != nil {
		defer c.mu.current.startLocked()
	}
	if settled < len(all) || s != c.mu.current {
		// A place was not part of the credit and now is.
		if c.mu.current != nil {
			signal(c.mu.current.adjust)
		}
		signal(s.wake)
	}
	signal(c.returned)
}

// worthReporting reports whether an outcome matters once the stream is lost. A handler that was cut off returns an error for
// that reason, which is no failed attempt; what was done, or decided, should not be done again.
func worthReporting(outcome *brokerv1.Settlement) bool {
	switch outcome.GetOutcome().(type) {
	case *brokerv1.Settlement_Retry_, *brokerv1.Settlement_Release_:
		return false
	default:
		return true
	}
}
