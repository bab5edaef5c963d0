package broker

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// lost notes that retention deleted messages before the group settled them: it was too slow, or away for too long.
func (sv *serving) lost(l *lane, first dispatch.Offset, n int64) {
	if n == 0 {
		return
	}
	sv.counted.RetentionLost += n
	sv.broker.log.Warn("retention deleted messages before their group settled them", "group", sv.group.name,
		"topic", sv.group.topicName(), "partition", sv.partition, "priority", l.index+1, "first", first, "messages", n)
}

// unsettled counts the offsets of a range at the cursor that no saved block says are settled.
func (l *lane) unsettled(from, to dispatch.Offset) int64 {
	n := int64(to - from)
	for _, b := range l.restored {
		for i := range dispatch.BlockSize {
			if o := dispatch.Offset(b.Index)*dispatch.BlockSize + dispatch.Offset(i); o >= from && o < to && b.Settled.Has(i) {
				n--
			}
		}
	}
	return n
}

// fetchedTo forgets saved blocks that the cursor has passed.
func (l *lane) fetchedTo(cursor dispatch.Offset) {
	for len(l.restored) > 0 && dispatch.Offset(l.restored[0].Index+1)*dispatch.BlockSize <= cursor {
		l.restored = l.restored[1:]
	}
}

// passTrimmed settles messages whose records were found to be gone when they were to be sent.
func (sv *serving) passTrimmed(l *lane, gone []dispatch.Token) {
	if len(gone) == 0 {
		return
	}
	sv.lost(l, gone[0].Offset, int64(len(gone)))
	sv.counted.Delivered -= int64(len(gone))
	_ = l.machine.Step(sv.broker.now(), &dispatch.Ack{Tokens: gone})
	sv.signal()
}

// passUnburied notes that a message was gone before it could become a dead letter.
func (sv *serving) passUnburied(l *lane, b dispatch.Burial) {
	sv.lost(l, b.Offset, 1)
	if b.Held {
		l.unburied = append(l.unburied, b.Offset)
	}
}

// letGo lets the keys of dead letters go on that the machine takes for held and that were never stored.
func (sv *serving) letGo() {
	for _, l := range sv.lanes {
		if len(l.unburied) > 0 {
			_ = l.machine.Step(sv.broker.now(), dispatch.Discard{Offsets: l.unburied})
			l.unburied = nil
			sv.signal()
		}
	}
}

// noteTrim tells the groups of a topic that a log was trimmed, so that they do not wait for messages that are gone.
func (b *Broker) noteTrim(ctx context.Context, t *topicState, log engine.LogID) error {
	bounds, err := b.engine.Bounds(ctx, log)
	if err != nil {
		return err
	}
	b.chunks.trim(log, bounds.Begin)
	for _, g := range b.groupsBy("", t.decl.Name) {
		if g.resting() {
			behind, err := g.shards[log.Partition].restsBehind(ctx, log.Lane, int64(bounds.Begin))
			if err != nil {
				return err
			}
			if behind {
				g.wakeUp() // which notices
			}
			continue
		}
		g.shards[log.Partition].call(task{do: func(sv *serving) { sv.passTo(sv.lanes[log.Lane], dispatch.Offset(bounds.Begin)) }})
	}
	return nil
}

// restsBehind tells whether a group that rests has its position below an offset.
func (s *shard) restsBehind(ctx context.Context, lane uint8, offset int64) (bool, error) {
	floor := s.group.startOf(s.partition, lane)
	v, err := s.group.broker.engine.View(s.id).Get(ctx, headKey(lane))
	if err == nil {
		var h storagev1.Head
		err = proto.Unmarshal(v, &h)
		floor = h.GetFloor()
	}
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		return false, fmt.Errorf("head of shard %v: %w", s.id, err)
	}
	return floor < offset, nil
}

// passTo lets a lane go on at an offset if it has not come that far. Of the messages below, only those that are leased are left.
func (sv *serving) passTo(l *lane, begin dispatch.Offset) {
	first := l.machine.Position()
	if first >= begin {
		return
	}
	cursor, _ := l.machine.Want()
	unfetched := int64(0)
	if cursor < begin {
		unfetched = l.unsettled(cursor, begin)
		l.fetchedTo(begin)
	}
	ev := &dispatch.Trimmed{Begin: begin}
	_ = l.machine.Step(sv.broker.now(), ev)
	sv.lost(l, first, unfetched+ev.Lost)
}
