package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// TestCrewPublishesEachMessageOnce: all numbers below the total, none twice, none above.
func TestCrewPublishesEachMessageOnce(t *testing.T) {
	var mu sync.Mutex
	seen := map[int]int{}
	c := &crew{callers: 4, batch: 7, total: 100}
	err := c.publish(t.Context(), func(_ context.Context, i, n int) error {
		mu.Lock()
		defer mu.Unlock()
		for j := range n {
			seen[i+j]++
		}
		return nil
	})
	if err != nil || c.durable.Load() != 100 || len(seen) != 100 {
		t.Fatalf("%v; %d durable, %d seen", err, c.durable.Load(), len(seen))
	}
	for i, n := range seen {
		if n != 1 || i >= 100 {
			t.Errorf("message %d was published %d times", i, n)
		}
	}
}

// TestCrewEndsWithTheFirstError, also where the others wait for room.
func TestCrewEndsWithTheFirstError(t *testing.T) {
	boom := errors.New("boom")
	c := &crew{callers: 3, batch: 1, room: make(chan struct{}, 1)}
	err := c.publish(t.Context(), func(context.Context, int, int) error { return boom })
	if !errors.Is(err, boom) || c.durable.Load() != 0 {
		t.Errorf("%v, %d durable", err, c.durable.Load())
	}
}

// TestSinkGivesRoomBack: a place for each batch that all groups have handled, and no wait if a message comes twice.
func TestSinkGivesRoomBack(t *testing.T) {
	s := &sink{room: make(chan struct{}, 2), per: 8} // batches of 4 to 2 groups
	s.room <- struct{}{}
	for range 7 {
		_ = s.done()
	}
	if len(s.room) != 1 {
		t.Error("room was given back early")
	}
	_ = s.done()
	if len(s.room) != 0 {
		t.Error("no room was given back")
	}
	for range 8 {
		_ = s.done()
	}
	if n := s.handled.Load(); n != 16 {
		t.Errorf("%d handled", n)
	}
}

// TestNacksAreOneIn: so many calls fail, and do not count as handled.
func TestNacksAreOneIn(t *testing.T) {
	s := &sink{nacks: 10}
	failed := 0
	for range 100 {
		if s.done() != nil {
			failed++
		}
	}
	if failed != 10 || s.handled.Load() != 90 {
		t.Errorf("%d failed, %d handled", failed, s.handled.Load())
	}
}

// TestBodiesDiffer: neighbours share neither start nor content, and all have their size.
func TestBodiesDiffer(t *testing.T) {
	c := settings{size: 256, keys: 3}.content()
	starts := map[*byte]bool{}
	for i := range 65_536 {
		b := c.body(i)
		if len(b) != 256 {
			t.Fatalf("body %d has %d bytes", i, len(b))
		}
		starts[&b[0]] = true
	}
	if len(starts) != 65_536 {
		t.Errorf("65,536 bodies begin at %d places", len(starts))
	}
	if c.key(4) != c.key(1) || c.key(0) == c.key(1) {
		t.Error("keys do not go round")
	}
}

// TestPace: nothing is early, each has its own time, and what is late does not make the next ones later.
func TestPace(t *testing.T) {
	var intended []int64
	began := time.Now()
	err := pace(t.Context(), began, 1_000_000, 1000, func(i int, at time.Duration) error {
		if time.Since(began) < at {
			t.Errorf("%d is early", i)
		}
		intended = append(intended, int64(at))
		return nil
	})
	if err != nil || len(intended) != 1000 || intended[999] != 999_000 || intended[1] != 1000 {
		t.Errorf("%v, %d calls", err, len(intended))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pace(ctx, time.Now(), 1, 10, func(int, time.Duration) error { return nil }); err == nil {
		t.Error("it goes on after the end of the context")
	}
}
