// Package hook is how sidecar/mqtest reaches into runtime/mq: what it puts into a context, mq.Dial takes out. Nobody outside of this module can import it, and
// without it nothing is hooked.
package hook

import (
	"context"
	"sync"
	"time"
)

// Hooks are a client's.
type Hooks struct {
	// Clock is what batches wait by. It is not the clock of time-outs, heartbeats and waits before a reconnect.
	Clock Clock
	// Waiting is told when the number of messages changes that are leased to the client and wait for the clock alone. It must not block.
	Waiting func(change int)
	// FileSets keeps what a client computes from descriptors that are linked into the program, for all clients that have the same map. Nil: it is not kept.
	FileSets *sync.Map
}

// Clock tells the time and calls back when some has passed.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once d, which is above 0, has passed.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a *time.Timer that AfterFunc made, or one like it.
type Timer interface {
	Reset(d time.Duration) bool
	Stop() bool
}

type key struct{}

// With returns a context with which mq.Dial makes a client that has these hooks. Clock and Waiting must be set.
func With(ctx context.Context, h Hooks) context.Context { return context.WithValue(ctx, key{}, h) }

// From returns the hooks of a context. If it has none, the clock is the system's.
func From(ctx context.Context) Hooks {
	if h, ok := ctx.Value(key{}).(Hooks); ok {
		return h
	}
	return Hooks{Clock: system{}, Waiting: func(int) {}}
}

type system struct{}

func (system) Now() time.Time { return time.Now() }

func (system) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
