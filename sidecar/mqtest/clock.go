package mqtest

import (
	"slices"
	"sync"
	"time"

	"github.com/typedmq/typedmq/internal/hook"
)

// clock stands still until set. It implements broker.Clock.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers []*timer // by instant, those of one instant in the order in which they were made
}

type timer struct {
	at time.Time
	f  func()
}

// newClock begins at a whole millisecond: what the sidecar keeps is due at such.
func newClock(start time.Time) *clock { return &clock{now: start.Round(0).Truncate(time.Millisecond)} }

// Now implements broker.Clock.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Wall implements broker.Clock.
func (c *clock) Wall() time.Time { return c.Now() }

// AfterFunc implements broker.Clock. What the broker's timers do is to wake somebody, which does not block: it is done by whoever moves the clock, or, if it is due, at
// once, so that nobody is still to be woken when that returns.
func (c *clock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	if d <= 0 {
		f()
		return func() bool { return false }
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &timer{c.now.Add(d), f}
	i, _ := slices.BinarySearchFunc(c.timers, t.at, func(o *timer, at time.Time) int {
		if o.at.After(at) {
			return 1
		}
		return -1 // behind those of the same instant
	})
	c.timers = slices.Insert(c.timers, i, t)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.timers, t)
		if i >= 0 {
			c.timers = slices.Delete(c.timers, i, i+1)
		}
		return i >= 0
	}
}

// clientClock is the clock as a client sees it.
type clientClock struct{ *clock }

// AfterFunc implements hook.Clock.
func (c clientClock) AfterFunc(d time.Duration, f func()) hook.Timer {
	return &clientTimer{c.clock, f, c.clock.AfterFunc(d, f)}
}

// clientTimer implements hook.Timer. Its methods are called by one goroutine at a time.
type clientTimer struct {
	clock *clock
	f     func()
	stop  func() bool
}

// Reset implements hook.Timer.
func (t *clientTimer) Reset(d time.Duration) bool {
	active := t.stop()
	t.stop = t.clock.AfterFunc(d, t.f)
	return active
}

// Stop implements hook.Timer.
func (t *clientTimer) Stop() bool { return t.stop() }

// next is the instant of the first timer that is due by limit.
func (c *clock) next(limit time.Time) (at time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.timers) == 0 || c.timers[0].at.After(limit) {
		return time.Time{}, false
	}
	return c.timers[0].at, true
}

// set moves the clock and does what is due.
func (c *clock) set(now time.Time) {
	c.mu.Lock()
	if now.After(c.now) {
		c.now = now
	}
	n := 0
	for n < len(c.timers) && !c.timers[n].at.After(c.now) {
		n++
	}
	due := slices.Clone(c.timers[:n])
	c.timers = slices.Delete(c.timers, 0, n)
	c.mu.Unlock()
	for _, t := range due {
		t.f()
	}
}

// Advance moves the sidecar's clock by d. It settles before and after each instant at which something is due on the way: a message that fails is tried again when its
// wait is over, and what follows from that happens in its time too, not at the end. Handlers that block keep it waiting as they do [Sidecar.Settle].
// Consumers that are connected stay so however far the clock moves.
func (s *Sidecar) Advance(d time.Duration) {
	s.t.Helper()
	target := s.clock.Now().Add(d)
	for {
		s.Settle(s.t)
		at, ok := s.clock.next(target)
		if !ok {
			break
		}
		s.must().KeepConsumers(target.Sub(s.clock.Now()))
		s.clock.set(at)
	}
	s.clock.set(target)
	s.Settle(s.t)
}
