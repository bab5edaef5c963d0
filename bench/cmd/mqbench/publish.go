package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// sender publishes n messages, numbered from i on, and returns when all are durable.
type sender func(ctx context.Context, i, n int) error

// content is what messages are made of. All have the same body, which nobody writes to.
type content struct {
	keys []string
	body []byte
}

func (s settings) content() content {
	c := content{body: make([]byte, s.size)}
	for i := range c.body {
		c.body[i] = byte(i*7 + i>>8)
	}
	for i := range s.keys {
		c.keys = append(c.keys, fmt.Sprintf("key%07d", i))
	}
	return c
}

func (c content) key(i int) string           { return c.keys[i%len(c.keys)] }
func (c content) job(i int) *benchv1.Job     { return &benchv1.Job{Key: c.key(i), Body: c.body} }
func (c content) event(i int) *benchv1.Event { return &benchv1.Event{Key: c.key(i), Body: c.body} }
func (c content) loose(int) *benchv1.Loose   { return &benchv1.Loose{Body: c.body} }
func (c content) wide(i int) *benchv1.Wide   { return &benchv1.Wide{Key: c.key(i), Body: c.body} }
func (c content) late(i int) *benchv1.Late   { return &benchv1.Late{Key: c.key(i), Body: c.body} }

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

// spread gives each caller its own part of the keys' cycle, so that they do not go over the keys in step.
const spread = 1_000_003

// publish has each of n callers send batches, one after the other, until the context ends or one fails. Caller i sends through senders[i mod their number]. If room is not
// nil, each batch first takes a place in it. What is durable is added to count.
func publish(ctx context.Context, n, batch int, room chan struct{}, count *atomic.Int64, senders ...sender) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	for c := range n {
		work.Go(func() {
			send := senders[c%len(senders)]
			for i := c * spread; ctx.Err() == nil; i += batch {
				if room != nil {
					select {
					case room <- struct{}{}:
					case <-ctx.Done():
						return
					}
				}
				if err := send(ctx, i, batch); err != nil {
					cancel(err) // the first error counts; after the end of the context it is that
					return
				}
				count.Add(int64(batch))
			}
		})
	}
	work.Wait()
	return context.Cause(ctx)
}

// publishOnly measures publishing to the queue with a number of callers.
func publishOnly(n, batch func(settings) int, how func(*mq.Client, content) sender) measure {
	return func(ctx context.Context, s settings, name string) ([]measured, error) {
		return s.with(ctx, func(c *sidecar) ([]measured, error) {
			client, err := c.client(ctx)
			if err != nil {
				return nil, err
			}
			var count atomic.Int64
			send := how(client, s.content())
			m, err := c.window(ctx, name, perSecond, count.Load, func(ctx context.Context) error {
				return publish(ctx, n(s), batch(s), nil, &count, send)
			})
			return []measured{m}, err
		})
	}
}

func jobsAsync(c *mq.Client, m content) sender   { return async(benchv1mq.NewStreamQueue(c), m.job) }
func jobsBatched(c *mq.Client, m content) sender { return batched(benchv1mq.NewStreamQueue(c), m.job) }
func jobsOne(c *mq.Client, m content) sender     { return one(benchv1mq.NewStreamQueue(c), m.job) }
func looseAsync(c *mq.Client, m content) sender {
	return async(benchv1mq.NewScalePublishLoose(c), m.loose)
}
func wideAsync(c *mq.Client, m content) sender {
	return async(benchv1mq.NewScalePublishWide(c), m.wide)
}

func eight(settings) int             { return callers }
func fixed(n int) func(settings) int { return func(settings) int { return n } }
