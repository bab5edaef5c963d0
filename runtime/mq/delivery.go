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
	for _, d := range all {
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

// startLocked starts handlers while there is room for them, and gives back what may not wait. It is called when deliveries come, when a
// handler returns and when draining begins.
func (s *session) startLocked() {
	c := s.consumer
	for !s.state.draining && c.mu.running < s.limit {
		d := s.state.waiting.first()
		if d == nil {
			return
		}
		c.mu.running++
		s.state.handlers++
		s.state.active++
		if earlier := c.mu.handled[d.place]; earlier != nil {
			if earlier.returned == nil {
				earlier.returned = make(chan struct{})
			}
			d.before = earlier.returned
		}
		c.mu.handled[d.place] = d
		go d.handle()
	}
	room := s.window - s.limit
	if s.state.draining {
		room = 0
	}
	for s.state.waiting.count > room {
		d := s.state.waiting.last()
		d.settled = true
		s.reportLocked(d.token, release())
	}
}

// handle runs the handler and reports the outcome.
func (d *delivery) handle() {
	s := d.session
	ctx, cancel := context.WithTimeoutCause(s.handling, s.policy.timeout, s.timedOut)
	defer cancel()
	deadline, _ := ctx.Deadline()
	watch := context.AfterFunc(ctx, func() { d.expire(context.Cause(ctx)) })
	call(ctx, func(ctx context.Context) error {
		if d.before != nil {
			// The lease of an earlier delivery was lost and its handler has not returned: one message, one handler at a time.
			select {
			case <-d.before:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		record, err := parseRecord(d.encoding)
		if err != nil {
			return &undecodable{err}
		}
		meta := &Meta{
			ID: record.id, Topic: s.consumer.subscription.Topic, Group: s.consumer.subscription.Group, Key: record.key,
			Partition: d.partition, Priority: d.priority, Offset: d.offset, Attempt: d.attempt,
			Deadline: deadline, Published: d.published, record: record,
		}
		if meta.ID == "" {
			meta.ID = d.place.id()
		}
		return s.consumer.subscription.handle(context.WithValue(ctx, metaKey{}, meta), record.payload)
	}, func(value any, stack []byte) {
		s.consumer.log.Error("a handler panicked", "partition", d.partition, "offset", d.offset, "attempt", d.attempt,
			"panic", value, "stack", string(stack))
	}, func(outcome *brokerv1.Settlement) {
		watch()
		d.finish(outcome)
	})
}

// expire settles a delivery whose handler takes too long. Other ends of its context change nothing: at shutdown the handler
// has a little time left, and without the stream there is no lease to settle.
func (d *delivery) expire(cause error) {
	if !errors.Is(cause, ErrProcessingTimeout) {
		return
	}
	s := d.session
	c := s.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.settled || s.state.lost {
		return
	}
	d.settled = true
	s.state.active--
	s.reportLocked(d.token, retry(cause.Error()))
	signal(s.adjust)
	c.log.Warn("a handler takes longer than the processing timeout", "partition", d.partition, "offset", d.offset,
		"attempt", d.attempt, "timeout", s.policy.timeout)
}

// finish frees the handler's place and reports the outcome, unless the delivery has expired.
func (d *delivery) finish(outcome *brokerv1.Settlement) {
	s := d.session
	c := s.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.running--
	s.state.handlers--
	if c.mu.handled[d.place] == d {
		delete(c.mu.handled, d.place)
	}
	if d.returned != nil {
		close(d.returned)
	}
	if c.mu.current != nil {
		defer c.mu.current.startLocked()
	}
	if !d.settled {
		d.settled = true
		s.state.active--
		if !s.state.lost || worthReporting(outcome) {
			s.reportLocked(d.token, outcome)
		}
		if s == c.mu.current {
			signal(c.returned)
			return
		}
	}
	// The place was not part of the credit and now is.
	if c.mu.current != nil {
		signal(c.mu.current.adjust)
	}
	signal(s.wake)
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
