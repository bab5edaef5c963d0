package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// ledgerShard is where it is kept what was published, so that it is known when it comes again: a shard like any other, of a group that no user can name.
var ledgerShard = engine.ShardID{Group: "__published"}

// Keys of the ledger's map. Numbers in keys are big-endian. docs/formats/published.md describes keys and values.
const (
	keySegment  = 'e' // + topic's id (4), number (8): a segment, the ids of one commit
	keyProducer = 'p' // + producer's id (16): its last answers
	keySeen     = 't' // + time (8), producer's id: the producer was heard of then, or later
)

const (
	segmentVersion  = 1
	producerVersion = 1
)

var errLedgerValue = errors.New("value of the ledger is malformed")

func segmentKey(t engine.TopicID, number uint64) []byte {
	b := binary.BigEndian.AppendUint32([]byte{keySegment}, uint32(t))
	return binary.BigEndian.AppendUint64(b, number)
}

func segmentOf(key []byte) (t engine.TopicID, number uint64, err error) {
	if len(key) != 13 {
		return 0, 0, fmt.Errorf("key %x of the ledger is malformed", key)
	}
	return engine.TopicID(binary.BigEndian.Uint32(key[1:])), binary.BigEndian.Uint64(key[5:]), nil
}

func producerKey(id [16]byte) []byte { return append([]byte{keyProducer}, id[:]...) }

func seenKey(ms int64, id []byte) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{keySeen}, uint64(ms)), id...)
}

// appendsOf lists the appends from one to below another that a value speaks of, by their partitions. Their first offsets follow the value.
func appendsOf(dst []byte, appends []engine.Append, from, to int) []byte {
	dst = binary.AppendUvarint(dst, uint64(to-from))
	for _, a := range appends[from:to] {
		dst = binary.AppendUvarint(dst, uint64(a.Log.Partition))
	}
	return dst
}

// newID is an id that a commit adds: of the record of a part, or of one that is scheduled.
type newID struct {
	idOf
	route   *routed
	ordinal uint32 // in its part
}

// segmentWrite stores the ids of one topic that a commit adds. It is asked when parts know which append they are.
func segmentWrite(t engine.TopicID, number uint64, timeMS int64, ids []newID, appends []engine.Append) engine.Write {
	from, to := len(appends), 0
	for _, id := range ids {
		if p := id.route.order[id.index]; p&isScheduled == 0 {
			from, to = min(from, id.route.parts[p].at), max(to, id.route.parts[p].at+1)
		}
	}
	from = min(from, to)
	v := make([]byte, 0, 32+3*(to-from)+20*len(ids))
	v = binary.BigEndian.AppendUint64(append(v, segmentVersion), uint64(timeMS))
	v = appendsOf(v, appends, from, to)
	v = binary.AppendUvarint(v, uint64(len(ids)))
	for _, id := range ids {
		v = binary.BigEndian.AppendUint64(v, id.id)
		v = binary.BigEndian.AppendUint64(v, id.content)
		if p := id.route.order[id.index]; p&isScheduled != 0 {
			v = binary.AppendUvarint(v, uint64(id.route.partition(p))<<1|1)
		} else {
			v = binary.AppendUvarint(v, uint64(id.route.parts[p].at-from)<<1)
			v = binary.AppendUvarint(v, uint64(id.ordinal))
		}
	}
	return engine.Write{Key: segmentKey(t, number), Value: v, FirstsAt: from, Firsts: to - from}
}

// partition is the partition of one of a batch's parts.
func (r *routed) partition(p uint32) uint32 {
	return r.parts[p&^isScheduled].partition
}

// ledgerReader reads a value of the ledger.
type ledgerReader struct {
	rest       []byte
	bad        bool
	partitions []uint32
	firsts     []byte
}

func (r *ledgerReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *ledgerReader) bytes(n int) []byte {
	if len(r.rest) < n {
		r.bad, r.rest = true, nil
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *ledgerReader) fixed64() uint64 { return binary.BigEndian.Uint64(r.bytes(8)) }

// count reads how many items follow, each of at least size bytes.
func (r *ledgerReader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.bad, r.rest = true, nil
		return 0
	}
	return int(n)
}

