package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// Keys of a shard's map: a letter, then a big-endian number where there are several, whose top byte is the lane. docs/formats/shard.md
// describes them.
const (
	keyHead       = 'h' // + lane, unless it is the lowest
	keyBlock      = 'b' // + block index
	keyFailure    = 'f' // + offset
	keyDeadLetter = 'd' // + offset
	keyRedriven   = 'r' // + offset
)

func shardKey(kind byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, uint64(n))
}

func headKey(lane uint8) []byte {
	if lane == 0 {
		return []byte{keyHead}
	}
	return []byte{keyHead, lane}
}

// keyNumber is the number in a key.
func keyNumber(key []byte) (int64, error) {
	if len(key) != 9 {
		return 0, fmt.Errorf("key %x of a shard is malformed", key)
	}
	return int64(binary.BigEndian.Uint64(key[1:])), nil
}

// laneBits is where the lane begins in the number of a key.
const laneBits = 56

// laneNumber is the number that an offset of a lane has in a key. Those of the lowest lane are the offsets themselves.
func laneNumber(lane uint8, o dispatch.Offset) int64 { return int64(lane)<<laneBits | int64(o) }

// laneOf takes a number of laneNumber apart.
func laneOf(n int64) (lane uint8, o dispatch.Offset) {
	return uint8(n >> laneBits), dispatch.Offset(n & (1<<laneBits - 1))
}

// encode appends the writes of a lane's save. Records of burials are looked up and stored in the same commit.
func (sv *serving) encode(ctx context.Context, writes []engine.Write, l *lane, s *dispatch.Save) ([]engine.Write, error) {
	key := func(kind byte, n int64) []byte { return shardKey(kind, laneNumber(l.index, dispatch.Offset(n))) }
	put := func(key []byte, m proto.Message) error {
		v, err := proto.Marshal(m)
		writes = append(writes, engine.Write{Key: key, Value: v})
		return err
	}
	drop := func(key []byte) { writes = append(writes, engine.Write{Key: key, Delete: true}) }
	if s.Reset {
		stored, err := sv.storedKeys(ctx, l.index, keyBlock, keyFailure)
		if err != nil {
			return nil, err
		}
		for _, key := range stored {
			drop(key)
		}
	}
	if mutant.On(mutant.AttemptsInMemory) {
		s.Failures = nil
	}
	if mutant.On(mutant.PositionPastFiltered) {
		s.Floor = max(s.Floor, l.filteredTo)
	}
	if s.FloorMoved || s.Reset {
		if err := put(headKey(l.index), &storagev1.Head{Floor: int64(s.Floor)}); err != nil {
			return nil, err
		}
	}
	for _, b := range s.Blocks {
		bits := make([]byte, 0, dispatch.BlockSize/8)
		for _, word := range b.Settled {
			bits = binary.LittleEndian.AppendUint64(bits, word)
		}
		if err := put(key(keyBlock, b.Index), &storagev1.SettledBlock{Bitmap: bits}); err != nil {
			return nil, err
		}
	}
	for _, i := range s.DropBlocks {
		drop(key(keyBlock, i))
	}
	wall, now := sv.broker.wall(), sv.broker.now()
	for _, f := range s.Failures {
		if err := put(key(keyFailure, int64(f.Offset)), &storagev1.Failure{
			Attempts: f.Attempts, FirstError: f.FirstError, LastError: f.LastError, Losses: f.Losses,
			DueMs: ceilMS(wall.Add(f.Due.Sub(now))), WaitMs: (f.Wait + time.Millisecond - 1).Milliseconds(),
		}); err != nil {
			return nil, err
		}
	}
	for _, o := range s.DropFailures {
		drop(key(keyFailure, int64(o)))
	}
	for _, b := range s.Burials { // before DropRedriven: a burial may be of a redriven message
		d, err := sv.deadLetter(ctx, l, b)
		if errors.Is(err, errTrimmed) {
			sv.passUnburied(l, b)
			continue
		}
		if err != nil {
			return nil, err
		}
		again, err := sv.has(ctx, key(keyDeadLetter, int64(b.Offset)))
		if err != nil {
			return nil, err
		}
		if sv.buried++; again && !sv.moved[laneNumber(l.index, b.Offset)] { // its group moved back over it
			sv.renewed++
		}
		if err := put(key(keyDeadLetter, int64(b.Offset)), d); err != nil {
			return nil, err
		}
	}
	for _, o := range s.DropRedriven {
		drop(key(keyRedriven, int64(o)))
	}
	return writes, nil
}

