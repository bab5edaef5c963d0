package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// scheduleShard is where scheduled messages of all topics are kept: a shard like any other, of a group that no user can name.
var scheduleShard = engine.ShardID{Group: "__schedule"}

// Keys of the schedule's map. Numbers are 8 bytes, big-endian, but for the topic's id, which has 4. docs/formats/schedule.md describes them.
const (
	keyScheduled = 's' // + place: a Scheduled
	keyByID      = 'i' // + topic's id, message's id, 0, place: nothing
	keyClock     = 'c' // a ClockMark
	keySequence  = 'n' // the sequence number that the next entry gets
)

// scheduledPlace orders scheduled messages: by when they are due, and then by when they came.
type scheduledPlace struct {
	due int64 // milliseconds since 1970
	seq uint64
}

const placeSize = 16

func (p scheduledPlace) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.due))
	return binary.BigEndian.AppendUint64(b, p.seq)
}

func (p scheduledPlace) before(o scheduledPlace) bool {
	return p.due < o.due || p.due == o.due && p.seq < o.seq
}

// next is the place that follows at once.
func (p scheduledPlace) next() scheduledPlace {
	if p.seq++; p.seq == 0 {
		p.due++
	}
	return p
}

func (p scheduledPlace) key() []byte {
	return p.appendTo(append(make([]byte, 0, 1+placeSize), keyScheduled))
}

// placeOf reads the place at the end of a key of n bytes before it.
func placeOf(key []byte, n int) (scheduledPlace, error) {
	if len(key) != n+placeSize {
		return scheduledPlace{}, fmt.Errorf("key %x of the schedule is malformed", key)
	}
	return scheduledPlace{int64(binary.BigEndian.Uint64(key[n:])), binary.BigEndian.Uint64(key[n+8:])}, nil
}

// idPrefix begins the keys of all entries of a message id. Ids have no zero byte: see Record.check.
func idPrefix(t engine.TopicID, id string) []byte {
	b := make([]byte, 0, 1+4+len(id)+1+placeSize)
	b = binary.BigEndian.AppendUint32(append(b, keyByID), uint32(t))
	return append(append(b, id...), 0)
}

// scheduledRecord is a record that is to be kept until it is due.
type scheduledRecord struct {
	due   int64
	topic engine.TopicID
	id    string // may be empty
	value []byte // a Scheduled
}

func newScheduledRecord(log engine.LogID, due int64, r Record) scheduledRecord {
	value, err := proto.Marshal(&storagev1.Scheduled{Record: r.raw, Topic: uint32(log.Topic), Partition: log.Partition, Lane: uint32(log.Lane)})
	if err != nil {
		panic(err) // of bytes and numbers: cannot be
	}
	return scheduledRecord{due: due, topic: log.Topic, id: string(r.ID), value: value}
}

func (r scheduledRecord) size() int { return len(r.value) + len(r.id) }

// writes stores the entry.
func (r scheduledRecord) writes(dst []engine.Write, at scheduledPlace) []engine.Write {
	dst = append(dst, engine.Write{Key: at.key(), Value: r.value})
	if r.id != "" {
		dst = append(dst, engine.Write{Key: at.appendTo(idPrefix(r.topic, r.id))})
	}
	return dst
}

// deleteScheduled deletes the entry of a message from the map.
func deleteScheduled(dst []engine.Write, at scheduledPlace, t engine.TopicID, id string) []engine.Write {
	dst = append(dst, engine.Write{Key: at.key(), Delete: true})
	if id != "" {
		dst = append(dst, engine.Write{Key: at.appendTo(idPrefix(t, id)), Delete: true})
	}
	return dst
}

// scheduledEntry is a scheduled message as it is stored.
type scheduledEntry struct {
	at     scheduledPlace
	log    engine.LogID
	record Record
}

// parseScheduled reads an entry. It keeps nothing of the value.
func parseScheduled(key, value []byte) (scheduledEntry, error) {
	at, err := placeOf(key, 1)
	if err != nil {
		return scheduledEntry{}, err
	}
	var s storagev1.Scheduled
	if err := proto.Unmarshal(value, &s); err != nil {
		return scheduledEntry{}, fmt.Errorf("scheduled message %x: %w", key, err)
	}
	r, err := ParseRecord(s.GetRecord())
	if err != nil {
		return scheduledEntry{}, fmt.Errorf("scheduled message %x: %w", key, err)
	}
	log := engine.LogID{Topic: engine.TopicID(s.GetTopic()), Partition: s.GetPartition(), Lane: uint8(s.GetLane())}
	return scheduledEntry{at: at, log: log, record: r}, nil
}

// byID lists up to n places of a message id, the earliest first, from a place on.
func byID(ctx context.Context, store engine.Shard, t engine.TopicID, id string, from scheduledPlace, n int) ([]scheduledPlace, error) {
	prefix := idPrefix(t, id)
	var places []scheduledPlace
	for pair, err := range store.Scan(ctx, prefix, from.appendTo(idPrefix(t, id))) {
		if err != nil {
			return nil, err
		}
		if len(pair.Key) != len(prefix)+placeSize { // of an id with a zero byte, which nobody has, this is the beginning of another's key
			continue
		}
		at, err := placeOf(pair.Key, len(prefix))
		if err != nil {
			return nil, err
		}
		if places = append(places, at); len(places) == n {
			break
		}
	}
	return places, nil
}

// loadClock returns the latest time of day that the store has seen, in milliseconds since 1970, or 0.
func loadClock(ctx context.Context, store engine.Shard) (int64, error) {
	v, err := store.Get(ctx, []byte{keyClock})
	if errors.Is(err, engine.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var m storagev1.ClockMark
	if err := proto.Unmarshal(v, &m); err != nil {
		return 0, fmt.Errorf("clock mark: %w", err)
	}
	return m.GetTimeMs(), nil
}

func clockWrite(ms int64) engine.Write {
	value, err := proto.Marshal(&storagev1.ClockMark{TimeMs: ms})
	if err != nil {
		panic(err) // of a number: cannot be
	}
	return engine.Write{Key: []byte{keyClock}, Value: value}
}

// loadSequence returns the sequence number that the next entry gets.
func loadSequence(ctx context.Context, store engine.Shard) (uint64, error) {
	v, err := store.Get(ctx, []byte{keySequence})
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(v) != 8:
		return 0, fmt.Errorf("sequence number %x of the schedule is malformed", v)
	}
	return binary.BigEndian.Uint64(v), nil
}

func sequenceWrite(next uint64) engine.Write {
	return engine.Write{Key: []byte{keySequence}, Value: binary.BigEndian.AppendUint64(nil, next)}
}
