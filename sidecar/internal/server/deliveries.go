package server

import (
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// deliveries makes messages of runs, in memory of its own that it uses again: a message, and all that it refers to, is valid until the next one is made. A stream's Send keeps nothing of
// what it has sent.
type deliveries struct {
	slices   []*brokerv1.Slice // in use and not
	offsets  []int64
	attempts []uint32
	bytes    []byte // tokens and records
}

// keptDeliveries is how many bytes are kept for the next message.
const keptDeliveries = 2 * frameBytes

func (d *deliveries) message(runs []broker.Run) *brokerv1.ConsumeResponse {
	for len(d.slices) < len(runs) {
		d.slices = append(d.slices, new(brokerv1.Slice))
	}
	d.offsets, d.attempts, d.bytes = d.offsets[:0], d.attempts[:0], d.bytes[:0]
	if cap(d.bytes) > keptDeliveries {
		d.bytes = nil
	}
	for i := range runs {
		d.fill(d.slices[i], &runs[i])
	}
	return &brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Deliveries_{Deliveries: &brokerv1.ConsumeResponse_Deliveries{Slices: d.slices[:len(runs)]}}}
}

// sent lets go what the last message referred to outside of d.
func (d *deliveries) sent() {
	for _, s := range d.slices {
		s.Records = nil
	}
}

// fill makes a slice of a run. What is appended to later leaves it as it is, in memory that is used once more or not any longer.
func (d *deliveries) fill(s *brokerv1.Slice, r *broker.Run) {
	s.Partition, s.AppendTimeMs, s.Priority = r.Partition, r.AppendMS, r.Priority
	at := len(d.offsets)
	for i := range r.Len() {
		d.offsets = append(d.offsets, r.Offset(i))
	}
	s.Offsets = d.offsets[at:len(d.offsets):len(d.offsets)]
	s.Attempts = nil
	if !r.FirstAttempts() {
		at = len(d.attempts)
		for i := range r.Len() {
			d.attempts = append(d.attempts, r.Attempt(i))
		}
		s.Attempts = d.attempts[at:len(d.attempts):len(d.attempts)]
	}
	at = len(d.bytes)
	d.bytes = r.AppendTokens(d.bytes)
	s.Tokens = d.bytes[at:len(d.bytes):len(d.bytes)]
	if s.Records = r.Row(); s.Records == nil {
		at = len(d.bytes)
		d.bytes = r.AppendRecords(d.bytes)
		s.Records = d.bytes[at:len(d.bytes):len(d.bytes)]
	}
}
