package mq

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A handling is the context of its handler. One made by package context costs a timer, an entry in its parent and a goroutine at its end for
// each message, which was half of what a message cost. This one costs nothing unless somebody asks for its channel or makes a
// context of it; then it stands before one of package context. What ends it, it is told by the session.

// handlerContext is what a handling remembers as a context. The zero value has not ended.
type handlerContext struct {
	ended atomic.Pointer[ending]
	inner atomic.Pointer[ending] // whose channel and children are its own; nil until they are needed

	mu struct {
		sync.Mutex
		tell   func() // ends inner
		cancel func() // what inner came with
	}
}

// ending is what a context came to: one of package context that has ended, so that context.Cause finds the cause in it.
type ending struct{ context.Context }

// endings are what the contexts of a session's handlers can come to.
type endings struct {
	returned, timedOut, interrupted ending
	never                           chan struct{} // is not closed
}

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

// Deadline implements context.Context. A handler that settles itself has none, since it can put it off.
func (h *handling) Deadline() (time.Time, bool) {
	if h.call.Manual() {
		return h.session.handling.Deadline()
	}
	return h.call.deadline, true
}

// Done implements context.Context.
func (h *handling) Done() <-chan struct{} {
	c := &h.context
	if inner := c.inner.Load(); inner != nil {
		return inner.Done()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	inner := c.inner.Load()
	if inner == nil {
		if inner = c.ended.Load(); inner == nil {
			inner = new(ending)
			inner.Context, c.mu.cancel = context.WithCancel(root{h})
			c.inner.Store(inner)
		}
	}
	return inner.Done()
}

// Err implements context.Context. It knows of the end of the session's context at once, and does not tell before Done is closed.
func (h *handling) Err() error {
	if h.context.ended.Load() == nil {
		if h.session.handling.Err() == nil {
			return nil
		}
		h.end(&h.session.endings.interrupted)
	}
	if inner := h.context.inner.Load(); inner != nil {
		<-inner.Done() // somebody else may be in end
	}
	return h.context.ended.Load().Err()
}

// Value implements context.Context. As soon as Err is not nil, package context finds the cause with it, and before that what will end the
// contexts made of it.
func (h *handling) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return &h.call
	}
	if e := h.context.ended.Load(); e != nil {
		return e.Value(key)
	}
	if inner := h.context.inner.Load(); inner != nil && h.session.handling.Err() == nil {
		return inner.Value(key)
	}
	return h.session.handling.Value(key)
}

// String names the context, as those of package context have it. Its fields must not be printed: they change.
func (h *handling) String() string { return "mq.handler(" + h.call.RPC() + ")" }

// end ends the context, and those that were made of it. Only the first call counts. The caller holds no locks.
func (h *handling) end(e *ending) {
	c := &h.context
	c.mu.Lock()
	if c.ended.Load() != nil {
		c.mu.Unlock()
		return
	}
	if h.session.handling.Err() != nil { // context.Cause may have told
		e = &h.session.endings.interrupted
	}
	c.ended.Store(e)
	c.mu.Unlock()
	if c.inner.Load() != nil {
		c.mu.tell()
		c.mu.cancel()
	}
}

// root is the parent of inner: a context that package context is told the end of by AfterFunc, with error and cause.
type root struct{ *handling }

// AfterFunc is called once, by Done. Package context looks for it in contexts that are not its own.
func (r root) AfterFunc(f func()) (stop func() bool) {
	r.context.mu.tell = f
	return func() bool { return false }
}

func (r root) Done() <-chan struct{} { return r.session.endings.never }

// Err is asked for once, to end inner with it.
func (r root) Err() error {
	if e := r.context.ended.Load(); e != nil {
		return e.Err()
	}
	return nil
}

func (r root) Value(key any) any {
	if e := r.context.ended.Load(); e != nil {
		return e.Value(key)
	}
	return r.session.handling.Value(key)
}
