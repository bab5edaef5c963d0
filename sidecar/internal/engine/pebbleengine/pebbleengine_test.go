package pebbleengine_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/enginetest"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

func open(t testing.TB, dir string, options pebbleengine.Options) *pebbleengine.Engine {
	t.Helper()
	e, err := pebbleengine.Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) enginetest.Harness {
			dir := t.TempDir()
			return enginetest.Harness{
				Engine: open(t, dir, pebbleengine.Options{}),
				Reopen: func(t *testing.T) engine.Engine { return open(t, dir, pebbleengine.Options{}) },
			}
		})
	})
	t.Run("crashable memory", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) enginetest.Harness {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed of the crashes: %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			disk := vfs.NewCrashableMem()
			on := func(t *testing.T, fs vfs.FS) engine.Engine {
				// A small memtable makes flushes and new write-ahead logs part of what is tested.
				return open(t, "data/log", pebbleengine.Options{FS: fs, MemTableBytes: 64 << 10})
			}
			return enginetest.Harness{
				Engine: on(t, disk),
				Reopen: func(t *testing.T) engine.Engine { return on(t, disk) },
				Crash: func(t *testing.T) engine.Engine {
					return on(t, disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(4) * 33, RNG: rng}))
				},
				Faulty: func(t *testing.T, f enginetest.Fault) enginetest.FaultyDisk { return faultyDisk(f, rng) },
			}
		})
	})
}

// faultyDisk is a disk in memory that counts what changes it. Write-ahead logs whose writes failed are not written any more by the engine itself.
func faultyDisk(f enginetest.Fault, rng *rand.Rand) enginetest.FaultyDisk {
	disk := vfs.NewCrashableMem()
	var operations atomic.Int64
	failing := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpMkdirAll,
			errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFilePreallocate:
			if n := int(operations.Add(1)); n == f.At || n > f.At && !f.Once {
				return f.Err
			}
		}
		return nil
	}))
	options := func(fs vfs.FS) pebbleengine.Options {
		return pebbleengine.Options{FS: fs, MemTableBytes: 64 << 10, Still: true}
	}
	return enginetest.FaultyDisk{
		Open:    func() (engine.Engine, error) { return pebbleengine.Open("data", options(failing)) },
		Reached: func() bool { return int(operations.Load()) >= f.At },
		Reopen: func(t *testing.T, powerCut bool) engine.Engine {
			left := vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng}
			if powerCut {
				left.UnsyncedDataPercent = rng.IntN(4) * 33
			}
			return open(t, "data", options(disk.CrashClone(left)))
		},
	}
}

func BenchmarkEngine(b *testing.B) {
	enginetest.Bench(b, func(b *testing.B) engine.Engine { return open(b, b.TempDir(), pebbleengine.Options{}) })
}
