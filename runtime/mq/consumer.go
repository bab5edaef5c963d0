package mq

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// consumer runs one subscription, from one session with the sidecar to the next.
//
// The number of handlers is bounded across sessions: a handler that outlives its session, or its processing timeout, keeps its
// place until it returns, and the sidecar is given that much less credit.
type consumer struct {
	worker       *Worker
	subscription *subscription
	policy       policy // of the next session
	log          *slog.Logger

	settlers sync.WaitGroup
	returned chan struct{} // of capacity 1: a handler returned

	// It also guards the fields of sessions that say so.
	mu struct {
		sync.Mutex
		coming  bool // a goroutine is about to call nextLocked
		running int  // handlers that have not returned
		held    int  // their messages
		handled handled
		current *session // nil between sessions
	}
}

func newConsumer(w *Worker, s *subscription, p policy) *consumer {
	c := &consumer{worker: w, subscription: s, policy: p, log: w.logger(s), returned: make(chan struct{}, 1)}
	c.mu.handled = newHandled(c.window())
	return c
}

// limit is the most handlers that may run: of batches as many as the messages that may be unsettled fill.
func (c *consumer) limit() int {
	most := c.unsettled()
	if c.subscription.style == inBatches {
		size := c.subscription.batch.messages
		most = (most + size - 1) / size
	}
	if n := c.worker.options.concurrency; n > 0 {
		return min(n, most)
	}
	return most
}

// unsettled is the subscription's bound of messages that are unsettled here. Where the annotations leave it open, a batch can be filled.
func (c *consumer) unsettled() int {
	if b := &c.subscription.batch; c.subscription.style == inBatches && !b.inFlight {
		return max(c.policy.limit, b.messages)
	}
	return c.policy.limit
}

// window is the most messages that may be unsettled here: those that handlers work on, and those that wait for one.
func (c *consumer) window() int {
	handled := c.limit()
	if c.subscription.style == inBatches {
		handled *= c.subscription.batch.messages
	}
	return min(handled+c.prefetch(), c.unsettled())
}

// prefetch is how many messages may wait for a handler: none in a topic with priorities, where they would start before a higher one that is
// ready at the sidecar.
func (c *consumer) prefetch() int {
	if c.policy.levels > 1 {
		return 0
	}
	return c.worker.options.prefetch
}

// handlers returns the number of handlers that have not returned.
func (c *consumer) handlers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.running
}

// run consumes until l.stop is done and everything is settled, or l.streams is done, or the sidecar refuses for good. The
// subscription has just been declared.
func (c *consumer) run(l life) error {
	defer c.settlers.Wait()
	defer c.below(l.streams, 1)
	var pause backoff
	for first := true; c.below(l.stop, c.limit()); first = false {
		opened := time.Now()
		joined, err := false, error(nil)
		if !first {
			err = c.declare(l.stop)
		}
		declared := err == nil
		if declared {
			joined, err = c.session(l)
		}
		if l.stop.Err() != nil {
			break
		}
		if joined {
			c.worker.counts.reconnects.Add(1)
		} else if final(err) && !(declared && undeclared(err)) {
			return err
		}
		if joined && time.Since(opened) > maxWait {
			pause.reset()
		}
		switch {
		case err == nil:
			c.log.Info("the sidecar drains, reconnecting")
		case joined && pause.loud():
			c.log.Warn("the stream was lost, reconnecting", "failures", pause.failures+1, "error", err)
		case pause.loud():
			c.log.Warn("cannot consume at the moment, trying again", "failures", pause.failures+1, "error", err)
		}
		if !pause.wait(l.stop) {
			break
		}
	}
	return nil
}

// declare declares the subscription again: the sidecar may be a new one.
func (c *consumer) declare(ctx context.Context) error {
	policies, err := c.worker.client.declareSubscriptions(ctx, []*subscription{c.subscription})
	if err != nil {
		return err
	}
	c.policy = policies[0]
	return nil
}

// below waits until fewer than n handlers run. It returns false if ctx ended first.
func (c *consumer) below(ctx context.Context, n int) bool {
	for ctx.Err() == nil {
		if c.handlers() < n {
			return true
		}
		select {
		case <-c.returned:
		case <-ctx.Done():
		}
	}
	return false
}

// signal wakes the reader of a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
