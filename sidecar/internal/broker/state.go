package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Keys of a shard's map: a letter, then a big-endian number where there are several. docs/formats/shard.md describes them.
const (
	keyHead       = 'h'
	keyBlock      = 'b' // + block index
	keyFailure    = 'f' // + offset
	keyDeadLetter = 'd' // + offset
	keyRedriven   = 'r' // + offset
)

func shardKey(kind byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, uint64(n))
}

// keyNumber is the number in a key.
func keyNumber(key []byte) (int64, error) {
	if len(key) != 9 {
		return 0, fmt.Errorf("key %x of a shard is malformed", key)
	}
	return int64(binary.BigEndian.Uint64(key[1:])), nil
}

// encode turns a save into writes. Records of burials are looked up and stored in the same commit.
func (sv *serving) encode(ctx context.Context, s dispatch.Save) ([]engine.Write, error) {
	var writes []engine.Write
	put := func(key []byte, m proto.Message) error {
		v, err := proto.Marshal(m)
		writes = append(writes, engine.Write{Key: key, Value: v})
		return err
	}
	drop := func(key []byte) { writes = append(writes, engine.Write{Key: key, Delete: true}) }
	if s.FloorMoved {
		if err := put([]byte{keyHead}, &storagev1.Head{Floor: int64(s.Floor)}); err != nil {
			return nil, err
		}
	}
	for _, b := range s.Blocks {
		bits := make([]byte, 0, dispatch.BlockSize/8)
		for _, word := range b.Settled {
			bits = binary.LittleEndian.AppendUint64(bits, word)
		}
		if err := put(shardKey(keyBlock, b.Index), &storagev1.SettledBlock{Bitmap: bits}); err != nil {
			return nil, err
		}
	}
	for _, i := range s.DropBlocks {
		drop(shardKey(keyBlock, i))
	}
	wall, now := sv.broker.wall(), sv.broker.now()
	for _, f := range s.Failures {
		if err := put(shardKey(keyFailure, int64(f.Offset)), &storagev1.Failure{
			Attempts: f.Attempts, FirstError: f.FirstError, LastError: f.LastError,
			DueMs: ceilMS(wall.Add(f.Due.Sub(now))), WaitMs: (f.Wait + time.Millisecond - 1).Milliseconds(),
		}); err != nil {
			return nil, err
		}
	}
	for _, o := range s.DropFailures {
		drop(shardKey(keyFailure, int64(o)))
	}
	for _, b := range s.Burials { // before DropRedriven: a burial may be of a redriven message
		d, err := sv.deadLetter(ctx, b)
		if errors.Is(err, errTrimmed) {
			sv.broker.log.Warn("retention deleted a message before it could become a dead letter", "group", sv.group.name,
				"topic", sv.group.topic.decl.Name, "partition", sv.partition, "offset", b.Offset)
			continue
		}
		if err != nil {
			return nil, err
		}
		sv.buried++
		if err := put(shardKey(keyDeadLetter, int64(b.Offset)), d); err != nil {
			return nil, err
		}
	}
	for _, o := range s.DropRedriven {
		drop(shardKey(keyRedriven, int64(o)))
	}
	return writes, nil
}

