package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// restAfter is how long a group goes on without consumers, leases and calls before it rests.
const restAfter = time.Minute

// term is a time during which a group's shards run. Outside of one the group costs its entry in the catalogue: nothing is claimed, no goroutine
// waits, nothing of its state is in memory. A group begins a term when it is needed, and ends it when it was not for a while.
type term struct {
	stop    context.CancelFunc
	stopped bool
	begun   chan struct{} // closed when its shards run
	done    chan struct{} // closed when they have ended
}

// wakeUp lets the group's shards run, if they do not.
func (g *group) wakeUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.used = g.broker.now()
	before := g.mu.term
	if before != nil && !before.stopped {
		return
	}
	ctx, stop := context.WithCancel(g.broker.running)
	t := &term{stop: stop, begun: make(chan struct{}), done: make(chan struct{})}
	if !g.broker.goUnlessClosed(func() { g.serve(ctx, t, before) }) {
		stop()
		return
	}
	g.mu.term = t
}

// serve runs the shards of a term, after the one before has ended.
func (g *group) serve(ctx context.Context, t, before *term) {
	defer g.broker.stir()
	defer close(t.done)
	defer t.stop()
	if before != nil {
		<-before.done
	}
	for _, s := range g.shards {
		s.begin()
	}
	close(t.begun)
	var shards sync.WaitGroup
	for _, s := range g.shards {
		shards.Go(func() { s.run(ctx) })
	}
	shards.Wait()
}

// await returns when every shard of the present term has served or failed to, at once if the group rests, or when ctx is done.
func (g *group) await(ctx context.Context) {
	g.mu.Lock()
	t := g.mu.term
	rests := t == nil || t.stopped
	g.mu.Unlock()
	if rests {
		return
	}
	if over(t.begun) && !slices.ContainsFunc(g.shards, func(s *shard) bool { return !over(s.tried()) }) {
		return
	}
	who := waiter(g.broker.lastWaiter.Add(1))
	defer func() { g.broker.turn(who) }() // all who wait go on at once
	select {
	case <-t.begun:
	case <-t.done:
		return
	case <-ctx.Done():
		return
	}
	for _, s := range g.shards {
		select {
		case <-s.tried():
		case <-t.done: // the broker is closed
			return
		case <-ctx.Done():
			return
		}
	}
}

// waiter is somebody who waited for a group.
type waiter uint64

// String names the goroutine that waited.
func (w waiter) String() string { return fmt.Sprintf("waiter %d", uint64(w)) }

// touch notes that the group is needed, in the middle of a long call.
func (g *group) touch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.used = g.broker.now()
}

func (g *group) resting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.term == nil || g.mu.term.stopped
}

// restless tells whether the group has work that no consumer asks for: dead letters that are to be deleted in time.
func (g *group) restless() bool { return g.policy.Load().decl.DeadLetter.Retention > 0 }

// restIfUnused ends the term of a group that nobody needs.
func (g *group) restIfUnused() {
	if g.restless() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.mu.term
	if t == nil || t.stopped || len(g.mu.sessions) > 0 || g.broker.now().Sub(g.mu.used) < restAfter {
		return
	}
	for _, s := range g.shards {
		if s.leases.Load() > 0 { // to a Pull
			return
		}
	}
	t.stopped = true
	t.stop()
}

// goUnlessClosed runs f in a goroutine that Close waits for, or returns false after Close.
func (b *Broker) goUnlessClosed(f func()) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.mu.closed {
		return false
	}
	b.work.Go(f)
	return true
}

// awake finds a group and has its shards run. It returns when they serve, failed to, or ctx is done.
func (b *Broker) awake(ctx context.Context, groupName, topicName string) (*group, *Error) {
	g, refused := b.group(groupName, topicName)
	if refused != nil {
		return nil, refused
	}
	g.wakeUp()
	g.await(ctx)
	return g, nil
}
