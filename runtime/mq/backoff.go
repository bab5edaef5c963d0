package mq

import (
	"context"
	"math/rand/v2"
	"time"
)

// Waits between attempts to reach the sidecar. It is near, so they are short.
const (
	firstWait = 25 * time.Millisecond
	maxWait   = 2 * time.Second
)

// backoff spaces the attempts of one goroutine. The zero value is ready.
type backoff struct{ failures int }

// wait notes a failure and waits half to all of a time that doubles with each. It returns false if ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	limit := maxWait
	if b.failures < 16 {
		limit = min(maxWait, firstWait<<b.failures)
	}
	b.failures++
	timer := time.NewTimer(limit/2 + rand.N(limit/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// reset is called when something worked.
func (b *backoff) reset() { b.failures = 0 }

// loud reports whether the next failure is worth a line in the log: the first, and then ever fewer.
func (b *backoff) loud() bool { return b.failures&(b.failures-1) == 0 }
