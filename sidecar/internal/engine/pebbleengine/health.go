package pebbleengine

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// fatal remembers the first failure after which nothing can be written. A failed sync is not tried again: the kernel may have dropped
// what it could not write, and say nothing the second time.
type fatal struct {
	logger   *slog.Logger
	tell     func(error)
	panicked atomic.Bool
	mu       struct {
		sync.Mutex
		err error
	}
}

// set returns the first failure, this one if there was none.
func (f *fatal) set(err error) error {
	f.mu.Lock()
	first := f.mu.err == nil
	if first {
		f.mu.err = err
	}
	err = f.mu.err
	f.mu.Unlock()
	if first {
		f.logger.Error("storage failed: no more writes until restart", "error", err)
		f.tell(err)
	}
	return err
}

func (f *fatal) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.err
}

// pebbleLogger gives Pebble's messages to slog. What is fatal to Pebble is fatal to writes, never to the process.
type pebbleLogger struct {
	logger *slog.Logger
	fatal  *fatal
}

func (l pebbleLogger) Infof(format string, args ...any) {
	l.logger.Debug(fmt.Sprintf(format, args...), "from", "pebble")
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.logger.Error(fmt.Sprintf(format, args...), "from", "pebble")
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	_ = l.fatal.set(fmt.Errorf(format, args...))
}

// events reports what Pebble notices in the background. Damage is only reported here: the read that meets it quarantines the log.
func events(logger *slog.Logger) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) { logger.Error("background work of the store failed and is tried again", "error", err) },
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			logger.Error("a file of the store is damaged", "detail", info.String())
		},
		DiskSlow:        func(info pebble.DiskSlowInfo) { logger.Warn("disk is slow", "detail", info.String()) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) { logger.Warn("writes wait for flushes", "reason", info.Reason) },
		WriteStallEnd:   func() { logger.Info("writes go on") },
	}
}

// space refuses writes before the disk is full, while it is certain that nothing of them was written. It belongs to the committer.
type space struct {
	fs   vfs.FS
	dir  string
	min  int64
	now  func() time.Time
	free int64
	next time.Time // when to look again
}

const lookEvery = 100 * time.Millisecond

func (s *space) allows(r *request) bool {
	if s.min <= 0 {
		return true
	}
	if now := s.now(); !now.Before(s.next) {
		s.next = now.Add(lookEvery)
		s.free = s.min
		if usage, err := s.fs.GetDiskUsage(s.dir); err == nil {
			s.free = int64(min(usage.AvailBytes, 1<<62))
		}
	}
	if r.plain || r.yields {
		return s.free >= s.min
	}
	return s.free >= s.min/8
}
