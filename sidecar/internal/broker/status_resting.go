package broker

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// restingLane is what a lane saved, as far as its status tells of it.
type restingLane struct {
	floor   int64
	settled map[int64][]byte // bitmaps by block index
}

// restingStatus tells where a group that rests stands in a partition, from what it saved. What waits for an attempt is counted; what would be parked
// behind it cannot be known without reading the log, so Parked is 0.
func (s *shard) restingStatus(ctx context.Context) ShardStatus {
	st := ShardStatus{Partition: s.partition, Counters: s.past()}
	lanes := make([]restingLane, s.group.levels())
	for i := range lanes {
		lanes[i] = restingLane{floor: s.group.startOf(s.partition, uint8(i)), settled: make(map[int64][]byte)}
	}
	now := s.group.broker.wall()
	for pair, err := range s.group.broker.engine.View(s.id).Scan(ctx, nil, nil) {
		if err == nil {
			if err = st.restingPair(lanes, pair, now); err != nil {
				err = fmt.Errorf("state of shard %v, key %x: %w", s.id, pair.Key, err)
			}
		}
		if err != nil {
			st.Fault = err
			return st
		}
	}
	for i, l := range lanes {
		bounds, err := s.group.broker.engine.Bounds(ctx, engine.LogID{Topic: s.group.topic.id, Partition: s.partition, Lane: uint8(i)})
		if err != nil {
			st.Fault = err
			return st
		}
		floor := max(l.floor, int64(bounds.Begin))
		st.Position += floor
		st.End += int64(bounds.End)
		st.Lag += max(0, int64(bounds.End)-floor-l.settledFrom(floor))
	}
	return st
}

func (st *ShardStatus) restingPair(lanes []restingLane, pair engine.Pair, now time.Time) error {
	kind, lane, offset, err := parseShardKey(pair.Key)
	if err != nil {
		return err
	}
	if int(lane) >= len(lanes) {
		return fmt.Errorf("priority level %d: the topic has %d", int(lane)+1, len(lanes))
	}
	switch kind {
	case keyHead:
		var h storagev1.Head
		if err := proto.Unmarshal(pair.Value, &h); err != nil {
			return err
		}
		lanes[lane].floor = h.GetFloor()
	case keyBlock:
		var b storagev1.SettledBlock
		if err := proto.Unmarshal(pair.Value, &b); err != nil {
			return err
		}
		lanes[lane].settled[int64(offset)] = b.GetBitmap()
	case keyFailure:
		var f storagev1.Failure
		if err := proto.Unmarshal(pair.Value, &f); err != nil {
			return err
		}
		if f.GetWaitMs() > 0 && f.GetDueMs() > now.UnixMilli() {
			st.Stats.Waiting++
		}
	case keyDeadLetter:
		st.DeadLetters++
		holds, err := holdsKey(pair.Value)
		if holds {
			st.Stats.Held++
		}
		return err
	case keyRedriven:
		st.Lag++ // on its way, whatever the position
	}
	return nil
}

// settledFrom counts what was saved as settled from a floor on.
func (l restingLane) settledFrom(floor int64) (n int64) {
	for index, bitmap := range l.settled {
		first := index * dispatch.BlockSize
		for i := max(0, floor-first); i < int64(len(bitmap))*8; i++ {
			if bitmap[i/8]&(1<<(i%8)) != 0 {
				n++
			}
		}
	}
	return n
}
