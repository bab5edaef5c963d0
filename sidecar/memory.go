package sidecar

import (
	"context"
	"log/slog"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

const (
	// memoryEvery is how often it is looked whether the process has come to rest.
	memoryEvery = 10 * time.Second
	// memoryQuiet is what a process allocates at most in that time that has nothing to do but to keep its lease.
	memoryQuiet = 8 << 20
	// memoryAgain is how many quiet looks after the first one memory is given back once more: the broker has let go what it had read by then.
	memoryAgain = 13
)

// memory gives back what a burst of work took. Go frees only what its next collection finds, and a process at rest has none for two minutes, with a heap that is still twice what
// was in use under load.
type memory struct {
	stop context.CancelFunc
	work sync.WaitGroup
}

func (m *memory) begin(engine *pebbleengine.Engine, log *slog.Logger) {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.work.Go(func() {
		var r rest
		tick := time.NewTicker(memoryEvery)
		defer tick.Stop()
		allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if metrics.Read(allocated); r.look(allocated[0].Value.Uint64()) {
				if err := engine.GiveBack(); err != nil {
					log.Warn("memory of the store could not be given back", "error", err)
				}
				debug.FreeOSMemory()
			}
		}
	})
}

func (m *memory) end() {
	if m.stop != nil {
		m.stop()
		m.work.Wait()
	}
}

// rest follows how much a process allocates.
type rest struct {
	seen  uint64
	quiet int // looks without work, one after the other
}

// look is told how many bytes were allocated ever, and tells whether memory should be given back now: with the first quiet look after work, and once more later.
func (r *rest) look(allocated uint64) bool {
	if allocated-r.seen > memoryQuiet {
		r.quiet = 0
	} else {
		r.quiet++
	}
	r.seen = allocated
	return r.quiet == 1 || r.quiet == 1+memoryAgain
}
