// Package engine is the contract of a durable log and of the state that groups keep beside it.
//
// An engine stores two kinds of things: logs, append-only lists of records, one per topic partition and lane; and shards,
// small ordered key-value maps, one per (group, topic, partition), written only by the shard's owner. A Commit writes to both
// at once or not at all. What the records and the values mean is the caller's business.
//
// All implementations pass enginetest. All methods are safe for concurrent use.
package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// Offset is the place of a record in its log. Offsets grow by at least one from record to record, may have gaps, and are
// never reused. The first record of a log has offset 0.
type Offset int64

// NoOffset is returned beside an error. It is no record's offset.
const NoOffset Offset = -1

// TopicID names a topic on disk for its life.
type TopicID uint32

// LogID names a log.
type LogID struct {
	Topic     TopicID
	Partition uint32
	Lane      uint8
}

func (l LogID) String() string { return fmt.Sprintf("%d/%d/%d", l.Topic, l.Partition, l.Lane) }

// ShardID names the state of a group in a partition of a topic. Group is at most 249 bytes.
type ShardID struct {
	Group     string
	Topic     TopicID
	Partition uint32
}

func (s ShardID) String() string { return fmt.Sprintf("%s@%d/%d", s.Group, s.Topic, s.Partition) }

// Epoch orders the owners of a shard: a later owner has a greater one. The zero Epoch is nobody's.
type Epoch uint64

// Append is records for one log. Records holds Count records as consecutive length-delimited fields 1 of a protobuf message
// (a mq.broker.v1.RecordSet). The engine keeps no reference to Records after the call returns.
type Append struct {
	Log     LogID
	Records []byte
	Count   int
	// TimeMS is the append time to store, in milliseconds since 1970. One that is earlier than that of the log's last chunk is stored as that: times of a
	// log never go back, so that they can be searched.
	TimeMS int64
}

// Chunk is a run of records with consecutive offsets, First to First+Count-1. Records is encoded as in Append and is
// read-only; it stays valid for as long as it is referenced.
type Chunk struct {
	First   Offset
	Count   int
	TimeMS  int64
	Records []byte
	// Taken is how many bytes of Records the log took before this chunk, trimmed ones included.
	Taken int64
}

// Last is the offset of the chunk's last record.
func (c Chunk) Last() Offset { return c.First + Offset(c.Count) - 1 }

// Bounds tells what a log holds: records at or above Begin and below End. End is the offset that the next record gets.
type Bounds struct {
	Begin, End Offset
	// Bytes is the sum of len(Chunk.Records) over the chunks that are kept.
	Bytes int64
}

// Write is one change of a shard's map: Value replaces what Key had; with Delete the key goes.
type Write struct {
	Key    []byte
	Value  []byte
	Delete bool
	// Until, with Delete, makes all keys go from Key to below Until.
	Until []byte
	// Firsts adds to Value where records of the same commit rest: the first offsets of so many of its appends, from the one at FirstsAt on, as AddFirsts does.
	FirstsAt, Firsts int
}

// AddFirsts adds the first offsets of a write's appends to its value, 8 bytes each, big-endian.
func (w Write) AddFirsts(value []byte, first func(i int) Offset) []byte {
	for i := w.FirstsAt; i < w.FirstsAt+w.Firsts; i++ {
		value = binary.BigEndian.AppendUint64(value, uint64(first(i)))
	}
	return value
}

// Batch is what one Commit writes, all of it or nothing.
type Batch struct {
	Writes  []Write
	Appends []Append
}

// Part is what a commit of several shards writes for one of them, in the name of its claim.
type Part struct {
	Shard  Shard
	Writes []Write
	// Yields makes the whole commit fail with ErrFull where an Append would. Commits go on for longer, so that what was published can be consumed when
	// the disk is full: a commit of what is published must not take that room.
	Yields bool
}

