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
}

// NewPublisher returns a publisher of the topic. The topic is declared at the first Publish.
func NewPublisher[M proto.Message](c *Client, t Topic[M]) *Publisher[M] {
	return &Publisher[M]{client: c, topic: c.topic(t.name, t.descriptor()), describe: t.describe}
}

// Receipt says where a published message rests.
type Receipt struct {
	// ID is the message's own id, or "<partition>-<offset>".
	ID        string
	Topic     string
	Partition uint32
	Offset    int64
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
	for _, opt := range opts {
		opt(&record)
	}
	if err := record.check(); err != nil {
		return Receipt{}, err
	}
	if err := p.client.ensureDeclared(ctx, p.topic); err != nil {
		return Receipt{}, err
	}
	size := proto.Size(msg)
	if limit := int(p.topic.maxBytes.Load()); size > limit {
		return Receipt{}, messageTooLarge(size, limit)
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
	return p.client.pipeline.publish(ctx, p.topic, encoded, record.ID)
}

// maxKeptEncoding bounds the buffers that are kept for later calls.
const maxKeptEncoding = 64 << 10
