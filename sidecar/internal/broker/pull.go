package broker

import (
	"context"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

const (
	// MaxPull bounds the messages of one Pull.
	MaxPull = 1000
	// MaxPullWait bounds how long a Pull waits for a first message.
	MaxPullWait = time.Minute
)

// Pull leases up to n messages for a fixed time, waiting for a first one as long as wait says. A lease of 0 is the subscription's own.
func (b *Broker) Pull(ctx context.Context, groupName, topicName string, n int, lease, wait time.Duration) ([]Slice, error) {
	g, refused := b.awake(ctx, groupName, topicName)
	if refused != nil {
		return nil, refused
	}
	if lease == 0 {
		lease = g.lease()
	}
	switch {
	case n < 1 || n > MaxPull:
		return nil, fail(BadRequest, "max_messages", "max_messages %d: must be 1 to %d", n, MaxPull).with("bound", MaxPull)
	case lease < time.Second || lease > MaxLease:
		return nil, fail(BadLease, "lease", "lease %v: must be 1s to %v", lease, MaxLease).with("bound", MaxLease)
	case wait < 0 || wait > MaxPullWait:
		return nil, fail(BadRequest, "wait", "wait %v: must be 0 to %v", wait, MaxPullWait).with("bound", MaxPullWait)
	case b.draining.Load():
		return nil, fail(Draining, "", "the sidecar is shutting down")
	}
	s := g.newSession("pull", n, DefaultCreditBytes, lease+wait, true)
	if served, err := g.onAll(ctx, func(sv *serving) { sv.join(s) }); served == 0 {
		s.Close(false)
		return nil, Refusal(err)
	}
	until, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if wait > 0 {
		if runs, _, err := s.Take(until, nil, 1); err == nil {
			s.mu.Lock()
			s.mu.queue = append(runs, s.mu.queue...)
			s.mu.Unlock()
		}
	}
	if ctx.Err() != nil {
		s.Close(false)
		return nil, Refusal(ctx.Err())
	}
	// From here on nothing more is leased; what was leased stays so for the lease that was asked for.
	_ = s.SetCredits(0, 0)
	over := b.now().Add(lease)
	_, err := g.onAll(ctx, func(sv *serving) {
		_ = sv.machine.Step(b.now(), dispatch.Join{Session: s.ID, Until: over, Once: true})
	})
	s.mu.Lock()
	var got []Slice
	for i := range s.mu.queue {
		got = append(got, s.mu.queue[i].Slice())
	}
	s.mu.queue = nil
	s.mu.Unlock()
	if ctx.Err() != nil || err != nil && len(got) == 0 { // nobody is there to take them, or there is nothing to take
		s.Close(false)
		return nil, Refusal(err)
	}
	s.end(nil)
	return got, nil
}

// onAll makes a call to every shard and waits until it has taken effect. It returns how many did it, and why others did not.
func (g *group) onAll(ctx context.Context, do func(*serving)) (served int, err error) {
	errs, err := g.onEach(ctx, do)
	for _, failure := range errs {
		if failure == nil {
			served++
		} else if err == nil {
			err = failure
		}
	}
	return served, err
}

// onEach is onAll that tells of each partition why what was done has no effect, nil if it has. Errors: that of ctx, with which nothing else is known.
func (g *group) onEach(ctx context.Context, do func(*serving)) ([]error, error) {
	g.await(ctx)
	type result struct {
		partition int
		err       error
	}
	results := make(chan result, len(g.shards))
	for p, sh := range g.shards {
		sh.call(task{do: do, done: func(err error) { results <- result{p, err} }})
	}
	errs := make([]error, len(g.shards))
	for range g.shards {
		select {
		case r := <-results:
			errs[r.partition] = r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if ctx.Err() != nil { // it makes no difference which of both was seen first
		return nil, ctx.Err()
	}
	return errs, nil
}
