package mqsql

import (
	"context"
	"math/rand/v2"
	"time"
)

// pauses are the waits of one goroutine: half to all of a time that doubles with each, until something happens.
type pauses struct {
	first, most time.Duration
	n           int
}

// wait waits, and reports whether it was woken before its time. With wake nil nothing does but the end of ctx.
func (p *pauses) wait(ctx context.Context, wake <-chan struct{}) bool {
	limit := p.most
	if p.n < 20 {
		limit = min(p.most, p.first<<p.n)
	}
	p.n++
	timer := time.NewTimer(limit/2 + rand.N(limit/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// reset is called when something happened.
func (p *pauses) reset() { p.n = 0 }

// loud reports whether the next failure is worth a line in the log: the first, and then ever fewer.
func (p *pauses) loud() bool { return p.n&(p.n-1) == 0 }

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
