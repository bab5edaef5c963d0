package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// settings are what a run is told. They are the same for all its scenarios, but for what a scenario says itself.
type settings struct {
	binary   string // of mq
	store    string // test binary that measures Pebble alone; empty to leave that out
	etcd     string // test binary that measures etcd alone; empty to leave that out
	dir      string // where data directories are made
	profile  string // where profiles go; empty for none
	rounds   int
	time     time.Duration // that a round is measured for
	warmup   time.Duration // that it runs before
	size     int           // bytes of a message's body
	keys     int           // number of keys
	tcp      bool          // instead of a Unix socket
	workers  int           // handlers of a subscription at a time
	ahead    int           // messages of a subscription that wait for a handler
	backlog  int           // messages of the backlog
	delayed  int           // messages that are delayed
	progress io.Writer     // takes how far long scenarios are; nil for nobody
}

// check returns all that is wrong with the settings.
func (s settings) check() error {
	var faults []error
	within := func(name string, v, low, high int) {
		if v < low || v > high {
			faults = append(faults, fmt.Errorf("-%s %d: must be %d to %d", name, v, low, high))
		}
	}
	within("rounds", s.rounds, 1, 1000)
	within("size", s.size, 0, 1<<20-4096)
	within("keys", s.keys, 1, 10_000_000)
	within("workers", s.workers, 1, 16384)
	within("ahead", s.ahead, 0, 16384)
	within("backlog", s.backlog, 10_000, 1_000_000_000)
	within("delayed", s.delayed, 1000, 100_000_000)
	if s.time < 100*time.Millisecond || s.time > time.Hour {
		faults = append(faults, fmt.Errorf("-time %v: must be 100ms to 1h", s.time))
	}
	if s.warmup < 0 || s.warmup > time.Hour {
		faults = append(faults, fmt.Errorf("-warmup %v: must be 0s to 1h", s.warmup))
	}
	if _, err := os.Stat(s.binary); err != nil {
		faults = append(faults, fmt.Errorf("-mq %s: there is no such program; go build -o bin/ ./sidecar/cmd/mq makes it", s.binary))
	}
	if info, err := os.Stat(s.dir); err != nil || !info.IsDir() {
		faults = append(faults, fmt.Errorf("-dir %s: is no directory", s.dir))
	} else if process.InMemory(s.dir) {
		faults = append(faults, fmt.Errorf("-dir %s: is in memory, where syncing costs nothing; name a directory on a disk", s.dir))
	}
	return errors.Join(faults...)
}

// With 256-byte messages 8 callers have 1,024 each on their way, and 65,536 are between publishing and handling. Larger messages are fewer.
const (
	callers       = 8
	perCaller     = 1024
	bytesOfCaller = 4 << 20
	batchesAhead  = 64
	bytesAhead    = 64 << 20
)

// batch is how many messages a caller has on their way.
func (s settings) batch() int { return max(1, min(perCaller, bytesOfCaller/(s.size+1))) }

// room is how many batches are between publishing and handling.
func (s settings) room() int {
	return max(callers, min(batchesAhead, bytesAhead/(s.batch()*(s.size+1))))
}
