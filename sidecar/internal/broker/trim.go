package broker

import (
	"context"
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	// trimMessages is how many settled messages of a queue are deleted at once while it is busy.
	trimMessages = 1024
	// trimAfter is how long fewer are kept.
	trimAfter = time.Second
	// trimPatience is how often that begins anew while the log has messages that are not settled: a thousand busy partitions have few each.
	trimPatience = 4
)

// trim deletes from a queue's logs what its group has settled, once that is durable.
func (sv *serving) trim(ctx context.Context) {
	if sv.group.topic.decl.Delivery != topic.Queue {
		return
	}
	now := sv.broker.now()
	for _, l := range sv.lanes {
		floor := engine.Offset(l.machine.Position())
		if floor <= l.trimmed {
			continue
		}
		if l.trimAt == 0 {
			l.trimAt, l.trimPut = now.Add(trimAfter), 0
		}
		few := floor-l.trimmed < trimMessages
		if few && now >= l.trimAt && l.trimPut < trimPatience && int64(floor) < l.end.Load() {
			l.trimAt = now.Add(trimAfter)
			l.trimPut++
		}
		if l.machine.Dirty() || few && now < l.trimAt {
			continue
		}
		if err := sv.broker.engine.Trim(ctx, l.log, floor); err != nil {
			sv.broker.log.Warn("delete what a queue has settled", "log", l.log, "before", floor, "error", err)
			l.trimAt = now.Add(trimAfter)
			continue
		}
		sv.broker.chunks.trim(l.log, floor)
		l.trimmed, l.trimAt = floor, 0
	}
}