// storedKeys lists the keys of some kinds that a lane has in the store.
func (sv *serving) storedKeys(ctx context.Context, lane uint8, kinds ...byte) (keys [][]byte, err error) {
	for _, kind := range kinds {
		for pair, err := range sv.store.Scan(ctx, []byte{kind, lane}, nil) { // the lane is the first byte of the number
			if err != nil {
				return nil, err
			}
			keys = append(keys, append([]byte(nil), pair.Key...))
		}
	}
	return keys, nil
}

// has tells whether the store has a key.
func (sv *serving) has(ctx context.Context, key []byte) (bool, error) {
	_, err := sv.store.Get(ctx, key)
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ceilMS is never earlier than t.
func ceilMS(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// deadLetter is what is stored of a message that is given up.
func (sv *serving) deadLetter(ctx context.Context, l *lane, b dispatch.Burial) (*storagev1.DeadLetter, error) {
	d := &storagev1.DeadLetter{
		Reason: b.Reason.String(), Attempts: b.Attempts, FirstError: b.FirstError, LastError: b.LastError,
		DiedMs: sv.broker.wall().UnixMilli(), HoldsKey: b.Held,
	}
	if b.Redriven {
		r, err := loadRedriven(ctx, sv.store, laneNumber(l.index, b.Offset))
		if err != nil {
			return nil, err
		}
		d.Record, d.AppendTimeMs = r.GetRecord(), r.GetAppendTimeMs()
		return d, nil
	}
	c, err := sv.chunkOf(ctx, l, b.Offset)
	if err != nil {
		return nil, fmt.Errorf("bury offset %d of log %v: %w", b.Offset, l.log, err)
	}
	for offset, raw := range c.All() {
		if offset == engine.Offset(b.Offset) {
			d.Record, d.AppendTimeMs = raw, c.TimeMS
		}
	}
	return d, nil
}

// laneState is what a shard saved of one lane.
type laneState struct {
	dispatch.Snapshot
	headed bool // a position was saved
}

// loadState reads what the shard saved, by lane, and counts its dead letters. Times come back in the clock of dispatch: a wait goes on where it
// was, but never takes longer than it was meant to, whatever the wall clock did.
func (sv *serving) loadState(ctx context.Context, now dispatch.Instant) (lanes []laneState, dead int64, err error) {
	lanes = make([]laneState, sv.group.levels())
	wall := sv.broker.wall()
	for pair, err := range sv.store.Scan(ctx, nil, nil) {
		if err != nil {
			return nil, 0, err
		}
		if len(pair.Key) > 0 && pair.Key[0] == keyDeadLetter {
			dead++
		}
		if err := sv.loadPair(lanes, pair, wall, now); err != nil {
			return nil, 0, fmt.Errorf("state of shard %v, key %x: %w", sv.id, pair.Key, err)
		}
	}
	return lanes, dead, nil
}

// loadPair takes one key in.
func (sv *serving) loadPair(lanes []laneState, pair engine.Pair, wall time.Time, now dispatch.Instant) error {
	kind, lane, offset, err := parseShardKey(pair.Key)
	if err != nil {
		return err
	}
	if int(lane) >= len(lanes) {
		return fmt.Errorf("priority level %d: the topic has %d", int(lane)+1, len(lanes))
	}
	l := &lanes[lane]
	switch kind {
	case keyHead:
		var h storagev1.Head
		if err := proto.Unmarshal(pair.Value, &h); err != nil {
			return fmt.Errorf("head: %w", err)
		}
		l.Floor, l.headed = dispatch.Offset(h.GetFloor()), true
	case keyBlock:
		var b storagev1.SettledBlock
		if err := proto.Unmarshal(pair.Value, &b); err != nil {
			return fmt.Errorf("block: %w", err)
		}
		if n := len(b.GetBitmap()); n != dispatch.BlockSize/8 {
			return fmt.Errorf("block: a bitmap of %d bytes: must be %d", n, dispatch.BlockSize/8)
		}
		block := dispatch.Block{Index: int64(offset)}
		for i := range block.Settled {
			block.Settled[i] = binary.LittleEndian.Uint64(b.GetBitmap()[8*i:])
		}
		l.Blocks = append(l.Blocks, block)
	case keyFailure:
		var f storagev1.Failure
		if err := proto.Unmarshal(pair.Value, &f); err != nil {
			return fmt.Errorf("failure: %w", err)
		}
		wait := time.Duration(f.GetWaitMs()) * time.Millisecond
		left := min(max(0, time.UnixMilli(f.GetDueMs()).Sub(wall)), wait)
		l.Failures = append(l.Failures, dispatch.Failure{
			Offset: offset, Attempts: f.GetAttempts(), Losses: f.GetLosses(), FirstError: f.GetFirstError(), LastError: f.GetLastError(),
			Due: now.Add(left), Wait: wait,
		})
	case keyDeadLetter:
		holds, err := holdsKey(pair.Value)
		if err != nil {
			return fmt.Errorf("dead letter: %w", err)
		}
		if !holds { // most: their records are not looked at
			return nil
		}
		var d storagev1.DeadLetter
		if err := proto.Unmarshal(pair.Value, &d); err != nil {
			return fmt.Errorf("dead letter: %w", err)
		}
		m, err := sv.stored(offset, d.GetRecord())
		if err != nil {
			return fmt.Errorf("dead letter: %w", err)
		}
		l.Held = append(l.Held, m)
	case keyRedriven:
		var r storagev1.Redriven
		if err := proto.Unmarshal(pair.Value, &r); err != nil {
			return fmt.Errorf("redriven message: %w", err)
		}
		m, err := sv.stored(offset, r.GetRecord())
		if err != nil {
			return fmt.Errorf("redriven message: %w", err)
		}
		l.Redriven = append(l.Redriven, m)
	}
	return nil
}

// stored is a message whose record is kept beside the log. It does not expire: somebody wants it again.
func (sv *serving) stored(o dispatch.Offset, record []byte) (dispatch.Message, error) {
	r, err := ParseRecord(record)
	if err != nil {
		return dispatch.Message{}, err
	}
	return dispatch.Message{Offset: o, Key: sv.keyHash(r.Key), Size: framedSize(record)}, nil
}

// parseShardKey takes a key apart. For a block the offset is its index.
func parseShardKey(key []byte) (kind byte, lane uint8, offset dispatch.Offset, err error) {
	if len(key) == 0 {
		return 0, 0, 0, errors.New("it is empty")
	}
	switch kind = key[0]; kind {
	case keyHead:
		switch {
		case len(key) == 2 && key[1] > 0:
			lane = key[1]
		case len(key) != 1:
			return 0, 0, 0, errors.New("it is malformed")
		}
	case keyBlock, keyFailure, keyDeadLetter, keyRedriven:
		n, err := keyNumber(key)
		if err != nil {
			return 0, 0, 0, errors.New("it is malformed")
		}
		lane, offset = laneOf(n)
	default:
		return 0, 0, 0, fmt.Errorf("unknown kind %q", kind)
	}
	return kind, lane, offset, nil
}

// holdsKey tells whether an encoded dead letter holds its key, without decoding the rest: a group may have a million of them.
func holdsKey(value []byte) (holds bool, err error) {
	const field = 8 // DeadLetter.holds_key
	for len(value) > 0 {
		num, typ, n := protowire.ConsumeTag(value)
		if n < 0 {
			return false, protowire.ParseError(n)
		}
		value = value[n:]
		m := protowire.ConsumeFieldValue(num, typ, value)
		if m < 0 {
			return false, protowire.ParseError(m)
		}
		if num == field && typ == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(value)
			holds = v != 0
		}
		value = value[m:]
	}
	return holds, nil
}

// loadRedriven reads a redriven message by its number (laneNumber).
func loadRedriven(ctx context.Context, store engine.Shard, number int64) (*storagev1.Redriven, error) {
	v, err := store.Get(ctx, shardKey(keyRedriven, number))
	if err != nil {
		return nil, fmt.Errorf("redriven message %d: %w", number, err)
	}
	r := new(storagev1.Redriven)
	if err := proto.Unmarshal(v, r); err != nil {
		return nil, fmt.Errorf("redriven message %d: %w", number, err)
	}
	return r, nil
}
