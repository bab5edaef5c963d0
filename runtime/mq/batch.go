package mq

import (
	"context"
	"iter"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// Batch is the messages of one call of a batch handler: at least one. They come in the order in which they were leased, of a topic with
// priorities the highest first. If the topic is ordered by key, a batch has at most one message of a key.
//
// It is valid until the handler returns. Its methods are safe for concurrent use.
type Batch[M proto.Message] struct {
	call  *Call
	sound []int // the messages of the call that the handler gets; nil: all
}

// Len returns the number of messages.
func (b *Batch[M]) Len() int {
	if b.sound != nil {
		return len(b.sound)
	}
	return len(b.call.items)
}

// Messages yields the messages with their indexes, from 0.
func (b *Batch[M]) Messages() iter.Seq2[int, M] {
	return func(yield func(int, M) bool) {
		for i := range b.Len() {
			if !yield(i, b.At(i)) {
				return
			}
		}
	}
}

// At returns message i. It panics if there is none.
func (b *Batch[M]) At(i int) M { return b.call.items[b.place(i)].message.(M) }

// Meta returns what is known of message i besides its content. It panics if there is none.
func (b *Batch[M]) Meta(i int) *Meta { return b.call.Meta(b.place(i)) }

// Fail settles message i with err as if a handler of single messages had returned it, whatever becomes of the others: an error is tried
// again, [Permanent], [RetryAfter], [Snooze] and [Skip] are what they say. A later err replaces an earlier one; nil changes nothing.
// It panics if there is no message i.
func (b *Batch[M]) Fail(i int, err error) { b.call.Fail(b.place(i), err) }

func (b *Batch[M]) place(i int) int {
	if b.sound != nil {
		return b.sound[i]
	}
	return i
}

// HandleBatch registers the batch handler of a subscription, as [Handle] does for single messages. The size of a batch is bounded by the
// subscription's policy: max_messages, max_bytes of payloads (one larger message is a batch of its own) and max_in_flight. The
// handler is called as soon as a batch is full or its first message has waited for max_wait. [WithConcurrency] bounds how many batches are
// handled at a time; by default as many as fill max_in_flight.
//
// What the handler returns settles the messages that it did not [Batch.Fail] one by one: nil acknowledges them, an error is that of each of
// them, as is a panic. The processing timeout is that of the whole batch. Messages that do not decode become dead letters and are in no batch.
func HandleBatch[T any, P interface {
	*T
	proto.Message
}](w *Worker, s Subscription, handler func(context.Context, *Batch[P]) error) {
	var handle HandlerFunc
	if handler != nil {
		handle = func(ctx context.Context, c *Call) error {
			sound := c.sound()
			if sound != nil && len(sound) == 0 {
				return nil
			}
			return handler(ctx, &Batch[P]{c, sound})
		}
	}
	registered := &subscription{Subscription: s, style: inBatches, decode: decode[T, P], handle: handle}
	registered.batch = batchPolicyOf(s)
	w.register(registered)
}

// batchPolicy bounds the batches of a subscription.
type batchPolicy struct {
	messages int
	bytes    int // of payloads
	wait     time.Duration
	inFlight bool // the annotations set max_in_flight
}

// Defaults of annotations that are not set.
const (
	defaultBatchMessages = 100
	defaultBatchBytes    = 1 << 20
)

// batchPolicyOf reads the bounds from the annotations of the rpc, and of its service where the rpc has none.
func batchPolicyOf(s Subscription) batchPolicy {
	p := batchPolicy{messages: defaultBatchMessages, bytes: defaultBatchBytes}
	if s.File == nil {
		return p
	}
	path, name, _ := strings.Cut(s.RPC, "/")
	service := s.File.Services().ByName(protoreflect.FullName(path).Name())
	if service == nil {
		return p
	}
	if o, ok := proto.GetExtension(service.Options(), mqv1.E_Consumer).(*mqv1.ConsumerOptions); ok {
		p.adopt(o.GetDefaults())
	}
	if method := service.Methods().ByName(protoreflect.Name(name)); method != nil {
		if o, ok := proto.GetExtension(method.Options(), mqv1.E_Subscribe).(*mqv1.SubscribeOptions); ok {
			p.adopt(o)
		}
	}
	return p
}

// adopt takes over what is set.
func (p *batchPolicy) adopt(o *mqv1.SubscribeOptions) {
	b := o.GetBatch()
	if n := b.GetMaxMessages(); n > 0 {
		p.messages = int(n)
	}
	if n := b.GetMaxBytes(); n > 0 {
		p.bytes = int(n)
	}
	if b.GetMaxWait() != nil {
		p.wait = max(0, b.GetMaxWait().AsDuration())
	}
	p.inFlight = p.inFlight || o.GetMaxInFlight() > 0
}

// fillLocked takes the messages of the next batch, or returns nil if there is none yet. Then it sees to it that startLocked is called when
// the first message has waited long enough.
func (s *session) fillLocked() []*delivery {
	waiting, bounds := &s.state.waiting, &s.consumer.subscription.batch
	if waiting.count == 0 {
		return nil
	}
	// Of more than the credit, nothing comes before something is settled: waiting would be for nothing.
	clock := s.consumer.worker.client.hooks.Clock
	full := waiting.count >= min(bounds.messages, s.roomLocked()) || waiting.bytes >= bounds.bytes
	if left := bounds.wait - clock.Now().Sub(waiting.oldest()); !full && left > 0 {
		if s.state.filling == nil {
			s.state.filling = clock.AfterFunc(left, s.batchIsDue)
		} else {
			s.state.filling.Reset(left)
		}
		return nil
	}
	var all []*delivery
	for bytes := 0; len(all) < bounds.messages; {
		d := waiting.peek()
		if d == nil || len(all) > 0 && bytes+d.size > bounds.bytes {
			break
		}
		// One whose earlier handler has not returned waits for that, and must not make others wait.
		late := s.consumer.mu.handled.find(d.place) != nil
		if late && len(all) > 0 {
			break
		}
		bytes += d.size
		all = append(all, waiting.first())
		if late {
			break
		}
	}
	return all
}

// parkLocked notes how many messages wait for a batch to be due, and for nothing else.
func (s *session) parkLocked(n int) {
	if n != s.state.parked {
		s.consumer.worker.client.hooks.Waiting(n - s.state.parked)
		s.state.parked = n
	}
}

// batchIsDue is called when the first message that waits for a batch to be filled has waited long enough.
func (s *session) batchIsDue() {
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	if !s.state.lost {
		s.startLocked()
	}
}

// invokeBatch decodes the messages of a batch and calls the handler.
func (h *handling) invokeBatch() error {
	c := &h.call
	if err := h.awaitEarlier(); err != nil {
		return err
	}
	c.items = make([]item, 0, len(h.all))
	for _, d := range h.all {
		var one item
		if err := d.open(&one); err != nil {
			d.result = verdict(h, err)
			continue
		}
		c.items = append(c.items, one)
	}
	if len(c.items) == 0 {
		return nil
	}
	return c.subscription.handle(h, c)
}

// outcome is what becomes of message i, given the result of the call.
func (c *Call) outcome(ctx context.Context, i int, result *brokerv1.Settlement) (outcome *brokerv1.Settlement) {
	defer func() {
		if p := recover(); p != nil { // in the methods of the error
			outcome = panicOutcome(p)
		}
	}()
	if failure := c.Failure(i); failure != nil {
		return verdict(ctx, failure)
	}
	return share(result)
}

// share returns an outcome that can have a token of its own.
func share(result *brokerv1.Settlement) *brokerv1.Settlement {
	if result == nil {
		return nil
	}
	return &brokerv1.Settlement{Outcome: result.GetOutcome()}
}
