package broker

import (
	"context"
	"sync/atomic"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// lane is one priority level of a partition while it is owned: a log, its machine, and what the shell keeps beside them. A topic without
// priorities has one. All but end belongs to the shard's goroutine.
type lane struct {
	index   uint8 // from 0, the lowest
	log     engine.LogID
	machine *dispatch.Partition
	end     atomic.Int64 // of the log, durable
	fetched atomic.Int64 // up to where it was read
	unwatch func()

	restored []dispatch.Block  // what was settled above the position when the lane was opened and was not fetched yet
	unburied []dispatch.Offset // dead letters that could not be stored, and that the machine takes for held

	filteredTo dispatch.Offset // of a mutant: after the last message that the filter refused

	trimmed engine.Offset    // of a queue's log, what was deleted last
	trimAt  dispatch.Instant // when more is, 0 if there is nothing
	trimPut int              // how often that was put off
}

// openLane makes the machine of a lane, and watches its log until unwatch is called.
func (sv *serving) openLane(ctx context.Context, index uint8, saved laneState, now dispatch.Instant) (*lane, error) {
	l := &lane{index: index, log: engine.LogID{Topic: sv.group.topic.id, Partition: sv.partition, Lane: index}}
	signal := sv.signal
	l.unwatch = sv.broker.engine.Watch(l.log, func(end engine.Offset) { // before looking, so that no growth is missed
		l.grown(end)
		signal()
	})
	bounds, err := sv.broker.engine.Bounds(ctx, l.log)
	if err != nil {
		l.unwatch()
		return nil, err
	}
	if sv.broker.tailer != nil {
		l.tail(sv.broker)
	}
	l.grown(bounds.End)
	l.trimmed = bounds.Begin
	snap := saved.Snapshot
	if !saved.headed { // a head is saved when the position moves: until then the group stands where it began
		snap.Floor = dispatch.Offset(sv.group.startOf(sv.partition, index))
	}
	snap.Begin = dispatch.Offset(bounds.Begin)
	l.restored = snap.Blocks
	l.machine = dispatch.New(sv.group.machineConfig(sv.claim.claim.Epoch, sv.partition, index), snap, now)
	return l, nil
}

// followed is how many messages a lane may be behind its log so that what is written is kept for it in memory. What is further ahead might be gone when its turn comes.
const followed = 4096

// tail keeps what is written to the log in memory as long as the lane follows it closely, until unwatch is called.
func (l *lane) tail(b *Broker) {
	unwatch := l.unwatch
	untail := b.tailer.Tail(l.log,
		func() bool { return l.end.Load()-l.fetched.Load() <= followed },
		func(c engine.Chunk) { b.chunks.keep(l.log, c) })
	l.unwatch = func() {
		untail()
		unwatch()
	}
}

// grown notes that the log is durable up to end. Calls may come in any order.
func (l *lane) grown(end engine.Offset) {
	for {
		have := l.end.Load()
		if int64(end) <= have || l.end.CompareAndSwap(have, int64(end)) {
			return
		}
	}
}

// logs are the logs of a topic: those of the lowest lane by partition, then those of the next.
func (t *topicState) logs() []engine.LogID {
	logs := make([]engine.LogID, 0, t.levels()*int(t.decl.Partitions))
	for lane := range t.levels() {
		for p := range t.decl.Partitions {
			logs = append(logs, engine.LogID{Topic: t.id, Partition: p, Lane: uint8(lane)})
		}
	}
	return logs
}

// levels is the number of lanes of each partition.
func (t *topicState) levels() int { return max(1, int(t.decl.PriorityLevels)) }

func (g *group) levels() int { return g.topic.levels() }

// startOf is where the group began in a lane: the list has all partitions of the lowest lane, then those of the next.
func (g *group) startOf(partition uint32, lane uint8) int64 {
	return g.policy.Load().starts[int(lane)*len(g.shards)+int(partition)]
}
