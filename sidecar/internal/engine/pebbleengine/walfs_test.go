package pebbleengine

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestAFailureWhileLogsChangeEndsWritesAndNotTheProcess fails what Pebble does when a memtable is full. It would panic then, with its locks in a state
// that no recover helps against.
func TestAFailureWhileLogsChangeEndsWritesAndNotTheProcess(t *testing.T) {
	for name, kinds := range map[string][]errorfs.OpKind{
		"sync":   {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
		"write":  {errorfs.OpFileWrite},
		"create": {errorfs.OpCreate, errorfs.OpReuseForWrite},
	} {
		t.Run(name, func(t *testing.T) {
			failing, failed := &atomic.Bool{}, &atomic.Int32{}
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				for _, kind := range kinds {
					if failing.Load() && op.Kind == kind && strings.HasSuffix(op.Path, ".log") {
						failed.Add(1)
						return syscall.EIO
					}
				}
				return nil
			}))
			told := make(chan error, 10)
			e := openOn(t, fs, Options{MemTableBytes: 64 << 10, OnFatal: func(err error) { told <- err }})
			appendTo(t, e, logA, "durable")
			failing.Store(true)
			large := []engine.Append{{Log: logA, Records: records(strings.Repeat("x", 100<<10)), Count: 1}} // which changes logs
			if _, err := e.Append(t.Context(), large); !errors.Is(err, engine.ErrUnknownOutcome) {
				t.Errorf("append: %v", err)
			}
			if n := failed.Load(); n != 1 {
				t.Errorf("%d operations failed: after the first nothing more is tried", n)
			}
			failing.Store(false)
			if err := <-told; !strings.Contains(err.Error(), ".log") {
				t.Errorf("told of %v, which names no file", err)
			}
			if _, err := e.Append(t.Context(), large); err == nil || errors.Is(err, engine.ErrUnknownOutcome) {
				t.Errorf("append after the failure: %v", err)
			}
			if chunks, err := e.Read(t.Context(), logA, 0, 1<<20); err != nil || len(chunks) != 1 || chunks[0].Count != 1 {
				t.Errorf("read %v, %v", chunks, err)
			}
			closeEngine(t, e)
			e = openOn(t, fs, Options{})
			if b, err := e.Bounds(t.Context(), logA); err != nil || b.End < 1 || b.End > 2 {
				t.Errorf("bounds after opening again: %v, %v", b, err)
			}
			appendTo(t, e, logA, "more")
		})
	}
}
