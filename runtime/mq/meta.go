package mq

import (
	"context"
	"iter"
	"strconv"
	"time"
)

// Meta is what a handler can know of a message besides its content.
type Meta struct {
	// ID is the message's own id, or "<partition>-<offset>", or with a priority above the lowest "<partition>.<priority>-<offset>".
	ID    string
	Topic string
	Group string
	// Key must not be modified.
	Key       []byte
	Partition uint32
	// Offset is the message's place in its partition, and in a topic with priorities in its priority.
	Offset int64
	// Priority is 1, the lowest, to the topic's levels; 0 in a topic without priorities.
	Priority uint32
	// Attempt counts deliveries whose outcome was an error, this one included, from 1.
	Attempt uint32
	// Deadline is when the handler's context ends and the attempt counts as failed.
	Deadline time.Time
	// Published is when the message became durable, by the sidecar's clock.
	Published time.Time

	record received
}

// Header returns the value of the header of that name, and whether the message has it.
func (m Meta) Header(name string) (string, bool) {
	for n, value := range m.record.headers() {
		if n == name {
			return value, true
		}
	}
	return "", false
}

// Headers yields the names and values of the message's headers.
func (m Meta) Headers() iter.Seq2[string, string] { return m.record.headers() }

// MetaFrom returns what is known of the message that the handler with this context, or a context derived from it, handles.
// Elsewhere it is the zero Meta.
func MetaFrom(ctx context.Context) Meta {
	if c, ok := ctx.Value(callKey{}).(*Call); ok && !c.Batch() {
		return *c.Meta(0)
	}
	return Meta{}
}

// callKey is the key of a handler's [Call] in its context.
type callKey struct{}

// id is the id of a message that has none of its own. Each priority above the lowest has offsets of its own.
func (p place) id() string {
	b := strconv.AppendUint(make([]byte, 0, 48), uint64(p.partition), 10)
	if p.priority > 1 {
		b = strconv.AppendUint(append(b, '.'), uint64(p.priority), 10)
	}
	return string(strconv.AppendInt(append(b, '-'), p.offset, 10))
}
