package pebbleengine

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// fatal remembers the first failure after which nothing can be written. A failed sync is not tried again: the kernel may have dropped
// what it could not write, and say nothing the second time.
type fatal struct {
	logger   *slog.Logger
	tell     func(error)
	panicked atomic.Bool
	happened chan struct{} // closed by the first failure; may be nil
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
		if f.happened != nil {
			close(f.happened)
		}
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

// backlog slows down flushes and compactions that fail: Pebble tries again at once, a thousand times a second.
type backlog struct {
	logger *slog.Logger
	space  *space
	failed atomic.Bool // since the last file was made
	told   atomic.Int64
	error  atomic.Pointer[error] // the last one
}

const (
	retryAfter = 100 * time.Millisecond
	tellEvery  = 5 * time.Second
)

// note is called by Pebble with its lock held.
func (b *backlog) note(err error) {
	b.failed.Store(true)
	b.error.Store(&err)
	b.space.urge() // there may be ballast to give away
	now, told := time.Now().UnixNano(), b.told.Load()
	if now-told >= int64(tellEvery) && b.told.CompareAndSwap(told, now) {
		b.logger.Error("background work of the store failed and is tried again", "error", err)
	}
}

// wait is called before a file is made, without Pebble's lock.
func (b *backlog) wait() {
	if b.failed.Swap(false) {
		time.Sleep(retryAfter)
	}
}

// events reports what Pebble notices in the background. Damage is only reported here: the read that meets it quarantines the log.
func events(logger *slog.Logger, failed func(error)) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: failed,
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			logger.Error("a file of the store is damaged", "detail", info.String())
		},
		DiskSlow:        func(info pebble.DiskSlowInfo) { logger.Warn("disk is slow", "detail", info.String()) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) { logger.Warn("writes wait for flushes", "reason", info.Reason) },
		WriteStallEnd:   func() { logger.Info("writes go on") },
	}
}
