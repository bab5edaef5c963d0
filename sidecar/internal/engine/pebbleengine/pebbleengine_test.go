package pebbleengine_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

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
			}
		})
	})
}

func BenchmarkEngine(b *testing.B) {
	enginetest.Bench(b, func(b *testing.B) engine.Engine { return open(b, b.TempDir(), pebbleengine.Options{}) })
}
