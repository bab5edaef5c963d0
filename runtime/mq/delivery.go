package mq

import (
	"fmt"
	"time"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// tokenBytes is the length of a lease token.
const tokenBytes = 32

// delivery is one message leased to a session. Its token and its encoding are parts of what the sidecar sent.
type delivery struct {
	session   *session
	handling  *handling // the call of a handler, unless the subscription has batches
	token     *[tokenBytes]byte
	encoding  []byte // of the Record
	published int64  // in ms since 1970
	place
	attempt uint32

	// Guarded by consumer.mu.
	settled        bool          // its outcome is decided
	early          bool          // it was settled while its handler went on, by that or by a transaction
	over           bool          // its handler has returned
	returned       chan struct{} // closed when its handler returns; made by the delivery that waits for that
	before         chan struct{} // of an earlier delivery of the message, whose handler has not returned
	next, previous *delivery     // in waiting, then in handled

	// Of one that a transaction acknowledges, guarded as well.
	held      bool                 // the transaction is on its way
	judged    bool                 // outcome is to be reported if the transaction fails
	committed bool                 // the transaction was applied
	doubtful  bool                 // it is not known whether it was
	outcome   *brokerv1.Settlement // nil for an acknowledgement

	result *brokerv1.Settlement // what its handler makes of it; of the goroutine of that

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
	var all waiting
	for _, slice := range slices {
		if err := s.unpack(&all, slice); err != nil {
			return err
		}
	}
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	s.state.open += all.count
	s.state.waiting.join(&all)
	// Only now: a message of high priority may stand behind others.
	s.startLocked()
	return nil
}

// slab is how many deliveries are allocated at once. A handler that goes on keeps those that were allocated with its own, which are of the
// same slice, and what they were decoded to.
const slab = 32

// unpack puts the deliveries of a slice to those that wait.
func (s *session) unpack(to *waiting, slice *brokerv1.Slice) error {
	offsets, tokens, attempts := slice.GetOffsets(), slice.GetTokens(), slice.GetAttempts()
	n := len(offsets)
	if len(tokens) != n*tokenBytes || (len(attempts) != 0 && len(attempts) != n) {
		return fmt.Errorf("the sidecar sent %d offsets with %d bytes of tokens and %d attempts", n, len(tokens), len(attempts))
	}
	subscription := s.consumer.subscription
	batches := subscription.style == inBatches
	var now time.Time
	if batches {
		now = s.consumer.worker.client.hooks.Clock.Now()
	}
	var singles []single
	var plain []delivery
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
		var d *delivery
		if batches {
			if len(plain) == 0 {
				plain = make([]delivery, min(n-i, slab))
			}
			d, plain = &plain[0], plain[1:]
			d.size, d.arrived = payloadBytes(field.value), now
		} else {
			if len(singles) == 0 {
				singles = make([]single, min(n-i, slab))
			}
			d = singles[0].make(s)
			singles = singles[1:]
		}
		d.session = s
		d.place = place{slice.GetPartition(), slice.GetPriority(), offsets[i]}
		d.token = (*[tokenBytes]byte)(tokens[i*tokenBytes:])
		d.encoding = field.value
		d.published = slice.GetAppendTimeMs()
		d.attempt = 1
		if len(attempts) > 0 {
			d.attempt = attempts[i]
		}
		to.push(d)
		i++
	}
	if i != n {
		return fmt.Errorf("the sidecar sent %d records with %d offsets", i, n)
	}
	return nil
}

// single is a delivery and the call of a handler with it.
type single struct {
	delivery delivery
	handling handling
}

func (o *single) make(s *session) *delivery {
	d, h := &o.delivery, &o.handling
	d.handling = h
	h.session = s
	h.call.subscription = s.consumer.subscription
	h.one[0] = d
	h.all = h.one[:]
	return d
}

// payloadBytes is the length of a record's payload, 0 if the record is malformed.
func payloadBytes(encoding []byte) int {
	payload, _ := payloadOf(encoding)
	return len(payload)
}

// payloadOf returns the payload of a record, as parseRecord does.
func payloadOf(encoding []byte) (payload []byte, err error) {
	for field, err := range bytesFields(encoding) {
		if err != nil {
			return nil, err
		}
		if field.number == recordPayload {
			payload = field.value
		}
	}
	return payload, nil
}

// startLocked sees to it that handlers are called while there is room for them, and gives back what may not wait. It is called when deliveries
// come, when a handler is called or returns, when a batch has waited long enough, and when draining begins.
func (s *session) startLocked() {
	c, filling := s.consumer, false
	if c.subscription.style != inBatches {
		if !c.mu.coming && s.roomyLocked() && s.state.waiting.count > 0 {
			c.mu.coming = true
			go c.work()
		}
	} else {
		for s.roomyLocked() {
			all := s.fillLocked()
			if filling = all == nil; filling {
				break
			}
			h := &handling{session: s, all: all}
			h.call.subscription = c.subscription
			s.beginLocked(h, time.Now())
			go c.handle(h)
		}
	}
	for s.state.waiting.count > max(0, s.roomLocked()) {
		d := s.state.waiting.last()
		d.settled = true
		s.reportLocked(d, release())
	}
	if !filling {
		s.parkLocked(0)
		return
	}
	s.parkLocked(s.state.waiting.count)
}

// roomyLocked reports whether there is room for another handler.
func (s *session) roomyLocked() bool { return !s.state.draining && s.consumer.mu.running < s.limit }

// nextLocked returns what a goroutine that calls handlers is to handle next, nil if there is nothing. Batches have goroutines of their own.
func (s *session) nextLocked(now time.Time) *handling {
	if s.consumer.subscription.style == inBatches || !s.roomyLocked() {
		return nil
	}
	d := s.state.waiting.first()
	if d == nil {
		return nil
	}
	s.beginLocked(d.handling, now)
	return d.handling
}

// open decodes the message.
func (d *delivery) open(to *item) error {
	to.delivery = d
	payload, err := payloadOf(d.encoding)
	if err != nil {
		return &undecodable{err}
	}
	to.message, err = d.session.consumer.subscription.decode(payload)
	return err
}

// meta is what is known of the message besides its content.
func (d *delivery) meta(deadline time.Time) *Meta {
	record, _ := parseRecord(d.encoding) // open has gone through it
	subscription := d.session.consumer.subscription
	m := &Meta{
		ID: record.id, Topic: subscription.Topic, Group: subscription.Group, Key: record.key,
		Partition: d.partition, Priority: d.priority, Offset: d.offset, Attempt: d.attempt,
		Deadline: deadline, Published: time.UnixMilli(d.published), record: record,
	}
	if m.ID == "" {
		m.ID = d.place.id()
	}
	return m
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
