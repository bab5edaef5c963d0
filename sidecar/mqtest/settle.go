package mqtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what should come by itself.
const patience = 10 * time.Second

// changes counts what happens, and wakes who waits for more.
type changes struct {
	mu *changesState
}

type changesState struct {
	sync.Mutex
	count  uint64
	next   chan struct{} // closed with the next change; nil if nobody waits
	parked int           // messages that clients let wait for the clock
}

func newChanges() changes { return changes{&changesState{}} }

// note counts a change.
func (c changes) note() { c.park(0) }

// park counts a change of the number of messages that clients let wait for the clock.
func (c changes) park(more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.parked += more
	c.mu.count++
	if c.mu.next != nil {
		close(c.mu.next)
		c.mu.next = nil
	}
}

// waiting is how many messages clients let wait for the clock.
func (c changes) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.parked
}

// seen is the count.
func (c changes) seen() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.count
}

// after is closed once the count is not seen any more.
func (c changes) after(seen uint64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.count != seen {
		now := make(chan struct{})
		close(now)
		return now
	}
	if c.mu.next == nil {
		c.mu.next = make(chan struct{})
	}
	return c.mu.next
}

// Settle returns when nothing can happen any more before the clock moves: every message that some consumer may have now was handled and its outcome is stored. Messages
// that wait for a retry, a delay, a batch to be full, or a consumer do not keep it. It runs the workers that [Sidecar.Worker] made and waits until they consume.
//
// Nothing is polled: the broker tells when it begins and ends something, and Settle looks at it as a whole when that stops.
//
// It does not know of what has not reached the SDK yet, such as a goroutine of the test that is about to publish. A consumer that the test runs itself counts from when
// it has joined: see [Sidecar.AwaitConsumers]. After ten seconds it gives up and tells what is not done.
func (s *Sidecar) Settle(t testing.TB) {
	t.Helper()
	s.startWorkers()
	s.flush(t)
	s.await(t, "not settled", func() bool {
		s.checkWorkers(t)
		b := s.broker()
		return b != nil && s.allJoined() && s.allAnswered() && b.Idle(s.changes.waiting()) && s.broker() == b // one that crashed meanwhile is idle
	})
}

// flush waits for what was published without waiting for the receipt.
func (s *Sidecar) flush(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	clients := s.mu.clients
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, c := range clients {
		if c, ok := any(c).(interface{ Flush(context.Context) error }); ok {
			if err := c.Flush(ctx); err != nil {
				t.Fatalf("mqtest: flush: %v", err)
			}
		}
	}
}

// await waits until reached, looked at while nothing changed, is true.
func (s *Sidecar) await(t testing.TB, what string, reached func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		seen := s.changes.seen()
		if reached() && s.changes.seen() == seen {
			return
		}
		select {
		case <-s.changes.after(seen):
		case <-limit.C:
			t.Fatalf("mqtest: %s after %v: %s", what, patience, s.pending())
		}
	}
}

// checkWorkers ends the test if a worker has ended.
func (s *Sidecar) checkWorkers(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	workers := s.mu.workers
	s.mu.Unlock()
	for _, w := range workers {
		if w.over() && w.err != nil {
			t.Fatalf("mqtest: a worker ended: %v", w.err)
		}
	}
}

// expected is how many consumers the workers that run make.
func (s *Sidecar) expectedLocked() map[subscription]int {
	expected := make(map[subscription]int)
	for _, w := range s.mu.workers {
		if !w.started || w.over() {
			continue
		}
		for _, sub := range w.Subscriptions() {
			expected[subscription{sub.Group, sub.Topic}]++
		}
	}
	return expected
}

func (s *Sidecar) allJoined() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub, n := range s.expectedLocked() {
		if s.joinedLocked(sub) < n {
			return false
		}
	}
	return true
}

// joinedLocked is how many consumers of a subscription the run that is there has. Those of one that crashed are gone, even if its streams have not noticed.
func (s *Sidecar) joinedLocked(sub subscription) int {
	if s.mu.run == nil {
		return 0
	}
	return s.mu.run.joined[sub]
}

// allAnswered tells whether no call that settles is under way.
func (s *Sidecar) allAnswered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.settling == 0
}

// AwaitConsumers waits until each of the groups has a consumer in every topic that it is declared for: for workers that the test, or the code that it tests, runs
// itself. A group that is not declared within ten seconds fails the test.
func (s *Sidecar) AwaitConsumers(t testing.TB, groups ...string) {
	t.Helper()
	s.await(t, fmt.Sprintf("no consumers of %q", groups), func() bool {
		b := s.broker()
		if b == nil {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, g := range groups {
			topics := b.TopicsOf(g)
			if len(topics) == 0 {
				return false
			}
			for _, topic := range topics {
				if s.joinedLocked(subscription{g, topic}) == 0 {
					return false
				}
			}
		}
		return true
	})
}

// pending tells what keeps Settle waiting.
func (s *Sidecar) pending() string {
	var parts []string
	s.mu.Lock()
	if s.mu.crashing > 0 {
		parts = append(parts, "the sidecar restarts after a crash")
	}
	for sub, n := range s.expectedLocked() {
		if joined := s.joinedLocked(sub); joined < n {
			parts = append(parts, fmt.Sprintf("%v has %d of %d consumers", sub, joined, n))
		}
	}
	s.mu.Unlock()
	if b := s.broker(); b != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		groups, err := b.Groups(ctx, "", "")
		if err != nil {
			parts = append(parts, err.Error())
		}
		for _, g := range groups {
			for _, p := range g.Partitions {
				if p.Stats.Leased > 0 {
					parts = append(parts, fmt.Sprintf("%v: %d messages of partition %d are being handled", subscription{g.Group, g.Topic}, p.Stats.Leased, p.Partition))
				}
			}
		}
	}
	if len(parts) == 0 {
		return "something goes on without an end"
	}
	return strings.Join(parts, "; ")
}
