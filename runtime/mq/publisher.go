package mq

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Publisher publishes to one topic. It is safe for concurrent use, and costs nothing to keep.
type Publisher[M proto.Message] struct {
	client   *Client
	topic    *topic
	describe func(M, *Record)
	defaults []PublishOption
}

// NewPublisher returns a publisher of the topic. The topic is declared at the first Publish. Defaults apply to each message before the
// options of its Publish call, which take their place. A call's [WithDeliverAt] also takes that of a [WithDelay] here, as does the field of a
// message that is annotated as deliver_at, if it is set.
func NewPublisher[M proto.Message](c *Client, t Topic[M], defaults ...PublishOption) *Publisher[M] {
	return &Publisher[M]{client: c, topic: c.topic(t.name, t.descriptor()), describe: t.describe, defaults: defaults}
}

// Receipt says where a published message rests.
type Receipt struct {
	// ID is the message's own id, or "<partition>-<offset>", or with a priority above the lowest "<partition>.<priority>-<offset>".
	ID        string
	Topic     string
	Partition uint32
	// Offset is -1 for a message that is kept back: it gets its place when it is due.
	Offset int64
	// Scheduled reports that the message is kept back, and that [Client.Cancel] takes its ID until it is due.
	Scheduled bool
	// Duplicate reports that the message was published before under the same dedupe id; this is the first receipt.
	Duplicate bool
}

// Publish sends one message and returns when it is durable. Concurrent calls share frames: call it from several goroutines
// for throughput. Messages of one key that one goroutine publishes one after the other keep that order.
//
// A refusal is returned as an [*Error] and means that the message was not published. While the sidecar is away or busy,
// Publish waits: give it a context that ends. If the connection breaks before the answer, the message is sent again after the
// reconnect, so it may be published twice. When ctx ends, the call returns its error; if the message was on its way by
// then, the error is also [ErrUnknownOutcome]. Publish keeps neither msg nor what the options hold.
func (p *Publisher[M]) Publish(ctx context.Context, msg M, opts ...PublishOption) (Receipt, error) {
	receipt, err := p.publish(ctx, msg, opts)
	if err != nil {
		return Receipt{}, fmt.Errorf("publish to %q: %w", p.topic.name, err)
	}
	return receipt, nil
}

func (p *Publisher[M]) publish(ctx context.Context, msg M, opts []PublishOption) (Receipt, error) {
	if any(msg) == nil || !msg.ProtoReflect().IsValid() {
		return Receipt{}, invalid(reasonBadMessage, "payload", "the message is nil", 0)
	}
	var record Record
	if p.describe != nil {
		p.describe(msg, &record)
	}
	// Of the call's options, the message and the defaults, the first that says when the message is delivered is believed.
	derived := record.timing
	record.timing = nil
	for _, opt := range p.defaults {
		opt(&record)
	}
	if derived == nil {
		derived = record.timing
	}
	record.timing = nil
	for _, opt := range opts {
		opt(&record)
	}
	if record.timing == nil {
		record.timing = derived
	}
	if err := record.check(); err != nil {
		return Receipt{}, err
	}
	if err := record.resolve(p.topic.levels.Load()); err != nil {
		return Receipt{}, err
	}
	if err := p.client.ensureDeclared(ctx, p.topic); err != nil {
		return Receipt{}, err
	}
	size := proto.Size(msg)
	if limit := int(p.topic.maxBytes.Load()); size > limit {
		return Receipt{}, messageTooLarge(size, limit)
	}
	if levels := p.topic.levels.Load(); levels > 0 && record.priority > levels {
		return Receipt{}, priorityUnknown(record.priority, levels)
	}

	// The record is encoded here and copied into the frame under the pipeline's lock, so that neither a large message nor
	// one that panics when it is encoded holds up other callers. Nobody but this call ever sees the buffer.
	buffer := p.client.encodings.Get().(*[]byte)
	defer p.client.encodings.Put(buffer)
	encoded, err := appendRecord((*buffer)[:0], &record, msg, size)
	if err != nil {
		return Receipt{}, invalid(reasonBadMessage, "payload", err.Error(), 0)
	}
	if cap(encoded) <= maxKeptEncoding {
		*buffer = encoded
	}
	return p.client.pipeline.publish(ctx, p.topic, encoded, record.ID, uint32(record.priority))
}

// maxKeptEncoding bounds the buffers that are kept for later calls.
const maxKeptEncoding = 64 << 10