// Engine is a durable log store.
type Engine interface {
	// Append stores each element in the order given and returns the offset of the first record of each. It returns when
	// all of them are durable; they are stored all or none. Concurrent appends may share one sync.
	// An element with Count < 1 or with malformed Records is a caller's error and panics or fails without effect.
	// Errors: ErrFull, ErrClosed, ErrUnknownOutcome, *CorruptError when a log is quarantined.
	Append(ctx context.Context, appends []Append) ([]Offset, error)

	// Commit writes the maps of several shards and appends to logs, all of it or nothing, and returns the first offset of each append when that is
	// durable. Nothing is written when one of the claims has been taken over. Two parts of one shard are done in their order. The shards are of this engine.
	// Errors: ErrFenced when a later epoch has claimed one of the shards, and those of Append.
	Commit(ctx context.Context, parts []Part, appends []Append) ([]Offset, error)

	// Read returns chunks that hold the records at or above from, in order. Only durable records are returned, and the first
	// chunk may begin below from. It stops after maxBytes of records but returns at least one chunk if there is one. At the end
	// of the log it returns none. A from below Begin reads from Begin.
	// Errors: *CorruptError, ErrClosed.
	Read(ctx context.Context, log LogID, from Offset, maxBytes int) ([]Chunk, error)

	// Bounds of a log; a log without records is the zero Bounds.
	Bounds(ctx context.Context, log LogID) (Bounds, error)

	// Watch calls notify with the log's end each time the end has advanced durably, until cancel is called. notify must not block
	// and must not call the engine. A call may be skipped if a later one carries a greater end. cancel waits for a call under way.
	Watch(log LogID, notify func(end Offset)) (cancel func())

	// Trim forgets records below before, as far as that can be done by whole chunks. Begin never moves back.
	Trim(ctx context.Context, log LogID, before Offset) error

	// Fence claims a shard at an epoch: from its return on, commits of every earlier epoch fail with ErrFenced, for ever and
	// across restarts. An epoch below the highest seen fails with ErrFenced; the highest itself may be claimed again, which is how an
	// owner that is unsure of a write's outcome reads its state anew.
	Fence(ctx context.Context, shard ShardID, epoch Epoch) (Shard, error)

	// View reads a shard's map without a claim: what was durable at some instant. Commits of the shard fail with ErrFenced.
	View(shard ShardID) Shard

	// Close waits for calls under way. Calls after it fail with ErrClosed.
	Close() error
}

// Space is how much room a store has.
type Space int

const (
	// Roomy is enough for everything.
	Roomy Space = iota
	// NoPublish is too little to take new messages: Append fails with ErrFull.
	NoPublish
	// NoLease is too little to begin work on messages: only what ends work should be written. The engine leaves that to its caller.
	NoLease
	// NoWrite is too little to write anything: Commit fails with ErrFull too.
	NoWrite
)

// Tailer is implemented by engines that hand over what they have just written, so that who follows a log closely need not read it.
type Tailer interface {
	// Tail calls take with each chunk of the log once it is durable, in order and before the call that wrote it returns, until cancel is called. While wanted returns false chunks
	// are skipped, which saves copying them. A chunk belongs to all who take it: it must not be changed. Neither function may block or call the engine. cancel waits for a call under way.
	Tail(log LogID, wanted func() bool, take func(Chunk)) (cancel func())
}

// Gauge is implemented by engines whose room can end.
type Gauge interface {
	// Space tells how much room there is, and why if it is not enough. It is cheap, and may be old by a tenth of a second.
	Space() (Space, error)
}

// Shard is the claim to a shard's map at an epoch.
type Shard interface {
	// Commit makes the batch durable, all or nothing, and returns the first offset of each append.
	// Errors: ErrFenced when a later epoch has claimed the shard, and those of Engine.Append.
	Commit(ctx context.Context, batch Batch) ([]Offset, error)

	// Get returns the value of a key, a copy that the caller owns, or ErrNotFound.
	Get(ctx context.Context, key []byte) ([]byte, error)

	// Scan yields the keys at or above from that begin with prefix, in order, with their values, up to the caller's break or an error, which is
	// yielded last with nil key and value. Slices are valid until the next step. An empty from is the prefix itself.
	Scan(ctx context.Context, prefix, from []byte) iter.Seq2[Pair, error]
}

// Pair is a key and its value.
type Pair struct{ Key, Value []byte }

var (
	// ErrFenced says that a later owner has claimed the shard. The caller is no longer its owner and stops.
	ErrFenced = errors.New("engine: shard is fenced")
	// ErrUnknownOutcome says that a write may or may not be durable. Reading the state again after a new claim tells.
	ErrUnknownOutcome = errors.New("engine: outcome unknown")
	// ErrFull says that there is no space for the write. Nothing was written.
	ErrFull = errors.New("engine: storage full")
	// ErrNotFound says that a shard has no such key.
	ErrNotFound = errors.New("engine: key not found")
	// ErrClosed says that the engine was closed.
	ErrClosed = errors.New("engine: closed")
)

// CorruptError says that stored data did not survive: the log does not serve, others do.
type CorruptError struct {
	Log    LogID
	Offset Offset
	Detail string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("engine: log %v is corrupt at offset %d: %s", e.Log, e.Offset, e.Detail)
}
