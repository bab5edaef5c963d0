package sidecar

import (
	"context"
	"sync"

	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

// scrubbing is the goroutine that reads all that is stored to find damage. The zero value has none.
type scrubbing struct {
	work sync.WaitGroup
	stop context.CancelFunc
}

// start begins, unless the rate, in bytes per second, is 0.
func (s *scrubbing) start(ctx context.Context, e *pebbleengine.Engine, rate int) {
	if rate == 0 {
		return
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.work.Go(func() { e.Scrub(ctx, pebbleengine.ScrubOptions{Rate: int64(rate)}) })
}

// end returns when it has stopped.
func (s *scrubbing) end() {
	if s.stop != nil {
		s.stop()
	}
	s.work.Wait()
}
