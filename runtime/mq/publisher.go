package mq

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Publisher publishes to one topic. It is safe for concurrent use, and costs nothing to keep.
type Publisher[M proto.Message] struct {
	sender   Sender
	client   *Client // the sender, if it is one; else nil
	topic    *topic
	describe func(M, *Record)
	defaults []PublishOption
}

// NewPublisher returns a publisher of the topic whose messages go to the sender. With a [Client], the topic is declared at the first Publish.
// Defaults apply to each message before the options of its Publish call, which take their place. A call's [WithDeliverAt] also takes that of a
// [WithDelay] here, as does the field of a message that is annotated as deliver_at, if it is set.
//
// Generated code makes one for each rpc, with the defaults that the rpc has; one that is made of a topic alone has those given here.
func NewPublisher[M proto.Message](sender Sender, t Topic[M], defaults ...PublishOption) *Publisher[M] {
	p := &Publisher[M]{sender: sender, describe: t.describe, defaults: defaults}
	switch s := sender.(type) {
	case *Client:
		p.client, p.topic = s, s.topic(t.name, t.descriptor())
	case *Tx:
		p.topic = s.client.topic(t.name, t.descriptor())
	default:
		descriptor := t.descriptor()
		p.topic = &topic{name: t.name, message: descriptor.FullName(), descriptor: descriptor}
	}
	return p
}

// Receipt says where a published message rests.
type Receipt struct {
	// ID is the message's own id, or "<partition>-<offset>", or with a priority above the lowest "<partition>.<priority>-<offset>".
	ID        string
	Topic     string
	Partition uint32
	// Offset is -1 for a message that is kept back: it gets its place when it is due. So it is in a transaction until that is committed.
	Offset int64
	// Scheduled reports that the message is kept back, and that [Client.Cancel] takes its ID until it is due.
	Scheduled bool
	// Duplicate reports that the message was published before under the same dedupe id; this is where it rests since then.
	Duplicate bool
}

// Publish sends one message and, with a [Client], returns when it is durable. What is said here is for a Client; other senders tell what is
// different. Concurrent calls share frames: call it from several goroutines
// for throughput. Messages of one key that one goroutine publishes one after the other keep that order.
//
// A refusal is returned as an [*Error] and means that the message was not published. While the sidecar is away or busy,
// Publish waits: give it a context that ends. If the connection breaks before the answer, the message is sent again after the
// reconnect, as long as anybody waits for the answer to the frame that it was sent in; the sidecar, which remembers a client for
// an hour after it last heard of it, also across its restarts, stores it once. When ctx ends, the call returns its error; if the
// message was on its way by then, the error is also [ErrUnknownOutcome], and publishing it anew may publish it twice, unless
// the topic has a dedupe window and the message an id. Publish keeps neither msg nor what the options hold.
func (p *Publisher[M]) Publish(ctx context.Context, msg M, opts ...PublishOption) (Receipt, error) {
	receipt, err := p.publish(ctx, msg, opts)
	if err != nil {
		return Receipt{}, fmt.Errorf("publish to %q: %w", p.topic.name, err)
	}
	return receipt, nil
}

func (p *Publisher[M]) publish(ctx context.Context, msg M, opts []PublishOption) (Receipt, error) {
	if p.direct() {
		t, err := p.queue(ctx, msg, opts)
		if err != nil {
			return Receipt{}, err
		}
		return p.client.pipeline.wait(ctx, t)
	}
	publication, err := p.prepare(msg, opts)
	switch {
	case err != nil:
		return Receipt{}, err
	case p.client == nil:
		return p.sender.Send(ctx, publication)
	default:
		return p.client.publish(ctx, publication)
	}
}

// direct reports whether a message goes from here to the pipeline, past no interceptor and no other sender.
func (p *Publisher[M]) direct() bool { return p.client != nil && p.client.publish == nil }

