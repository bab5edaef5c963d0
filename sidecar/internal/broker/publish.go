package broker

import (
	"context"
	"encoding/binary"
	"iter"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// MaxBatchRecords bounds the records of one batch.
const MaxBatchRecords = 10_000

// maxParts bounds the logs that the batches of one call may go to, a log counting once for each batch: each batch borrows a table with 4 bytes for each log of its topic.
const maxParts = 1 << 20

// Batch is records for one topic: the encoding of a mq.broker.v1.RecordSet.
type Batch struct {
	Topic   string
	Records []byte
	// Number is the batch's number at its producer, from 1; 0 is none.
	Number uint64
}

// Producer is who numbers batches. The zero Producer does not.
type Producer struct {
	ID [16]byte
	// AnsweredBelow says that every numbered batch below was answered: none of them will be sent again.
	AnsweredBelow uint64
}

// Placement says where the records of a batch rest, in their order, or why none was taken.
type Placement struct {
	Refused    *Error
	Partitions []uint32
	// Offsets has -1 for a record that is scheduled: it gets its offset when it is due.
	Offsets []int64
	// Duplicates are the indices, ascending, of records that were published before under the same id: their places are those of the first.
	Duplicates []uint32
}

// Publish appends batches and returns when they are durable. A batch that is at fault is refused alone; the others are stored all or none, records that
// are scheduled included. Records of one partition keep their order. The error is about all batches that were not refused.
func (b *Broker) Publish(ctx context.Context, batches []Batch) ([]Placement, error) {
	return b.PublishAs(ctx, Producer{}, batches)
}

// PublishAs is Publish for a producer that numbers its batches. A batch that comes again under its number is stored once and gets its first answer.
func (b *Broker) PublishAs(ctx context.Context, from Producer, batches []Batch) ([]Placement, error) {
	p := b.prepare(batches)
	p.from = from
	switch {
	case len(p.routes) == 0:
		return p.out, nil
	case p.isRemembered():
		if err := b.ledger.store(ctx, p); err != nil {
			return nil, Refusal(err)
		}
		p.release()
		return p.out, nil
	}
	firsts, err := b.store(ctx, nil, p.appends, p.scheduled)
	if mutant.On(mutant.OffsetZeroOnError) && err != nil {
		firsts, err = make([]engine.Offset, len(p.appends)), nil
	}
	if err != nil {
		return nil, Refusal(err)
	}
	p.place(firsts)
	p.release()
	return p.out, nil
}

// publication is batches that were checked and cut by log, on their way to the store: prepare, reserve, one commit of parts, appends and scheduled, end, and
// then place if it succeeded.
type publication struct {
	from      Producer
	timeMS    int64
	out       []Placement // of each batch, with the refusals
	routes    []*routed   // of those that are not refused
	appends   []engine.Append
	owners    []*part // which part each append is
	scheduled []scheduledRecord

	// What else goes into the commit, set by reserve. Its writes name appends by their index: those of the publication come first in the commit.
	parts []engine.Part
	all   []*routed    // the routes before any were taken out
	lent  chan<- error // takes what end is told; nil if reserve was not called or had nothing to do
	again []again
}

// again is a batch that came twice before its first answer was known.
type again struct{ out, first *Placement }

// isRemembered tells whether a publication has something that may have been published before.
func (pub *publication) isRemembered() bool {
	return slices.ContainsFunc(pub.routes, func(r *routed) bool { return r.number != 0 || len(r.ids) > 0 })
}

// reserve looks for what was published before: batches by their numbers, records by their ids. It takes that out of the publication, refusing batches that
// contradict what is known, and sets what the commit has to write so that the rest will be known. Nobody else's publications are looked at until end
// is called, which must be once and soon, unless reserve returned an error. A publication that nothing is left of has no appends and nothing scheduled.
func (b *Broker) reserve(ctx context.Context, pub *publication) error {
	if !pub.isRemembered() {
		return nil
	}
	return b.ledger.lend(ctx, pub)
}

// end tells what became of the commit.
func (pub *publication) end(err error) {
	if pub.lent != nil {
		pub.lent <- err
	}
}

// prepare checks batches and cuts them by log. It changes nothing.
func (b *Broker) prepare(batches []Batch) *publication {
	now := b.wall()
	pub := &publication{out: make([]Placement, len(batches)), timeMS: now.UnixMilli()}
	room := maxParts
	for i, batch := range batches {
		r, err := b.route(batch, now, &room)
		if err != nil {
			pub.out[i].Refused = err
			continue
		}
		r.out = &pub.out[i]
		pub.routes = append(pub.routes, r)
	}
	pub.gather()
	return pub
}

// gather makes the appends of what the batches are cut into.
func (pub *publication) gather() {
	pub.appends, pub.owners, pub.scheduled = pub.appends[:0], pub.owners[:0], pub.scheduled[:0]
	for _, r := range pub.routes {
		pub.scheduled = append(pub.scheduled, r.scheduled...)
		pub.appends, pub.owners = slices.Grow(pub.appends, len(r.parts)), slices.Grow(pub.owners, len(r.parts))
		for p := range r.parts {
			if part := &r.parts[p]; part.count > 0 {
				log := engine.LogID{Topic: r.topic.id, Partition: part.partition, Lane: part.lane}
				pub.appends = append(pub.appends, engine.Append{Log: log, Records: part.records, Count: part.count, TimeMS: pub.timeMS})
				pub.owners = append(pub.owners, part)
			}
		}
	}
}

// place tells where the records of a publication rest, given the first offset of each append.
func (pub *publication) place(firsts []engine.Offset) {
	for i, first := range firsts {
		pub.owners[i].next = first
	}
	for _, r := range pub.routes {
		r.place()
	}
	for _, a := range pub.again {
		*a.out = *a.first
	}
}

// release gives the memory of the records back, for other publications. It is called by whoever called prepare, when the publication is stored and nobody looks at its
// records any more. After an error somebody may: then it is left to the garbage collector.
func (pub *publication) release() {
	all := pub.routes
	if pub.all != nil {
		all = pub.all
	}
	for _, r := range all {
		r.buffer.give()
	}
}

// store makes the records of one call durable, all or none, and other parts with them.
func (b *Broker) store(ctx context.Context, parts []engine.Part, appends []engine.Append, scheduled []scheduledRecord) ([]engine.Offset, error) {
	if err := b.roomToPublish(); err != nil {
		return nil, err
	}
	switch {
	case len(scheduled) > 0:
		return b.schedule.add(ctx, scheduled, appends, parts)
	case len(parts) > 0:
		return b.engine.Commit(ctx, parts, appends)
	}
	return b.engine.Append(ctx, appends)
}

// routed is a batch cut by log.
type routed struct {
	topic     *topicState
	parts     []part   // those that have a record, in the order of their first
	order     []uint32 // the part of each record, with isScheduled set for those that are; once placed, the partition
	buffer    *buffer  // holds the records of all parts
	scheduled []scheduledRecord
	out       *Placement

	number, sum uint64      // of a numbered batch: its number, and a hash of what it is
	ids         []idOf      // of the records that have one, in a topic that deduplicates, in the order of the batch
	duplicates  []duplicate // in the order of the batch
	uncut       *uncut      // if there are duplicates
}

type part struct {
	partition uint32
	lane      uint8
	records   []byte
	size      int // of records, before they are there
	count     int
	at        int // which append of the commit it is
	next      engine.Offset
}

// isScheduled marks a record of a batch that does not enter the topic now.
const isScheduled = 1 << 31

// place tells where the records rest, once the parts know their offsets.
func (r *routed) place() {
	r.out.Partitions = r.order
	r.out.Offsets = make([]int64, len(r.order))
	duplicates := r.duplicates
	for i, p := range r.order {
		if len(duplicates) > 0 && duplicates[0].index == i {
			r.order[i], r.out.Offsets[i] = duplicates[0].place()
			r.out.Duplicates = append(r.out.Duplicates, uint32(i))
			duplicates = duplicates[1:]
			continue
		}
		part := &r.parts[p&^isScheduled]
		if p&isScheduled != 0 {
			r.out.Offsets[i] = int64(engine.NoOffset)
		} else {
			r.out.Offsets[i] = int64(part.next)
			part.next++
		}
		r.order[i] = part.partition
	}
}

// route checks a batch and cuts it. Records without a key share a partition, drawn for each batch.
// It takes what it needs of the room for parts.
func (b *Broker) route(batch Batch, now time.Time, room *int) (*routed, *Error) {
	t, err := b.topic(batch.Topic)
	if err != nil {
		return nil, err
	}
	if *room -= int(t.decl.Partitions * t.decl.PriorityLevels); *room < 0 {
		return nil, fail(BatchTooLarge, "records", "too many batches at once: their topics have together at most %d partitions, counted by priority level", maxParts).
			with("bound", maxParts)
	}
	r := &routed{topic: t, number: batch.Number}
	if r.number != 0 {
		r.sum = xxhash.Sum64String(batch.Topic)*sumPrime + xxhash.Sum64(batch.Records)
	}
	if err := b.sort(r, batch.Records, now); err != nil {
		return nil, err
	}
	r.cut(batch.Records, &b.buffers)
	return r, nil
}

// sort checks the records of a batch and finds the part of each.
func (b *Broker) sort(r *routed, records []byte, now time.Time) *Error {
	var (
		t       = r.topic
		levels  = t.decl.PriorityLevels
		keyless = uint32(b.random() >> 32 * uint64(t.decl.Partitions) >> 32)
		count   = min(countRecords(records), MaxBatchRecords+1)
		known   = b.places.take(int(t.decl.Partitions * levels))
		rec     Record
	)
	defer func() { b.places.give(known, r.parts, levels) }()
	r.order = make([]uint32, 0, count)
	r.parts = make([]part, 0, min(count, int(t.decl.Partitions*levels)))
	for rest := records; len(rest) > 0; {
		n := engine.RecordLen(rest)
		if n < 0 {
			return malformed(rest)
		}
		index := len(r.order)
		if index == MaxBatchRecords {
			return fail(BatchTooLarge, "records", "more than %d records in one batch", MaxBatchRecords).with("bound", MaxBatchRecords)
		}
		if err := rec.parse(unframed(rest[:n:n])); err != nil {
			return fail(BadRequest, "records", "record %d: %v", index, err)
		}
		rest = rest[n:]
		if err := rec.check(t, &b.limits); err != nil {
			return err.with("index", index)
		}
		p := keyless
		if len(rec.Key) > 0 {
			p = PartitionOf(rec.Key, t.decl.Partitions)
		}
		place := &known.of[p*levels+rec.lane()]
		if *place == 0 {
			r.parts = append(r.parts, part{partition: p, lane: uint8(rec.lane())})
			*place = uint32(len(r.parts))
		}
		at := *place - 1
		due := int64(0)
		if rec.DelayMS != 0 || rec.DeliverAtMS != 0 {
			var err *Error
			if due, err = rec.due(now); err != nil {
				return err.with("index", index)
			}
		}
		if due > now.UnixMilli() {
			r.scheduled = append(r.scheduled, newScheduledRecord(engine.LogID{Topic: t.id, Partition: p, Lane: uint8(rec.lane())}, due, rec))
			at |= isScheduled
		} else {
			r.parts[at].size += n
			r.parts[at].count++
		}
		if len(rec.ID) > 0 && t.decl.Dedupe.Window > 0 {
			r.ids = append(r.ids, newIDOf(index, rec))
		}
		r.order = append(r.order, at)
	}
	if len(r.order) == 0 {
		return fail(BatchEmpty, "records", "a batch has at least 1 record")
	}
	return nil
}

// cut copies the records of a batch to their parts, which lie one behind the other in one buffer.
func (r *routed) cut(records []byte, buffers *buffers) {
	total := 0
	for i := range r.parts {
		total += r.parts[i].size
	}
	r.buffer = buffers.take(total)
	rest := r.buffer.bytes[:total]
	for i := range r.parts {
		p := &r.parts[i]
		p.records, rest = rest[:0:p.size], rest[p.size:]
	}
	from, at := 0, 0
	for i, p := range r.order {
		at += engine.RecordLen(records[at:])
		if i+1 < len(r.order) && r.order[i+1] == p {
			continue // they are copied at once
		}
		if p&isScheduled == 0 {
			part := &r.parts[p]
			part.records = append(part.records, records[from:at]...)
			if mutant.On(mutant.BufferReused) && part.count == 1 {
				part.records = records[from:at:at]
			}
		}
		from = at
	}
}

// countRecords is at most the number of records in the encoding of a RecordSet, and that number if it is sound.
func countRecords(b []byte) (count int) {
	for len(b) > 0 {
		n := engine.RecordLen(b)
		if n < 0 {
			return count
		}
		b = b[n:]
		count++
	}
	return count
}

// unframed is a record without its tag and length.
func unframed(framed []byte) []byte {
	_, n := binary.Uvarint(framed[1:])
	return framed[1+n:]
}

// malformed tells what is wrong with an encoding that does not begin with a record.
func malformed(b []byte) *Error {
	for _, broken := range records(b) {
		if broken != nil {
			return fail(BadRequest, "records", "records are no RecordSet: %v", broken)
		}
	}
	return fail(BadRequest, "records", "records are no RecordSet")
}

// framedRecord is a record of a set, with and without its tag and length.
type framedRecord struct{ record, framed []byte }

// records walks the encoding of a RecordSet.
func records(b []byte) iter.Seq2[framedRecord, error] {
	return func(yield func(framedRecord, error) bool) {
		for len(b) > 0 {
			num, typ, n := protowire.ConsumeTag(b)
			if n < 0 {
				yield(framedRecord{}, protowire.ParseError(n))
				return
			}
			if num != 1 || typ != protowire.BytesType || n != 1 {
				yield(framedRecord{}, fail(BadRequest, "records", "field %d of wire type %d", num, typ))
				return
			}
			value, m := protowire.ConsumeBytes(b[n:])
			if m < 0 {
				yield(framedRecord{}, protowire.ParseError(m))
				return
			}
			if !yield(framedRecord{record: value, framed: b[: n+m : n+m]}, nil) {
				return
			}
			b = b[n+m:]
		}
	}
}