// appends reads the list of appends, and takes their first offsets off the end.
func (r *ledgerReader) appends() {
	n := r.count(9)
	r.partitions = make([]uint32, n)
	for i := range r.partitions {
		r.partitions[i] = uint32(r.uvarint())
	}
	if len(r.rest) < 8*n {
		r.bad, r.rest = true, nil
		n = 0
	}
	r.rest, r.firsts = r.rest[:len(r.rest)-8*n], r.rest[len(r.rest)-8*n:]
}

// at is the place of a record of an append.
func (r *ledgerReader) at(i, ordinal uint64) (partition uint32, offset int64) {
	if i >= uint64(len(r.firsts)/8) {
		r.bad = true
		return 0, 0
	}
	return r.partitions[i], int64(binary.BigEndian.Uint64(r.firsts[8*i:]) + ordinal)
}

func (r *ledgerReader) err() error {
	if r.bad || len(r.rest) > 0 {
		return errLedgerValue
	}
	return nil
}

func parseSegment(value []byte) (*segment, error) {
	r := ledgerReader{rest: value}
	if v := r.bytes(1)[0]; v != segmentVersion {
		return nil, fmt.Errorf("segment of version %d: %w", v, errLedgerValue)
	}
	s := &segment{timeMS: int64(r.fixed64())}
	r.appends()
	s.ids = make([]placedID, r.count(17))
	for i := range s.ids {
		p := &s.ids[i]
		p.id, p.content = r.fixed64(), r.fixed64()
		if x := r.uvarint(); x&1 != 0 {
			p.partition, p.offset = uint32(x>>1), int64(engine.NoOffset)
		} else {
			p.partition, p.offset = r.at(x>>1, r.uvarint())
		}
	}
	return s, r.err()
}

// scanSegment calls f with the id of each record of a segment. It returns when the segment was written, and how many ids it has.
func scanSegment(value []byte, f func(id uint64)) (timeMS int64, n int, err error) {
	r := ledgerReader{rest: value}
	if v := r.bytes(1)[0]; v != segmentVersion {
		return 0, 0, fmt.Errorf("segment of version %d: %w", v, errLedgerValue)
	}
	timeMS = int64(r.fixed64())
	r.appends()
	n = r.count(17)
	for range n {
		f(r.fixed64())
		r.fixed64()
		if x := r.uvarint(); x&1 == 0 {
			r.uvarint()
		}
	}
	return timeMS, n, r.err()
}

// How the place of a record is written in an answer: the lower two bits of a number, with an append or a partition above them.
const (
	placeNext     = iota // 0: the next record of an append
	placeOrdinal         // a duplicate of a record of an append: its ordinal follows
	placeKnown           // a partition: offset + 1 follows
	placeRepeated        // the same, of a duplicate
)

// producerWrite stores what is known of a producer: the answers it may still ask for, and those that a commit adds. It is asked when parts know which
// append they are.
func producerWrite(id [16]byte, p *producer, added []*routed, appends []engine.Append) engine.Write {
	from, to := len(appends), 0
	note := func(r *routed, p uint32) {
		if p&isScheduled == 0 {
			from, to = min(from, r.parts[p].at), max(to, r.parts[p].at+1)
		}
	}
	for _, r := range added {
		duplicates := r.duplicates
		for i, p := range r.order {
			if len(duplicates) > 0 && duplicates[0].index == i {
				if d := duplicates[0]; d.of != nil {
					note(d.of, d.of.order[d.at])
				}
				duplicates = duplicates[1:]
				continue
			}
			note(r, p)
		}
	}
	from = min(from, to)
	v := binary.BigEndian.AppendUint64([]byte{producerVersion}, uint64(p.seenMS))
	v = binary.AppendUvarint(v, p.below)
	v = appendsOf(v, appends, from, to)
	v = binary.AppendUvarint(v, uint64(len(p.answers)+len(added)))
	for _, a := range p.answers {
		v = a.append(v)
	}
	for _, r := range added {
		v = r.appendAnswer(v, from)
	}
	return engine.Write{Key: producerKey(id), Value: v, FirstsAt: from, Firsts: to - from}
}