// ceilMS is never earlier than t.
func ceilMS(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// deadLetter is what is stored of a message that is given up.
func (sv *serving) deadLetter(ctx context.Context, b dispatch.Burial) (*storagev1.DeadLetter, error) {
	d := &storagev1.DeadLetter{
		Reason: b.Reason.String(), Attempts: b.Attempts, FirstError: b.FirstError, LastError: b.LastError,
		DiedMs: sv.broker.wall().UnixMilli(),
	}
	if b.Redriven {
		r, err := loadRedriven(ctx, sv.store, b.Offset)
		if err != nil {
			return nil, err
		}
		d.Record, d.AppendTimeMs = r.GetRecord(), r.GetAppendTimeMs()
		return d, nil
	}
	c, err := sv.chunkOf(ctx, b.Offset)
	if err != nil {
		return nil, fmt.Errorf("bury offset %d of log %v: %w", b.Offset, sv.log, err)
	}
	for offset, raw := range c.All() {
		if offset == engine.Offset(b.Offset) {
			d.Record, d.AppendTimeMs = raw, c.TimeMS
		}
	}
	return d, nil
}

// loadState reads what a shard saved, and counts its dead letters. Times come back in the clock of dispatch: a wait goes on where it was, but never
// takes longer than it was meant to, whatever the wall clock did.
func loadState(ctx context.Context, store engine.Shard, wall time.Time, now dispatch.Instant, keyHash func([]byte) uint64) (dispatch.Snapshot, int64, error) {
	var (
		snap dispatch.Snapshot
		dead int64
	)
	for pair, err := range store.Scan(ctx, nil, nil) {
		if err != nil {
			return snap, 0, err
		}
		if len(pair.Key) == 0 {
			return snap, 0, fmt.Errorf("a shard has an empty key")
		}
		if pair.Key[0] == keyHead {
			var h storagev1.Head
			if err := proto.Unmarshal(pair.Value, &h); err != nil {
				return snap, 0, fmt.Errorf("head: %w", err)
			}
			snap.Floor = dispatch.Offset(h.GetFloor())
			continue
		}
		n, err := keyNumber(pair.Key)
		if err != nil {
			return snap, 0, err
		}
		switch pair.Key[0] {
		case keyBlock:
			var b storagev1.SettledBlock
			if err := proto.Unmarshal(pair.Value, &b); err != nil || len(b.GetBitmap()) != dispatch.BlockSize/8 {
				return snap, 0, fmt.Errorf("block %d is malformed: %w", n, err)
			}
			block := dispatch.Block{Index: n}
			for i := range block.Settled {
				block.Settled[i] = binary.LittleEndian.Uint64(b.GetBitmap()[8*i:])
			}
			snap.Blocks = append(snap.Blocks, block)
		case keyFailure:
			var f storagev1.Failure
			if err := proto.Unmarshal(pair.Value, &f); err != nil {
				return snap, 0, fmt.Errorf("failure %d: %w", n, err)
			}
			wait := time.Duration(f.GetWaitMs()) * time.Millisecond
			left := min(max(0, time.UnixMilli(f.GetDueMs()).Sub(wall)), wait)
			snap.Failures = append(snap.Failures, dispatch.Failure{
				Offset: dispatch.Offset(n), Attempts: f.GetAttempts(), FirstError: f.GetFirstError(), LastError: f.GetLastError(),
				Due: now.Add(left), Wait: wait,
			})
		case keyDeadLetter:
			dead++
		case keyRedriven:
			var r storagev1.Redriven
			if err := proto.Unmarshal(pair.Value, &r); err != nil {
				return snap, 0, fmt.Errorf("redriven message %d: %w", n, err)
			}
			rec, err := ParseRecord(r.GetRecord())
			if err != nil {
				return snap, 0, fmt.Errorf("redriven message %d: %w", n, err)
			}
			snap.Redriven = append(snap.Redriven, dispatch.Message{Offset: dispatch.Offset(n), Key: keyHash(rec.Key)})
		default:
			return snap, 0, fmt.Errorf("a shard has a key of unknown kind %q", pair.Key[0])
		}
	}
	return snap, dead, nil
}

func loadRedriven(ctx context.Context, store engine.Shard, o dispatch.Offset) (*storagev1.Redriven, error) {
	v, err := store.Get(ctx, shardKey(keyRedriven, int64(o)))
	if err != nil {
		return nil, fmt.Errorf("redriven message %d: %w", o, err)
	}
	r := new(storagev1.Redriven)
	if err := proto.Unmarshal(v, r); err != nil {
		return nil, fmt.Errorf("redriven message %d: %w", o, err)
	}
	return r, nil
}
