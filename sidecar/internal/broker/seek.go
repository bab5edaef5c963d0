package broker

import (
	"context"
	"sync"
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// SeekTo says where a group is to go on. Exactly one of Edge, Offset (with HasOffset) and Time (with HasTime) is set.
type SeekTo struct {
	// Edge is "earliest", the oldest message that is kept, "latest", the next one that is published, or empty.
	Edge      string
	Offset    int64
	HasOffset bool
	// Time is an instant: the group goes on with what was published since, and up to a second before. The zero time is one like any other.
	Time    time.Time
	HasTime bool
}

// Position is where a group goes on in a partition. In a topic with priorities it is the sum over the levels.
type Position struct {
	Partition uint32
	Offset    int64
}

// chunkSpan is by how much a record may be younger than its chunk says.
const chunkSpan = time.Second

// Seek moves a group of a PUBSUB topic in one partition, or in all if partition is nil. When it returns, the move is durable: messages from there on
// are delivered, again or for the first time, with attempts from 1. Leases are over, and their consumers' tokens answer LeaseLost. Dead
// letters stay, as do redriven messages. Nothing moves if the request is refused; after any other error some partitions may have moved,
// and the call may be repeated.
// Errors: *Error of reason SeekQueue, BadOffset, BadTime, BadPartition, BadRequest, TopicUnknown, GroupUnknown, PartitionAway, or that of a read or a
// commit.
func (b *Broker) Seek(ctx context.Context, groupName, topicName string, partition *uint32, to SeekTo) ([]Position, error) {
	g, refused := b.awake(ctx, groupName, topicName)
	if refused != nil {
		return nil, refused
	}
	if refused := to.check(g, partition, b.wall()); refused != nil {
		return nil, refused
	}
	shards := g.shards
	if partition != nil {
		shards = g.shards[*partition : *partition+1]
	}
	targets := make([][]dispatch.Offset, len(shards)) // by lane
	for i, s := range shards {
		for lane := range g.levels() {
			o, err := b.seekTarget(ctx, engine.LogID{Topic: g.topic.id, Partition: s.partition, Lane: uint8(lane)}, to)
			if err != nil {
				return nil, Refusal(err)
			}
			targets[i] = append(targets[i], o)
		}
	}
	if err := moveAll(ctx, shards, targets); err != nil {
		return nil, Refusal(err)
	}
	positions := make([]Position, len(shards))
	for i, s := range shards {
		positions[i].Partition = s.partition
		for _, o := range targets[i] {
			positions[i].Offset += int64(o)
		}
	}
	return positions, nil
}

// check holds the request against the topic. now is the time of day.
func (to SeekTo) check(g *group, partition *uint32, now time.Time) *Error {
	decl := g.topic.decl
	given := 0
	for _, is := range []bool{to.Edge != "", to.HasOffset, to.HasTime} {
		if is {
			given++
		}
	}
	switch {
	case decl.Delivery == topic.Queue:
		return fail(SeekQueue, "topic", "topic %q is a queue: what its group settled is deleted", decl.Name).with("topic", decl.Name)
	case given != 1:
		return fail(BadRequest, "to", "name exactly one of an edge, an offset and a time")
	case to.Edge != "" && to.Edge != "earliest" && to.Edge != "latest":
		return fail(BadRequest, "to.edge", `edge %q: must be "earliest" or "latest"`, clip(to.Edge))
	case partition != nil && int64(*partition) >= int64(len(g.shards)):
		return fail(BadPartition, "partition", "partition %d: topic %q has %d", *partition, decl.Name, len(g.shards)).with("bound", len(g.shards)-1)
	case to.HasOffset && partition == nil:
		return fail(BadRequest, "partition", "an offset is one of a partition: name the partition")
	case to.HasOffset && g.levels() > 1:
		return fail(BadRequest, "to.offset", "topic %q has %d priority levels with offsets of their own: seek to a time, earliest or latest",
			decl.Name, g.levels())
	case to.HasTime && to.Time.After(now):
		return fail(BadTime, "to.time", "time %s is in the future", to.Time.Format(time.RFC3339Nano)).with("bound", now.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// seekTarget finds the offset that is asked for in a log.
func (b *Broker) seekTarget(ctx context.Context, log engine.LogID, to SeekTo) (dispatch.Offset, error) {
	bounds, err := b.engine.Bounds(ctx, log)
	if err != nil {
		return 0, err
	}
	switch {
	case to.Edge == "earliest":
		return dispatch.Offset(bounds.Begin), nil
	case to.Edge == "latest":
		return dispatch.Offset(bounds.End), nil
	case to.HasOffset:
		if o := engine.Offset(to.Offset); o < bounds.Begin || o > bounds.End {
			return 0, fail(BadOffset, "to.offset", "offset %d: partition %d has %d to %d", o, log.Partition, bounds.Begin, bounds.End).
				with("begin", bounds.Begin).with("end", bounds.End)
		}
		return dispatch.Offset(to.Offset), nil
	}
	return b.offsetAt(ctx, log, bounds, to.Time.Add(-chunkSpan).UnixMilli())
}

// offsetAt is the first offset whose chunk is not older than a time, found by bisection: it reads a chunk for each halving.
func (b *Broker) offsetAt(ctx context.Context, log engine.LogID, bounds engine.Bounds, sinceMS int64) (dispatch.Offset, error) {
	low, high := bounds.Begin, bounds.End // every chunk below low is too old, none from high on is
	for low < high {
		middle := low + (high-low)/2
		chunks, err := b.engine.Read(ctx, log, middle, 1)
		if err != nil {
			return 0, err
		}
		if len(chunks) == 0 { // the log was trimmed to its end meanwhile
			return dispatch.Offset(bounds.End), nil
		}
		switch c := chunks[0]; {
		case c.TimeMS < sinceMS:
			low = c.Last() + 1
		case c.First > middle: // the log was trimmed up to here meanwhile
			return dispatch.Offset(c.First), nil
		default:
			high = max(low, c.First)
		}
	}
	return dispatch.Offset(low), nil
}

// moveAll moves each shard and waits until all moves are durable.
func moveAll(ctx context.Context, shards []*shard, targets [][]dispatch.Offset) error {
	var all sync.WaitGroup
	errs := make([]error, len(shards))
	for i, s := range shards {
		all.Add(1)
		s.call(task{
			do:   func(sv *serving) { sv.seek(targets[i]) },
			done: func(err error) { errs[i] = err; all.Done() },
		})
	}
	finished := make(chan struct{})
	go func() { all.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// seek moves the lanes. It runs in the shard's goroutine; the next commit makes it durable.
func (sv *serving) seek(to []dispatch.Offset) {
	for _, j := range sv.order { // tokens that were not sent yet would be refused
		j.unsent(sv.partition)
	}
	for i, l := range sv.lanes {
		l.restored = nil
		_ = l.machine.Step(sv.broker.now(), dispatch.Seek{To: to[i]})
	}
}
