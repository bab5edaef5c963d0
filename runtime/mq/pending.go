package mq

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

// Pending is a message that [Publisher.PublishAsync] was called for. It is safe for concurrent use.
type Pending struct {
	topic string
	// The answer is put back by who takes it, for the next.
	answer chan answer
}

// Wait returns what Publish would once the message is durable or refused. When ctx ends first, the call returns its error, and the message is
// published all the same.
func (p *Pending) Wait(ctx context.Context) (Receipt, error) {
	select {
	case a := <-p.answer:
		return p.result(a)
	default:
	}
	select {
	case a := <-p.answer:
		return p.result(a)
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("publish to %q: not answered yet: %w", p.topic, ctx.Err())
	}
}

func (p *Pending) result(a answer) (Receipt, error) {
	p.answer <- a
	if a.err != nil {
		return Receipt{}, fmt.Errorf("publish to %q: %w", p.topic, a.err)
	}
	return a.receipt, nil
}

// PublishAsync is Publish without the wait for the answer: it returns once the message is queued, or refused before that. Messages that one
// goroutine queues one after the other keep that order, as those of Publish do.
//
// What is queued is bounded, for all publishers of a client together, by 16 MiB and 65,536 messages. While it is full or the topic is not
// declared yet, PublishAsync waits until ctx is done. Afterwards ctx does not matter: the message is sent until it is answered or the client is
// closed, which answers it with [ErrClosed]. [Client.Flush] waits for all. Errors are told by [Pending.Wait] only.
func (p *Publisher[M]) PublishAsync(ctx context.Context, msg M, opts ...PublishOption) *Pending {
	publication, err := p.prepare(msg, opts)
	if err != nil {
		return pendingWith(p.topic, answer{err: err})
	}
	if p.client == nil {
		receipt, err := p.sender.Send(ctx, publication)
		return pendingWith(p.topic, answer{receipt, err})
	}
	publication.detached = true
	if p.client.publish != nil {
		return p.client.publishBeside(ctx, publication)
	}
	e, err := p.client.enqueue(ctx, publication)
	if err != nil {
		return pendingWith(p.topic, answer{err: err})
	}
	return &Pending{p.topic.name, e.answer}
}

// pendingWith is the pending message whose answer is known.
func pendingWith(t *topic, a answer) *Pending {
	p := &Pending{t.name, make(chan answer, 1)}
	p.answer <- a
	return p
}

// publishBeside publishes through the interceptors in a goroutine, and returns when the record is queued, so that order is kept.
func (c *Client) publishBeside(ctx context.Context, publication *Publication) *Pending {
	p := &Pending{publication.topic.name, make(chan answer, 1)}
	publication.queued = make(chan struct{}, 1)
	done := make(chan struct{})
	c.beside.Lock()
	c.beside.running[p] = done
	c.beside.Unlock()
	go func() {
		a := answer{err: errors.New("an interceptor ended its goroutine")}
		defer func() {
			if v := recover(); v != nil {
				a = answer{err: fmt.Errorf("panic: %v\n\n%s", v, debug.Stack())}
			}
			p.answer <- a
			c.beside.Lock()
			delete(c.beside.running, p)
			c.beside.Unlock()
			close(done)
		}()
		a.receipt, a.err = c.publish(ctx, publication)
	}()
	select {
	case <-publication.queued:
	case <-done:
	}
	return p
}

// settleBeside waits for the goroutines of publishBeside that run now.
func (c *Client) settleBeside(ctx context.Context) error {
	c.beside.Lock()
	var running []chan struct{}
	for _, done := range c.beside.running {
		running = append(running, done)
	}
	c.beside.Unlock()
	for _, done := range running {
		select {
		case <-done:
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
	waits := make([]func() (Receipt, error), len(msgs))
	for i, msg := range msgs {
		publication, err := p.prepare(msg, opts)
		switch {
		case err != nil:
		case p.client == nil:
			results[i].Receipt, err = p.sender.Send(ctx, publication)
		case p.client.publish != nil:
			// The answer heeds the context by itself.
			pending := p.client.publishBeside(ctx, publication)
			waits[i] = func() (Receipt, error) { a := <-pending.answer; return a.receipt, a.err }
		default:
			var e *entry
			if e, err = p.client.enqueue(ctx, publication); err == nil {
				waits[i] = func() (Receipt, error) { return p.client.pipeline.wait(ctx, e) }
			}
		}
		results[i].Err = err
	}
	for i := range results {
		if waits[i] != nil {
			results[i].Receipt, results[i].Err = waits[i]()
		}
		if results[i].Err != nil {
			results[i] = Result{Err: fmt.Errorf("publish to %q: %w", p.topic.name, results[i].Err)}
		}
	}
	return results
}
