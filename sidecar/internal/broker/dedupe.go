package broker

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// sumPrime mixes two hashes into one in which their order counts.
const sumPrime = 0x9e3779b97f4a7c15

// idOf is what is compared of a record with an id: 64 bits for the id, and as many for payload and key. Two ids of a topic in which all of it is equal are
// one by mistake once in 2^128; with the first half alone, once in 2^64, one of them is refused.
type idOf struct {
	index       int // of the record in its batch
	id, content uint64
}

func newIDOf(index int, r Record) idOf {
	return idOf{index: index, id: xxhash.Sum64(r.ID), content: xxhash.Sum64(r.Payload)*sumPrime + xxhash.Sum64(r.Key)}
}

// duplicate is a record of a batch that was published before.
type duplicate struct {
	index     int
	partition uint32
	offset    int64
	// The record that it repeats, if that is in the same commit and has no place yet.
	of *routed
	at int
}

// place is where the record rests that it repeats.
func (d duplicate) place() (partition uint32, offset int64) {
	if d.of != nil {
		return d.of.order[d.at], d.of.out.Offsets[d.at]
	}
	return d.partition, d.offset
}

// drop takes the duplicates out of what a batch is cut into.
func (r *routed) drop() {
	var (
		duplicates = r.duplicates
		cut        = make([]part, len(r.parts))
		at         = make([]int, len(r.parts)) // bytes of each part that were looked at
		scheduled  []scheduledRecord
		waiting    = r.scheduled
	)
	for p := range cut {
		cut[p].partition, cut[p].lane = r.parts[p].partition, r.parts[p].lane
	}
	for i, p := range r.order {
		gone := len(duplicates) > 0 && duplicates[0].index == i
		if gone {
			duplicates = duplicates[1:]
		}
		if p&isScheduled != 0 {
			if !gone {
				scheduled = append(scheduled, waiting[0])
			}
			waiting = waiting[1:]
			continue
		}
		old := r.parts[p].records[at[p]:]
		n := engine.RecordLen(old)
		at[p] += n
		if !gone {
			cut[p].records = append(cut[p].records, old[:n]...)
			cut[p].count++
		}
	}
	r.uncut = &uncut{r.parts, r.scheduled}
	r.parts, r.scheduled = cut, scheduled
}

// uncut is what a batch was before duplicates were dropped.
type uncut struct {
	parts     []part
	scheduled []scheduledRecord
}

// restore makes a publication what it was before it was looked at.
func (pub *publication) restore() {
	if pub.all == nil {
		pub.all = pub.routes
		return
	}
	pub.routes, pub.again = pub.all, nil
	for _, r := range pub.routes {
		*r.out, r.duplicates = Placement{}, nil
		if r.uncut != nil {
			r.parts, r.scheduled, r.uncut = r.uncut.parts, r.uncut.scheduled, nil
		}
	}
}

// id is the id of a record, by its place in the batch.
func (r *routed) id(index int) string {
	scheduled, at := 0, make([]int, len(r.parts))
	for i, p := range r.order[:index+1] {
		if p&isScheduled != 0 {
			if i == index {
				return r.scheduled[scheduled].id
			}
			scheduled++
			continue
		}
		old := r.parts[p].records[at[p]:]
		n := engine.RecordLen(old)
		at[p] += n
		if i == index {
			for encoding := range records(old[:n]) {
				rec, _ := ParseRecord(encoding.record) // which was parsed before
				return string(rec.ID)
			}
		}
	}
	return ""
}

// idIndex finds the ids of a topic that were published within its window. On disk are segments: the ids of one commit, with what they stand for. In memory is a
// table that tells in which segment an id may be: 8 bytes for each of at most three quarters of its slots. A slot holds 32 bits of the id's hash and
// the lower 32 bits of the segment's number; 0 is free. A slot lies at the first free place from where its hash belongs, around the end.
// The table may name a segment that does not have the id, or that is not there; it never misses one.
type idIndex struct {
	topic       engine.TopicID
	first, next uint64 // numbers of the segments that may be there: from first to below next
	latest      int64  // when the last one was written, in milliseconds since 1970
	marks       []segmentMark
	slots       []uint64
	used        int
}

// segmentMark says that the segments from a number on were written at a time or later, and those before not after it.
type segmentMark struct {
	number uint64
	timeMS int64
}

// leastSlots is the size of a table that has something in it, a power of two as all sizes.
const leastSlots = 1 << 10

func newIDIndex(t engine.TopicID) *idIndex { return &idIndex{topic: t, first: 1, next: 1} }

// homeOf is where a hash belongs in a table.
func (x *idIndex) homeOf(half uint32) int {
	return int(half * 0x9e3779b1 >> (32 - bits.TrailingZeros(uint(len(x.slots)))))
}

// halfOf is the part of a hash that a slot holds.
func halfOf(id uint64) uint32 { return uint32(id >> 32) }

// candidates calls f with the numbers of the segments that an id may be in, until f returns false.
func (x *idIndex) candidates(id uint64, f func(number uint64) bool) {
	if x.used == 0 {
		return
	}
	half, mask := halfOf(id), len(x.slots)-1
	for i := x.homeOf(half); x.slots[i] != 0; i = (i + 1) & mask {
		if uint32(x.slots[i]>>32) != half {
			continue
		}
		number := x.next&^(1<<32-1) | x.slots[i]&(1<<32-1)
		if number > x.next { // next itself is the segment that is being made
			number -= 1 << 32
		}
		if !f(number) {
			return
		}
	}
}