// append encodes an answer that is known.
func (a answer) append(v []byte) []byte {
	v = binary.AppendUvarint(v, a.number)
	v = binary.BigEndian.AppendUint64(v, a.sum)
	v = binary.AppendUvarint(v, uint64(len(a.Partitions)))
	duplicates := a.Duplicates
	for i, p := range a.Partitions {
		kind := uint64(placeKnown)
		if len(duplicates) > 0 && duplicates[0] == uint32(i) {
			kind, duplicates = placeRepeated, duplicates[1:]
		}
		v = binary.AppendUvarint(v, uint64(p)<<2|kind)
		v = binary.AppendUvarint(v, uint64(a.Offsets[i]+1))
	}
	return v
}

// appendAnswer encodes the answer to a batch that gets its places from a commit whose append number from is the first of the list.
func (r *routed) appendAnswer(v []byte, from int) []byte {
	v = binary.AppendUvarint(v, r.number)
	v = binary.BigEndian.AppendUint64(v, r.sum)
	v = binary.AppendUvarint(v, uint64(len(r.order)))
	duplicates := r.duplicates
	for i, p := range r.order {
		switch {
		case len(duplicates) > 0 && duplicates[0].index == i:
			v = duplicates[0].append(v, from)
			duplicates = duplicates[1:]
		case p&isScheduled != 0:
			v = append(binary.AppendUvarint(v, uint64(r.partition(p))<<2|placeKnown), 0)
		default:
			v = binary.AppendUvarint(v, uint64(r.parts[p].at-from)<<2) // placeNext
		}
	}
	return v
}

// append encodes the place of a duplicate.
func (d duplicate) append(v []byte, from int) []byte {
	if d.of == nil {
		v = binary.AppendUvarint(v, uint64(d.partition)<<2|placeRepeated)
		return binary.AppendUvarint(v, uint64(d.offset+1))
	}
	p := d.of.order[d.at]
	if p&isScheduled != 0 {
		return append(binary.AppendUvarint(v, uint64(d.of.partition(p))<<2|placeRepeated), 0)
	}
	v = binary.AppendUvarint(v, uint64(d.of.parts[p].at-from)<<2|placeOrdinal)
	return binary.AppendUvarint(v, uint64(d.of.ordinal(d.at)))
}

// ordinal is which record of its part one is.
func (r *routed) ordinal(index int) (n uint32) {
	duplicates := r.duplicates
	for i, p := range r.order[:index] {
		if len(duplicates) > 0 && duplicates[0].index == i {
			duplicates = duplicates[1:]
		} else if p == r.order[index] {
			n++
		}
	}
	return n
}

func parseProducer(value []byte) (*producer, error) {
	r := ledgerReader{rest: value}
	if v := r.bytes(1)[0]; v != producerVersion {
		return nil, fmt.Errorf("producer of version %d: %w", v, errLedgerValue)
	}
	p := &producer{seenMS: int64(r.fixed64()), below: r.uvarint()}
	r.appends()
	p.answers = make([]answer, r.count(10))
	for i := range p.answers {
		a := &p.answers[i]
		a.number, a.sum = r.uvarint(), r.fixed64()
		n := r.count(1)
		a.Partitions, a.Offsets = make([]uint32, n), make([]int64, n)
		next := make([]uint64, len(r.partitions))
		for i := range n {
			x := r.uvarint()
			switch x & 3 {
			case placeNext:
				a.Partitions[i], a.Offsets[i] = r.at(x>>2, 0)
				if !r.bad {
					a.Offsets[i] += int64(next[x>>2])
					next[x>>2]++
				}
			case placeOrdinal:
				a.Partitions[i], a.Offsets[i] = r.at(x>>2, r.uvarint())
			default:
				a.Partitions[i], a.Offsets[i] = uint32(x>>2), int64(r.uvarint())-1
			}
			if kind := x & 3; kind == placeOrdinal || kind == placeRepeated {
				a.Duplicates = append(a.Duplicates, uint32(i))
			}
		}
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	if !slices.IsSortedFunc(p.answers, func(a, b answer) int { return compareNumbers(a.number, b.number) }) {
		return nil, errLedgerValue
	}
	return p, nil
}
