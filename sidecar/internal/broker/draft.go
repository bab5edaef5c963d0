package broker

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// Draft is a message as a person or a small client writes it: JSON or a payload, with key, headers, priority and time where they are to differ from
// what the schema derives.
type Draft struct {
	JSON    *structpb.Struct
	Payload []byte
	Key     []byte
	HasKey  bool
	Headers map[string]string
	// ID may be empty: the message then has what the schema derives, or if it is to be scheduled a random one.
	ID string
	// Priority is 1 for the lowest level; 0 is what the schema derives, and refused with HasPriority.
	Priority    uint32
	HasPriority bool
	// Delay keeps the message back for so long. Not together with DeliverAt. With it, the schema's instant does not count.
	Delay time.Duration
	// DeliverAt is the instant at which the message enters the topic, the zero time what the schema derives. One in the past is now.
	DeliverAt time.Time
	// TTL is how long the message may wait to be delivered, MinTTL to MaxTTL; 0 is what the topic says, and refused with HasTTL.
	TTL    time.Duration
	HasTTL bool
}

// Compose encodes a draft as a record of the topic. Times are rounded up to milliseconds.
func (b *Broker) Compose(topicName string, d Draft) ([]byte, error) {
	t, refused := b.topic(topicName)
	if refused != nil {
		return nil, refused
	}
	payload := d.Payload
	if d.JSON != nil {
		m, err := t.codec.FromJSON(d.JSON)
		if err != nil {
			return nil, fail(SchemaMismatch, "json", "%v", err).with("message", t.decl.Message.FullName())
		}
		if payload, err = schema.Marshal(m); err != nil {
			return nil, fail(SchemaMismatch, "json", "%v", err)
		}
	}
	if err := t.codec.Validate(payload); err != nil {
		return nil, fail(SchemaMismatch, "payload", "%v", err).with("message", t.decl.Message.FullName())
	}
	m, err := t.codec.Decode(payload)
	if err != nil {
		return nil, fail(SchemaMismatch, "payload", "%v", err).with("message", t.decl.Message.FullName())
	}
	r := Record{Priority: uint64(d.Priority), DelayMS: uint64(ceilDuration(d.Delay)), TTLMS: uint64(ceilDuration(d.TTL))}
	now := b.wall()
	if refused := r.derive(t, m, d, now); refused != nil {
		return nil, refused
	}
	due, refused := r.due(now)
	if refused != nil {
		return nil, refused
	}
	if d.ID == "" {
		d.ID = t.decl.IDOf(m)
	}
	if d.ID == "" && due > now.UnixMilli() {
		d.ID = randomID()
	}
	key := t.decl.KeyOf(m)
	if d.HasKey {
		key = d.Key
	}
	headers := t.decl.HeadersOf(m)
	for name, value := range d.Headers {
		headers = append(headers, topic.HeaderValue{Name: name, Value: value})
	}
	raw := NewRecord(key, payload, headers, d.ID)
	raw = appendNumber(raw, recordPrio, r.Priority)
	raw = appendNumber(raw, recordDelay, r.DelayMS)
	raw = appendNumber(raw, recordDeliver, uint64(r.DeliverAtMS))
	return appendNumber(raw, recordTTL, r.TTLMS), nil
}

// derive checks the numbers of a draft and fills in what it leaves to the schema.
func (r *Record) derive(t *topicState, m protoreflect.Message, d Draft, now time.Time) *Error {
	switch {
	case d.Delay < 0, d.Delay > MaxAhead:
		return RefuseDelay(d.Delay.String())
	case d.Delay > 0 && !d.DeliverAt.IsZero():
		return badDelay("delay", "delay %v and deliver_at %v: set one of them", d.Delay, d.DeliverAt.UTC().Format(time.RFC3339Nano))
	case (d.TTL != 0 || d.HasTTL) && d.TTL < MinTTL, d.TTL > MaxTTL:
		return RefuseTTL(d.TTL.String())
	case d.HasPriority && d.Priority == 0, uint64(d.Priority) > uint64(t.decl.PriorityLevels):
		return badPriority(t, uint64(d.Priority))
	}
	if d.Priority == 0 {
		level, err := t.decl.PriorityOf(m)
		if err != nil {
			return fail(BadPriority, "priority", "%v", err).with("bound", t.decl.PriorityLevels)
		}
		r.Priority = uint64(level)
	}
	at := d.DeliverAt
	if d.Delay == 0 && at.IsZero() {
		var err error
		if at, err = t.decl.DeliverAtOf(m); err != nil {
			return badDelay("deliver_at", "%v", err)
		}
	}
	if !at.IsZero() {
		if at.Before(time.Unix(0, 0)) || at.After(now.Add(MaxAhead)) { // as it was given, before it is rounded
			return RefuseDeliverAt(at.UTC().Format(time.RFC3339Nano))
		}
		r.DeliverAtMS = ceilMS(at)
	}
	return nil
}

// ceilDuration is d in milliseconds, never shorter.
func ceilDuration(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}

// randomID is an id that no other message has.
func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