// add notes that an id is in a segment.
func (x *idIndex) add(id, number uint64) {
	if 4*(x.used+1) > 3*len(x.slots) {
		x.resize(max(leastSlots, 2*len(x.slots)), x.first)
	}
	x.put(uint64(halfOf(id))<<32 | number&(1<<32-1))
}

func (x *idIndex) put(slot uint64) {
	mask := len(x.slots) - 1
	i := x.homeOf(uint32(slot >> 32))
	for x.slots[i] != 0 {
		i = (i + 1) & mask
	}
	x.slots[i] = slot
	x.used++
}

// remove takes back what add noted, closing the gap. It returns false if that is not there.
func (x *idIndex) remove(id, number uint64) bool {
	if x.used == 0 {
		return false
	}
	slot, mask := uint64(halfOf(id))<<32|number&(1<<32-1), len(x.slots)-1
	i := x.homeOf(halfOf(id))
	for x.slots[i] != slot {
		if x.slots[i] == 0 {
			return false
		}
		i = (i + 1) & mask
	}
	x.used--
	for j := (i + 1) & mask; x.slots[j] != 0; j = (j + 1) & mask {
		if home := x.homeOf(uint32(x.slots[j] >> 32)); (j-home)&mask >= (j-i)&mask {
			x.slots[i] = x.slots[j]
			i = j
		}
	}
	x.slots[i] = 0
	return true
}

// resize makes a table of so many slots, without what is in segments below first.
func (x *idIndex) resize(size int, first uint64) {
	old := x.slots
	x.slots, x.used = make([]uint64, size), 0
	live := uint32(x.next - first) // segments, the one that is being made not counted
	for _, slot := range old {
		if slot != 0 && uint32(x.next)-uint32(slot) <= live {
			x.put(slot)
		}
	}
}

// forget drops what is in segments below first.
func (x *idIndex) forget(first uint64) {
	x.first = first
	if first >= x.next {
		x.slots, x.used = nil, 0
		return
	}
	x.resize(len(x.slots), first)
	size := len(x.slots)
	for size > leastSlots && 16*x.used < 3*size {
		size /= 2
	}
	if size < len(x.slots) {
		x.resize(size, first)
	}
}

// wrote notes that the next segment was written.
func (x *idIndex) wrote(number uint64, timeMS int64, window time.Duration) {
	x.next, x.latest = number+1, timeMS
	if uint32(x.next) == 0 { // with an id's half of 0 that would be a free slot
		x.next++
	}
	if n := len(x.marks); n == 0 || timeMS-x.marks[n-1].timeMS >= markAfter(window).Milliseconds() {
		x.marks = append(x.marks, segmentMark{number, timeMS})
	}
}

// markAfter is how precisely it is known when segments were written: what is forgotten, is so later than it might be by as much.
func markAfter(window time.Duration) time.Duration { return max(time.Second, window/8) }

// over is the number below which all segments are older than the window at a time, and how many marks it passes.
func (x *idIndex) over(now int64, window time.Duration) (first uint64, marks int) {
	first = x.first
	for marks < len(x.marks) {
		until, end := x.next, x.latest
		if marks+1 < len(x.marks) {
			until, end = x.marks[marks+1].number, x.marks[marks+1].timeMS
		}
		if end+window.Milliseconds() > now {
			return first, marks
		}
		first = until
		marks++
	}
	return first, marks
}

// expiresAt is when the next call of over finds something, or never.
func (x *idIndex) expiresAt(window time.Duration) int64 {
	switch {
	case len(x.marks) > 1:
		return x.marks[1].timeMS + window.Milliseconds()
	case len(x.marks) == 1:
		return x.latest + window.Milliseconds()
	}
	return never
}

// segments keeps those that were read last: whoever sends again what was sent before, finds it in a few.
type segments struct {
	store engine.Shard
	read  map[segmentName]*segment
	ids   int // in all of them
}

type segmentName struct {
	topic  engine.TopicID
	number uint64
}

// segmentIDs bounds the ids of the segments that are kept.
const segmentIDs = 100_000

// get returns a segment, or nil if there is none.
func (s *segments) get(ctx context.Context, t engine.TopicID, number uint64) (*segment, error) {
	name := segmentName{t, number}
	if seg, ok := s.read[name]; ok {
		return seg, nil
	}
	value, err := s.store.Get(ctx, segmentKey(t, number))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seg, err := parseSegment(value)
	if err != nil {
		return nil, err
	}
	if s.ids += len(seg.ids) + 16; s.ids > segmentIDs {
		clear(s.read)
		s.ids = len(seg.ids) + 16
	}
	s.read[name] = seg
	return seg, nil
}

// segment is the ids of one commit.
type segment struct {
	timeMS int64
	ids    []placedID
	hint   int // where the next id is looked for first: they come again in their order
}

// placedID is a published id and where its record rests, offset -1 if it was scheduled.
type placedID struct {
	id, content uint64
	partition   uint32
	offset      int64
}

func (s *segment) find(id uint64) (placedID, bool) {
	for i := range s.ids {
		at := s.hint + i
		if at >= len(s.ids) {
			at -= len(s.ids)
		}
		if s.ids[at].id == id {
			s.hint = at + 1
			return s.ids[at], true
		}
	}
	return placedID{}, false
}
