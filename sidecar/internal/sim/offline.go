package sim

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

// checkStore looks at the disk as mq check does, after a crash and when everybody is gone: whatever happened in this world, nothing may be wrong with it but what
// the nemesis broke.
func (w *World) checkStore() {
	if w.store.disk == nil || w.store.disk.rotted || w.detected != "" {
		return
	}
	found := func(f engine.Finding) {
		w.record(Event{Kind: Unservable, Bound: 18, Detail: "a check of the store finds: " + f.String()})
	}
	left := w.store.disk.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(w.plan.Seed, 0))})
	o, err := pebbleengine.OpenOffline("data", pebbleengine.Options{FS: left, CacheBytes: 1 << 20, MemTableBytes: 2 << 20})
	if err != nil {
		found(engine.Finding{Place: "store", What: err.Error()})
		return
	}
	_, err = o.Check(context.Background(), found, func(int64) {})
	_, also := broker.Check(context.Background(), o, found)
	if err := errors.Join(err, also, o.Close()); err != nil {
		found(engine.Finding{Place: "store", What: err.Error()})
	}
}