// queue checks a message and queues it. Nobody but this call has the publication, so it serves one message after the other.
func (p *Publisher[M]) queue(ctx context.Context, msg M, opts []PublishOption) (ticket, error) {
	d := p.client.drafts.Get().(*draft)
	d.publication.topic, d.publication.message = p.topic, msg
	t, err := ticket{}, p.describeTo(&d.publication.record, msg, opts)
	if err == nil {
		t, err = p.client.enqueue(ctx, &d.publication, &d.encoding)
	}
	d.publication = Publication{} // after a panic nothing is put back
	p.client.drafts.Put(d)
	return t, err
}

// prepare makes the record of a message, by its annotations and the options.
func (p *Publisher[M]) prepare(msg M, opts []PublishOption) (*Publication, error) {
	publication := &Publication{topic: p.topic, message: msg}
	return publication, p.describeTo(&publication.record, msg, opts)
}

// describeTo fills in an empty record.
func (p *Publisher[M]) describeTo(record *Record, msg M, opts []PublishOption) error {
	if any(msg) == nil || !msg.ProtoReflect().IsValid() {
		return invalid(reasonBadMessage, "payload", "the message is nil", 0)
	}
	if p.describe != nil {
		p.describe(msg, record)
	}
	if len(p.defaults)+len(opts) == 0 {
		return nil
	}
	// Of the call's options, the message and the defaults, the first that says when the message is delivered is believed.
	derived := record.timing
	record.timing = nil
	for _, opt := range p.defaults {
		opt(record)
	}
	if derived == nil {
		derived = record.timing
	}
	record.timing = nil
	for _, opt := range opts {
		opt(record)
	}
	if record.timing == nil {
		record.timing = derived
	}
	return nil
}

// draft is what one message is prepared and encoded in.
type draft struct {
	publication Publication
	encoding    []byte
}

// send publishes what the interceptors made of a message, and waits for the answer.
func (c *Client) send(ctx context.Context, p *Publication) (Receipt, error) {
	if p.tx != nil {
		return p.tx.add(ctx, p)
	}
	d := c.drafts.Get().(*draft)
	t, err := c.enqueue(ctx, p, &d.encoding)
	c.drafts.Put(d)
	if err != nil {
		return Receipt{}, err
	}
	if p.queued != nil {
		signal(p.queued)
	}
	if p.detached {
		ctx = context.Background()
	}
	return c.pipeline.wait(ctx, t)
}

// enqueue checks a record and queues it. Nobody else uses the buffer meanwhile.
//
// The record is encoded here and copied into the frame under the pipeline's lock, so that neither a large message nor one that panics when it is
// encoded holds up other callers.
func (c *Client) enqueue(ctx context.Context, p *Publication, buffer *[]byte) (ticket, error) {
	size, err := c.ready(ctx, p)
	if err != nil {
		return ticket{}, err
	}
	encoded, err := p.appendTo((*buffer)[:0], size)
	if err != nil {
		return ticket{}, err
	}
	if cap(encoded) <= maxKeptEncoding {
		*buffer = encoded
	}
	return c.pipeline.queue(ctx, p.topic, &p.record, encoded)
}

// ready checks a record against all bounds, for which it declares the topic if need be, and returns the size of the payload.
func (c *Client) ready(ctx context.Context, p *Publication) (payloadSize int, err error) {
	record, t := &p.record, p.topic
	if err := record.check(); err != nil {
		return 0, err
	}
	if err := record.resolve(t.levels.Load()); err != nil {
		return 0, err
	}
	if err := c.ensureDeclared(ctx, t); err != nil {
		return 0, err
	}
	size := p.payloadSize()
	if limit := int(t.maxBytes.Load()); size > limit {
		return 0, messageTooLarge(size, limit)
	}
	if levels := t.levels.Load(); levels > 0 && record.priority > levels {
		return 0, priorityUnknown(record.priority, levels)
	}
	return size, nil
}

// maxKeptEncoding bounds the buffers that are kept for later calls.
const maxKeptEncoding = 64 << 10
