package mq

import (
	"context"
	"sync"
	"time"
)

// A handling is the context of its handler. One made by package context costs a timer, an entry in its parent and a goroutine at its end for
// each message, which is most of what a message costs here. This one costs nothing until somebody asks for its channel or makes a
// context of it, and what ends it, it is told by the session.

// ending is what a context came to: a context of package context that has ended, so that context.Cause finds the cause in it.
type ending struct{ context.Context }

// endings are what the contexts of a session's handlers can come to.
type endings struct{ returned, timedOut, interrupted ending }

// endedBy returns the ending of contexts whose deadline is over, which has a cause.
func endedBy(parent context.Context, cause error) ending {
	ctx, cancel := context.WithDeadlineCause(context.WithoutCancel(parent), time.Unix(0, 0), cause)
	cancel()
	return ending{ctx}
}

// endedByReturn returns the ending of contexts whose handlers have returned.
func endedByReturn(parent context.Context) ending {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	cancel()
	return ending{ctx}
}

// watchers are told of the end of a context.
type watchers struct {
	sync.Mutex
	done  chan struct{} // nil until somebody asks for it
	first *watcher
}

type watcher struct {
	tell           func()
	next, previous *watcher
	told           bool // or stopped
}

// Deadline implements context.Context. A handler that settles itself has none, since it can put it off.
func (h *handling) Deadline() (time.Time, bool) {
	if h.call.Manual() {
		return h.session.handling.Deadline()
	}
	return h.call.deadline, true
}

// Done implements context.Context.
func (h *handling) Done() <-chan struct{} {
	h.watch.Lock()
	defer h.watch.Unlock()
	if h.watch.done == nil {
		if e := h.ended.Load(); e != nil {
			return e.Done()
		}
		h.watch.done = make(chan struct{})
	}
	return h.watch.done
}

// Err implements context.Context. It is the first to know of the end of the session's context.
func (h *handling) Err() error {
	if e := h.ended.Load(); e != nil {
		return e.Err()
	}
	return h.session.handling.Err()
}

// Value implements context.Context.
func (h *handling) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return &h.call
	}
	if e := h.ended.Load(); e != nil {
		return e.Value(key)
	}
	return h.session.handling.Value(key)
}

// AfterFunc has f called when the context has ended, unless stop is called before and returns true. Package context looks for this method when it
// makes a context of one that is not its own, and would need a goroutine otherwise. What it hands in does not block.
func (h *handling) AfterFunc(f func()) (stop func() bool) {
	h.watch.Lock()
	defer h.watch.Unlock()
	w := &watcher{tell: f, next: h.watch.first}
	if h.ended.Load() != nil {
		w.told = true
		go f() // the caller may hold a lock that f takes
		return func() bool { return false }
	}
	if w.next != nil {
		w.next.previous = w
	}
	h.watch.first = w
	return func() bool {
		h.watch.Lock()
		defer h.watch.Unlock()
		if w.told {
			return false
		}
		w.told = true
		if w.previous == nil {
			h.watch.first = w.next
		} else {
			w.previous.next = w.next
		}
		if w.next != nil {
			w.next.previous = w.previous
		}
		return true
	}
}

// end ends the context. Only the first call counts. The caller holds no locks.
func (h *handling) end(e *ending) {
	h.watch.Lock()
	if h.ended.Load() != nil {
		h.watch.Unlock()
		return
	}
	h.ended.Store(e)
	if h.watch.done != nil {
		close(h.watch.done)
	}
	first := h.watch.first
	h.watch.first = nil
	for w := first; w != nil; w = w.next {
		w.told = true
	}
	h.watch.Unlock()
	for w := first; w != nil; w = w.next {
		w.tell()
	}
}
