package broker

import (
	"context"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Snapshot is all that is stored as it was after one commit: records, positions, dead letters, the schedule and the catalogue. The caller closes it. now is
// the time of day of the copy. Refusals: BackupRunning, BackupUnsupported by an engine that keeps nothing on disk.
func (b *Broker) Snapshot(ctx context.Context) (_ engine.Snapshot, now time.Time, err error) {
	e, ok := b.engine.(engine.Snapshotter)
	if !ok {
		return nil, now, fail(BackupUnsupported, "", "this sidecar keeps nothing on disk: there is nothing to back up")
	}
	now = b.wall()
	s, err := e.Snapshot(ctx)
	if err != nil {
		return nil, now, Refusal(err)
	}
	return s, now, nil
}
