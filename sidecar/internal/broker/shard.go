package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// How long a shard waits before it tries to own its partition again, at first and at most.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// shard is one partition of a group at this sidecar: a goroutine that owns it whenever the cluster lets it.
type shard struct {
	group     *group
	partition uint32
	id        engine.ShardID

	wake   chan struct{} // holds a token when there is something to do
	work   work
	hunger hunger
	leases atomic.Int64 // as of the last turn
	cached []laneState  // of a mutant

	mu struct {
		sync.Mutex
		calls   []task
		tried   chan struct{} // of the present term: closed once the shard has served or failed to
		serving bool
		fault   error // why it does not serve
		past    Counters
		store   engine.Shard
	}
}

// task is a call to a shard. do runs in the shard's goroutine; done, if set, is called with nil when the effects of do are durable, and with
// an error when they are not or do never ran. done must not block. A loan takes the place of do; then done is only called if the shard cannot lend.
type task struct {
	do   func(*serving)
	done func(error)
	loan *loan
}

func (t task) finish(err error) {
	if t.done != nil {
		t.done(err)
	}
}

func newShard(g *group, partition uint32) *shard {
	return &shard{
		group: g, partition: partition, wake: make(chan struct{}, 1),
		id: engine.ShardID{Group: g.name, Topic: g.topic.id, Partition: partition},
	}
}

// String names the shard's goroutine.
func (s *shard) String() string { return "shard " + s.id.String() }

func (s *shard) signal() {
	s.work.asked.Add(1)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	s.group.broker.stir()
}

// call hands a task to the shard's goroutine, or refuses it if the shard does not serve.
func (s *shard) call(t task) {
	s.mu.Lock()
	if !s.mu.serving {
		err := s.mu.fault
		s.mu.Unlock()
		if err == nil {
			err = errNotServing
		}
		t.finish(err)
		return
	}
	s.mu.calls = append(s.mu.calls, t)
	s.mu.Unlock()
	s.signal()
}

// why tells why the shard does not serve, if it does not and that is known.
func (s *shard) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.fault
}

func (s *shard) takeCalls() []task {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.mu.calls
	s.mu.calls = nil
	return calls
}

// open lets calls in; close refuses those that are waiting and all to come.
func (s *shard) open(store engine.Shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.serving, s.mu.fault, s.mu.store = true, nil, store
	s.triedLocked()
}

func (s *shard) triedLocked() {
	select {
	case <-s.mu.tried:
	default:
		close(s.mu.tried)
	}
}

// begin makes the shard ready for another term.
func (s *shard) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.tried = make(chan struct{})
}

// tried is closed once the shard has served or failed to in its present term.
func (s *shard) tried() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.tried
}

func (s *shard) close(fault error) {
	s.mu.Lock()
	calls := s.mu.calls
	s.mu.calls = nil
	s.mu.serving, s.mu.fault, s.mu.store = false, fault, nil
	s.triedLocked()
	s.mu.Unlock()
	s.group.broker.stir()
	for _, t := range calls {
		t.finish(fault)
	}
}

// run owns the partition again and again until ctx is done.
func (s *shard) run(ctx context.Context) {
	wait := retryFirst
	for ctx.Err() == nil {
		started := s.group.broker.clock.Now()
		err := s.own(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.group.broker.clock.Now().Sub(started) > retryMost {
			wait = retryFirst
		}
		if !errors.Is(err, errOwned) {
			s.group.broker.log.Warn("partition is not served for now", "group", s.group.name, "topic", s.group.topicName(),
				"partition", s.partition, "error", err, "retry_in", wait)
		}
		s.group.broker.sleep(ctx, wait)
		wait = min(2*wait, retryMost)
	}
}

// own claims the partition, serves it, and returns why it no longer does. The machine lives and dies with this call.
func (s *shard) own(ctx context.Context) error {
	b := s.group.broker
	b.turn(s)
	got, err := b.claims.acquire(ctx, s.id)
	if err != nil {
		s.close(err)
		return err
	}
	store, err := b.engine.Fence(ctx, s.id, got.claim.Epoch)
	if err != nil {
		s.close(err)
		return err
	}
	sv, err := newServing(ctx, s, got, store)
	if err != nil {
		s.close(err)
		return err
	}
	s.signal() // before it serves, so that it is not taken for idle
	s.open(store)
	err = sv.serve(ctx)
	sv.stop()
	s.keep(sv.counters())
	s.close(errors.Join(errNotServing, err))
	sv.failPending(err)
	if ctx.Err() != nil && b.running.Err() == nil { // the group rests; at the end all are given up at once
		err = errors.Join(err, b.claims.release(b.running, s.id))
	}
	return err
}
