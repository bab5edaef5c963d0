package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Bounds of one commit of the schedule.
const (
	scheduleRecords = 4096
	scheduleBytes   = 2 << 20
)

// schedule keeps the messages of all topics that are not due yet: a goroutine that owns their shard whenever the cluster lets it. Nothing of a message is
// in memory; a message enters its topic in the commit that takes it off the schedule.
type schedule struct {
	broker *Broker
	wake   chan struct{} // holds a token when there is something to do
	work   work

	mu struct {
		sync.Mutex
		calls   []*scheduleCall
		serving bool
		fault   error // why it does not serve
		store   engine.Shard
		front   scheduledPlace // no entry is before it
	}
}

// scheduleCall is something that the schedule's goroutine is asked to do: to add entries, with appends in the same commit, to cancel, or to stand still for a
// transaction.
type scheduleCall struct {
	loan *loan // nil for the others

	add     []scheduledRecord
	appends []engine.Append
	parts   []engine.Part // of other shards, whose writes name the appends by their index
	size    int

	topic  engine.TopicID // of the ids
	cancel []string       // ids

	begun  atomic.Bool // set by the goroutine, which then does it, or by the caller, who then gave up
	answer chan scheduleAnswer
}

// refuse answers a call that is not done.
func (c *scheduleCall) refuse(err error) {
	if c.loan != nil {
		c.loan.refuse(err)
		return
	}
	c.answer <- scheduleAnswer{err: err}
}

// scheduleAnswer is what became of a call.
type scheduleAnswer struct {
	firsts   []engine.Offset // of the appends
	canceled []int           // entries of each id
	more     bool            // there are more of them
	err      error
}

func newSchedule(b *Broker) *schedule {
	s := &schedule{broker: b, wake: make(chan struct{}, 1)}
	s.mu.fault = errNotServing
	return s
}

// String names the schedule's goroutine.
func (*schedule) String() string { return "schedule" }

func (s *schedule) signal() {
	s.work.asked.Add(1)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	s.broker.stir()
}

// add makes entries, appends and parts of other shards durable in one commit, and returns the first offset of each append.
func (s *schedule) add(ctx context.Context, records []scheduledRecord, appends []engine.Append, parts []engine.Part) ([]engine.Offset, error) {
	c := &scheduleCall{add: records, appends: appends, parts: parts}
	for _, r := range records {
		c.size += r.size()
	}
	for _, a := range appends {
		c.size += len(a.Records)
	}
	answer := s.do(ctx, c)
	return answer.firsts, answer.err
}

// do hands a call to the goroutine and waits for what becomes of it.
func (s *schedule) do(ctx context.Context, c *scheduleCall) scheduleAnswer {
	c.answer = make(chan scheduleAnswer, 1)
	s.mu.Lock()
	if !s.mu.serving {
		err := s.mu.fault
		s.mu.Unlock()
		return scheduleAnswer{err: err}
	}
	s.mu.calls = append(s.mu.calls, c)
	s.mu.Unlock()
	s.signal()
	select {
	case answer := <-c.answer:
		return answer
	case <-ctx.Done():
	}
	if c.begun.CompareAndSwap(false, true) {
		return scheduleAnswer{err: ctx.Err()}
	}
	select {
	case answer := <-c.answer:
		return answer
	default:
		return scheduleAnswer{err: fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, ctx.Err())}
	}
}

// take returns the calls that fit into one commit, in the order in which they came, and whether there are more. A loan comes alone.
func (s *schedule) take() (calls []*scheduleCall, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	records, size, n := 0, 0, 0
	for _, c := range s.mu.calls {
		records += len(c.add) + len(c.cancel)
		size += c.size
		// What has parts of other shards comes first in its commit, and a loan alone.
		if n > 0 && (records > scheduleRecords || size > scheduleBytes || len(c.parts) > 0 || c.loan != nil) {
			break
		}
		n++
		if c.begun.CompareAndSwap(false, true) {
			calls = append(calls, c)
		}
		if c.loan != nil {
			break
		}
	}
	rest := s.mu.calls[n:]
	s.mu.calls = append([]*scheduleCall(nil), rest...)
	return calls, len(rest) > 0
}

// open lets calls in; close refuses those that are waiting and all to come.
func (s *schedule) open(store engine.Shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.serving, s.mu.fault, s.mu.store, s.mu.front = true, nil, store, scheduledPlace{}
}

func (s *schedule) close(fault error) {
	s.mu.Lock()
	calls := s.mu.calls
	s.mu.calls = nil
	s.mu.serving, s.mu.fault, s.mu.store = false, fault, nil
	s.mu.Unlock()
	for _, c := range calls {
		c.refuse(fault)
	}
}

// run serves the shard that was claimed, and then owns it again and again until ctx is done.
func (s *schedule) run(ctx context.Context, owned *scheduling) {
	b := s.broker
	wait := retryFirst
	for {
		started := b.clock.Now()
		err := owned.serve(ctx)
		for {
			if ctx.Err() != nil {
				s.close(fail(Draining, "", "the sidecar is shutting down"))
				return
			}
			if errors.Is(err, engine.ErrUnknownOutcome) { // which is not so for what was not tried yet
				s.close(errNotServing)
			} else {
				s.close(errors.Join(errNotServing, err))
			}
			if b.clock.Now().Sub(started) > retryMost {
				wait = retryFirst
			}
			if !errors.Is(err, errOwned) {
				b.log.Warn("scheduled messages are not served for now", "error", err, "retry_in", wait)
			}
			b.sleep(ctx, wait)
			wait = min(2*wait, retryMost)
			started = b.clock.Now()
			if owned, err = s.own(ctx); err == nil {
				s.open(owned.store)
				break
			}
		}
	}
}

// sleep returns after d, or when ctx is done.
func (b *Broker) sleep(ctx context.Context, d time.Duration) {
	over := make(chan struct{})
	stop := b.clock.AfterFunc(d, func() { close(over) })
	defer stop()
	select {
	case <-over:
	case <-ctx.Done():
	}
}

// own claims the shard and reads what has to be known of it.
func (s *schedule) own(ctx context.Context) (*scheduling, error) {
	s.broker.turn(s)
	got, err := s.broker.claims.acquire(ctx, scheduleShard)
	if err != nil {
		return nil, err
	}
	store, err := s.broker.engine.Fence(ctx, scheduleShard, got.claim.Epoch)
	if err != nil {
		return nil, err
	}
	sequence, err := loadSequence(ctx, store)
	if err != nil {
		return nil, err
	}
	mark, err := loadClock(ctx, store)
	if err != nil {
		return nil, err
	}
	return &scheduling{
		schedule: s, claim: got, store: store, sequence: sequence, mark: mark, damaged: make(map[engine.LogID]bool),
	}, nil
}
