package broker_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// jumpy is a clock whose time of day can be set.
type jumpy struct {
	wall
	off atomic.Int64
}

func (c *jumpy) Wall() time.Time      { return time.Now().Add(time.Duration(c.off.Load())) }
func (c *jumpy) set(by time.Duration) { c.off.Store(int64(by)) }

const years = 365 * 24 * time.Hour

// withJumpyClock is inBubble with a clock that can be set.
func withJumpyClock(t *testing.T, run func(t *testing.T, w *world, c *jumpy)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.close()
		c := &jumpy{}
		w.clock = c
		w.open()
		w.declare(nil)
		run(t, w, c)
		w.close()
	})
}

// comesAt holds a message against the instant at which it should come, a millisecond more or less.
func (w *world) comesAt(name string, at time.Time) {
	w.t.Helper()
	time.Sleep(time.Until(at) - time.Millisecond)
	synctest.Wait()
	if got := w.names(bags); got != "" {
		w.t.Errorf("before its time came %q", got)
	}
	time.Sleep(2 * time.Millisecond)
	synctest.Wait()
	if got := w.names(bags); got != name {
		w.t.Errorf("at its time came %q", got)
	}
}

// TestAJumpOfTheClockMovesNothing: while the sidecar runs.
func TestAJumpOfTheClockMovesNothing(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 10 * years, -10 * years} {
		t.Run(jump.String(), func(t *testing.T) {
			withJumpyClock(t, func(t *testing.T, w *world, c *jumpy) {
				start := time.Now()
				w.mustSend(bags, after("a", 30*time.Minute))
				time.Sleep(time.Minute)
				c.set(jump)
				w.comesAt("a", start.Add(30*time.Minute))
			})
		})
	}
}

// TestAClockThatWasSetBackMakesNothingEarly: while the sidecar was down. Its time goes on where it was, so the time that it was down does not count.
func TestAClockThatWasSetBackMakesNothingEarly(t *testing.T) {
	for _, back := range []time.Duration{time.Hour, 10 * years} {
		t.Run(back.String(), func(t *testing.T) {
			withJumpyClock(t, func(t *testing.T, w *world, c *jumpy) {
				start := time.Now()
				w.mustSend(bags, after("a", 30*time.Minute))
				time.Sleep(10 * time.Minute)
				w.close()
				c.set(-back)
				time.Sleep(time.Minute)
				w.open()
				w.comesAt("a", start.Add(31*time.Minute))
			})
		})
	}
}

// TestWhatIsScheduledByAWrongClockIsNotEarlyByTheRightOne: the clock is behind while the message is accepted, and right again after a restart.
func TestWhatIsScheduledByAWrongClockIsNotEarlyByTheRightOne(t *testing.T) {
	withJumpyClock(t, func(t *testing.T, w *world, c *jumpy) {
		w.mustSend(bags, after("other", 24*time.Hour))
		w.close()
		c.set(-2 * time.Hour)
		w.open()
		start := time.Now()
		w.mustSend(bags, after("a", time.Hour))
		w.close()
		c.set(0)
		w.open()
		w.comesAt("a", start.Add(time.Hour))
	})
}

// TestAKilledSidecarForgetsAtMostAMinute: the mark of the time is kept fresh while messages wait, so that the last commit may be hours old.
func TestAKilledSidecarForgetsAtMostAMinute(t *testing.T) {
	withJumpyClock(t, func(t *testing.T, w *world, c *jumpy) {
		start := time.Now()
		w.mustSend(bags, after("a", 10*time.Hour))
		time.Sleep(5*time.Hour + 30*time.Second)
		w.engine.failCommits.Store(1 << 20) // nothing more is written, as after a kill
		w.close()
		w.engine.failCommits.Store(-1 << 30)
		c.set(-6 * time.Hour)
		w.open()
		time.Sleep(time.Until(start.Add(10*time.Hour)) - time.Millisecond)
		if got := w.names(bags); got != "" {
			t.Errorf("before its time came %q", got)
		}
		time.Sleep(time.Minute + 10*time.Millisecond)
		if got := w.names(bags); got != "a" {
			t.Errorf("a minute after its time came %q", got)
		}
	})
}

// TestAnInstantIsMeantByTheTimeThatGoesOn: deliver_at with a clock that is behind the time that the store has seen.
func TestAnInstantIsMeantByTheTimeThatGoesOn(t *testing.T) {
	withJumpyClock(t, func(t *testing.T, w *world, c *jumpy) {
		w.mustSend(bags, after("other", 24*time.Hour))
		w.close()
		c.set(-2 * time.Hour)
		w.open()
		start := time.Now()
		w.mustSend(bags, timed{name: "a", numbers: map[protowire.Number]uint64{deliverField: uint64(start.Add(time.Hour).UnixMilli())}})
		w.comesAt("a", start.Add(time.Hour))
	})
}
