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
	session   *session
	token     []byte
	encoding  []byte // of the Record
	partition uint32
	offset    int64
	attempt   uint32
	published time.Time

	settled bool // its outcome is decided; guarded by consumer.mu
}

// accept starts a handler for each delivery of a slice. Those for which there is no room are given back: that happens while
// draining, and when the sidecar has not yet heard that a handler is stuck.
func (s *session) accept(slice *brokerv1.Slice) error {
	n := len(slice.GetOffsets())
	if len(slice.GetTokens()) != n*tokenBytes || (len(slice.GetAttempts()) != 0 && len(slice.GetAttempts()) != n) {
		return fmt.Errorf("the sidecar sent %d offsets with %d bytes of tokens and %d attempts",
			n, len(slice.GetTokens()), len(slice.GetAttempts()))
	}
	i := 0
	for field, err := range bytesFields(slice.GetRecords()) {
		if err != nil {
			return fmt.Errorf("the sidecar sent malformed records: %w", err)
		}
		if field.number != setRecords {
			continue
		}
		if i == n {
			return fmt.Errorf("the sidecar sent more records than the %d offsets", n)
		}
		d := &delivery{
			session:   s,
			token:     slice.GetTokens()[i*tokenBytes : (i+1)*tokenBytes],
			encoding:  field.value,
			partition: slice.GetPartition(),
			offset:    slice.GetOffsets()[i],
			attempt:   1,
			published: time.UnixMilli(slice.GetAppendTimeMs()),
		}
		if len(slice.GetAttempts()) > 0 {
			d.attempt = slice.GetAttempts()[i]
		}
		if s.begin(d) {
			go d.handle()
		}
		i++
	}
	if i != n {
		return fmt.Errorf("the sidecar sent %d records with %d offsets", i, n)
	}
	return nil
}

// begin reports whether the delivery is to be handled, and takes a place for its handler if so.
func (s *session) begin(d *delivery) bool {
	c := s.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	s.state.open++
	if s.state.draining || c.mu.running >= s.limit {
		d.settled = true
		s.reportLocked(d.token, release())
		return false
	}
	c.mu.running++
	s.state.handlers++
	s.state.active++
	return true
}

// handle runs the handler and reports the outcome.
func (d *delivery) handle() {
	s := d.session
	ctx, cancel := context.WithTimeoutCause(s.handling, s.policy.timeout, s.timedOut)
	defer cancel()
	deadline, _ := ctx.Deadline()
	watch := context.AfterFunc(ctx, func() { d.expire(context.Cause(ctx)) })
	call(ctx, func(ctx context.Context) error {
		record, err := parseRecord(d.encoding)
		if err != nil {
			return &undecodable{err}
		}
		meta := &Meta{
			ID: record.id, Topic: s.consumer.subscription.Topic, Group: s.consumer.subscription.Group, Key: record.key,
			Partition: d.partition, Offset: d.offset, Attempt: d.attempt,
			Deadline: deadline, Published: d.published, record: record,
		}
		if meta.ID == "" {
			meta.ID = place(d.partition, d.offset)
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
