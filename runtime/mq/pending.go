package mq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
)

// Pending is a message that [Publisher.PublishAsync] was called for. It is safe for concurrent use. It keeps the answers to all messages of its topic
// that were sent at once with it, some 12 bytes for each: do not keep many for long.
type Pending struct{ ticket ticket }

// Wait returns what Publish would once the message is durable or refused. When ctx ends first, the call returns its error, and the message is
// published all the same.
func (p *Pending) Wait(ctx context.Context) (Receipt, error) {
	receipt, err, answered := p.ticket.wait(ctx)
	switch {
	case !answered:
		return Receipt{}, fmt.Errorf("publish to %q: not answered yet: %w", p.ticket.answers.topic, ctx.Err())
	case err != nil:
		return Receipt{}, fmt.Errorf("publish to %q: %w", p.ticket.answers.topic, err)
	}
	return receipt, nil
}

// PublishAsync is Publish without the wait for the answer: it returns once the message is queued, or refused before that. Messages that one
// goroutine queues one after the other keep that order, as those of Publish do.
//
// What is queued is bounded, for all publishers of a client together, by 16 MiB and 65,536 messages. While it is full or the topic is not
// declared yet, PublishAsync waits until ctx is done. Afterwards ctx does not matter: the message is sent until it is answered or the client is
// closed, which answers it with [ErrClosed]. [Client.Flush] waits for all. Errors are told by [Pending.Wait] only.
func (p *Publisher[M]) PublishAsync(ctx context.Context, msg M, opts ...PublishOption) *Pending {
	if p.direct() {
		t, err := p.queue(ctx, msg, opts)
		if err != nil {
			t = ticket{answers: settled(p.topic.name, Receipt{}, err)}
		}
		return &Pending{t}
	}
	publication, err := p.prepare(msg, opts)
	if err != nil {
		return &Pending{ticket{answers: settled(p.topic.name, Receipt{}, err)}}
	}
	if p.client == nil {
		receipt, err := p.sender.Send(ctx, publication)
		return &Pending{ticket{answers: settled(p.topic.name, receipt, err)}}
	}
	publication.detached = true
	return &Pending{ticket{answers: p.client.publishBeside(ctx, publication)}}
}

// publishBeside publishes through the interceptors in a goroutine, and returns when the record is queued, so that order is kept.
func (c *Client) publishBeside(ctx context.Context, publication *Publication) *answers {
	a := &answers{topic: publication.topic.name, done: make(chan struct{})}
	publication.queued = make(chan struct{}, 1)
	c.beside.Lock()
	c.beside.running[a] = struct{}{}
	c.beside.Unlock()
	go func() {
		receipt, err := Receipt{}, errors.New("an interceptor ended its goroutine")
		defer func() {
			if v := recover(); v != nil {
				receipt, err = Receipt{}, fmt.Errorf("panic: %v\n\n%s", v, debug.Stack())
			}
			a.settle(receipt, err) // before it is forgotten: Flush waits for what is not
			c.beside.Lock()
			delete(c.beside.running, a)
			c.beside.Unlock()
		}()
		receipt, err = c.publish(ctx, publication)
	}()
	select {
	case <-publication.queued:
	case <-a.done:
	}
	return a
}

// settleBeside waits for the goroutines of publishBeside that run now.
func (c *Client) settleBeside(ctx context.Context) error {
	c.beside.Lock()
	running := slices.Collect(maps.Keys(c.beside.running))
	c.beside.Unlock()
	for _, a := range running {
		select {
		case <-a.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Flush returns nil when all messages for which PublishAsync returned before are answered, whatever the answer. It returns the error of ctx if that
// ends first, and ErrClosed if the client was closed.
func (c *Client) Flush(ctx context.Context) error {
	err := c.pipeline.flush(ctx)
	if err == nil {
		err = c.settleBeside(ctx)
	}
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Result is what became of one message of a batch.
type Result struct {
	Receipt Receipt
	Err     error
}

// PublishBatch publishes messages, in order, and returns when each is durable or refused: one result for each, at its index. The options apply to each of
// them. It is no transaction: a message that is refused does not hinder the others. The error of a message is as that of Publish.
func (p *Publisher[M]) PublishBatch(ctx context.Context, msgs []M, opts ...PublishOption) []Result {
	results := make([]Result, len(msgs))
	tickets := make([]ticket, len(msgs)) // those without answers have their result
	for i, msg := range msgs {
		if p.direct() {
			tickets[i], results[i].Err = p.queue(ctx, msg, opts)
			continue
		}
		publication, err := p.prepare(msg, opts)
		switch {
		case err != nil:
			results[i].Err = err
		case p.client == nil:
			results[i].Receipt, results[i].Err = p.sender.Send(ctx, publication)
		default:
			tickets[i].answers = p.client.publishBeside(ctx, publication)
		}
	}
	waiting := ctx
	if !p.direct() {
		waiting = context.Background() // what interceptors publish heeds the context by itself
	}
	for i, t := range tickets {
		if t.answers != nil {
			results[i].Receipt, results[i].Err = p.client.pipeline.wait(waiting, t)
		}
		if results[i].Err != nil {
			results[i] = Result{Err: fmt.Errorf("publish to %q: %w", p.topic.name, results[i].Err)}
		}
	}
	return results
}
