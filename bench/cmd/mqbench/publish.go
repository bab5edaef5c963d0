package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// sender publishes n messages, numbered from i on, and returns when all are durable.
type sender func(ctx context.Context, i, n int) error

// content is what messages are made of. Bodies are parts of one noise, so that they neither compress nor cost anything to make. Nobody writes to them.
type content struct {
	keys  []string
	noise []byte
	size  int
}

func (s settings) content() content {
	c := content{size: s.size, noise: make([]byte, 1<<20+s.size)}
	_, _ = rand.NewChaCha8([32]byte{}).Read(c.noise)
	for i := range s.keys {
		c.keys = append(c.keys, fmt.Sprintf("key%07d", i))
	}
	return c
}

// body is that of message i. Those of 65,536 messages in a row begin at different places.
func (c content) body(i int) []byte {
	const step = 40_503 * 16 // odd times 16: all multiples of 16 below 1 MiB have their turn
	at := i * step % (1 << 20)
	return c.noise[at : at+c.size]
}

func (c content) key(i int) string           { return c.keys[i%len(c.keys)] }
func (c content) job(i int) *benchv1.Job     { return &benchv1.Job{Key: c.key(i), Body: c.body(i)} }
func (c content) event(i int) *benchv1.Event { return &benchv1.Event{Key: c.key(i), Body: c.body(i)} }
func (c content) loose(i int) *benchv1.Loose { return &benchv1.Loose{Body: c.body(i)} }
func (c content) wide(i int) *benchv1.Wide   { return &benchv1.Wide{Key: c.key(i), Body: c.body(i)} }
func (c content) late(i int) *benchv1.Late   { return &benchv1.Late{Key: c.key(i), Body: c.body(i)} }

// async publishes by PublishAsync: one call for each message, and a wait for each.
func async[M proto.Message](pub *mq.Publisher[M], message func(i int) M) sender {
	lists := pool[*mq.Pending]{}
	return func(ctx context.Context, i, n int) error {
		pending := lists.get()
		defer func() { lists.put(pending) }()
		for j := range n {
			pending = append(pending, pub.PublishAsync(ctx, message(i+j)))
		}
		for _, p := range pending {
			if _, err := p.Wait(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// batched publishes by PublishBatch.
func batched[M proto.Message](pub *mq.Publisher[M], message func(i int) M) sender {
	lists := pool[M]{}
	return func(ctx context.Context, i, n int) error {
		messages := lists.get()
		defer func() { lists.put(messages) }()
		for j := range n {
			messages = append(messages, message(i+j))
		}
		for _, r := range pub.PublishBatch(ctx, messages) {
			if r.Err != nil {
				return r.Err
			}
		}
		return nil
	}
}

// one publishes by Publish, one message after the other.
func one[M proto.Message](pub *mq.Publisher[M], message func(i int) M) sender {
	return func(ctx context.Context, i, n int) error {
		for j := range n {
			if _, err := pub.Publish(ctx, message(i+j)); err != nil {
				return err
			}
		}
		return nil
	}
}

// pool keeps lists that are used again.
type pool[T any] struct{ sync.Pool }

func (p *pool[T]) get() []T {
	if list, ok := p.Get().(*[]T); ok {
		return (*list)[:0]
	}
	return nil
}

func (p *pool[T]) put(list []T) {
	clear(list)
	p.Put(&list)
}

// crew is callers that publish batches, one after the other.
type crew struct {
	callers, batch int
	total          int           // messages to publish; 0 to go on until the context ends
	room           chan struct{} // in which each batch first takes a place; nil for no bound
	durable        atomic.Int64  // messages that were published
}

// publish returns when all is durable, the context ends or a caller fails. Caller i sends through senders[i mod their number].
func (c *crew) publish(ctx context.Context, senders ...sender) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	var next atomic.Int64
	for caller := range c.callers {
		work.Go(func() {
			if err := c.call(ctx, &next, senders[caller%len(senders)]); err != nil {
				cancel(err) // the first error counts; after the end of the context it is that
			}
		})
	}
	work.Wait()
	return context.Cause(ctx)
}

// call is the work of one caller.
func (c *crew) call(ctx context.Context, next *atomic.Int64, send sender) error {
	for {
		if c.room != nil {
			select {
			case c.room <- struct{}{}:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		i, n := int(next.Add(int64(c.batch)))-c.batch, c.batch
		if c.total > 0 {
			if n = min(n, c.total-i); n <= 0 {
				return nil
			}
		}
		if err := send(ctx, i, n); err != nil {
			return err
		}
		c.durable.Add(int64(n))
	}
}

// publishOnly measures publishing to the queue by a number of callers with that many messages each on their way.
func publishOnly(callers int, batch func(settings) int, how func(*mq.Client, content) sender) measure {
	return func(ctx context.Context, s settings, name string) ([]measured, error) {
		return s.with(ctx, func(c *sidecar) ([]measured, error) {
			client, err := c.client(ctx)
			if err != nil {
				return nil, err
			}
			p, send := &crew{callers: callers, batch: batch(s)}, how(client, s.content())
			m, err := c.window(ctx, name, perSecond, p.durable.Load, func(ctx context.Context) error { return p.publish(ctx, send) })
			return only(m, err)
		})
	}
}

// single is the batch of callers that publish one message at a time.
func single(settings) int { return 1 }

func jobsAsync(c *mq.Client, m content) sender   { return async(benchv1mq.NewStreamQueue(c), m.job) }
func jobsBatched(c *mq.Client, m content) sender { return batched(benchv1mq.NewStreamQueue(c), m.job) }
func jobsOne(c *mq.Client, m content) sender     { return one(benchv1mq.NewStreamQueue(c), m.job) }
func looseAsync(c *mq.Client, m content) sender {
	return async(benchv1mq.NewScalePublishLoose(c), m.loose)
}
func wideAsync(c *mq.Client, m content) sender {
	return async(benchv1mq.NewScalePublishWide(c), m.wide)
}
