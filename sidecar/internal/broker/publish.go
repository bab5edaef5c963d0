package broker

import (
	"context"
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

// maxParts bounds the logs that the batches of one call may go to, a log counting once for each batch: memory is set aside for each.
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
		if err := b.ledger.publish(ctx, p); err != nil {
			return nil, Refusal(err)
		}
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
		levels := int(r.topic.decl.PriorityLevels)
		for p := range r.parts {
			if part := &r.parts[p]; part.count > 0 {
				log := engine.LogID{Topic: r.topic.id, Partition: uint32(p / levels), Lane: uint8(p % levels)}
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
	parts     []part   // by partition, and within it by lane
	order     []uint32 // the part of each record, with isScheduled set for those that are
	scheduled []scheduledRecord
	out       *Placement

	number, sum uint64      // of a numbered batch: its number, and a hash of what it is
	ids         []idOf      // of the records that have one, in a topic that deduplicates, in the order of the batch
	duplicates  []duplicate // in the order of the batch
	uncut       *uncut      // if there are duplicates
}

type part struct {
	records []byte
	count   int
	at      int // which append of the commit it is
	next    engine.Offset
}

// isScheduled marks a record of a batch that does not enter the topic now.
const isScheduled = 1 << 31

// place tells where the records rest, once the parts know their offsets.
func (r *routed) place() {
	levels := r.topic.decl.PriorityLevels
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
		if p&isScheduled != 0 {
			r.out.Offsets[i] = int64(engine.NoOffset)
		} else {
			r.out.Offsets[i] = int64(r.parts[p].next)
			r.parts[p].next++
		}
		if p &^= isScheduled; levels > 1 {
			p /= levels
		}
		r.order[i] = p
	}
}

// route checks a batch and cuts it. Records without a key share a partition, drawn for each batch.
// It takes what it needs of the room for parts.
func (b *Broker) route(batch Batch, now time.Time, room *int) (*routed, *Error) {
	t, err := b.topic(batch.Topic)
	if err != nil {
		return nil, err
	}
	levels := t.decl.PriorityLevels
	if *room -= int(t.decl.Partitions * levels); *room < 0 {
		return nil, fail(BatchTooLarge, "records", "too many batches at once: their topics have together at most %d partitions, counted by priority level", maxParts).
			with("bound", maxParts)
	}
	r := &routed{topic: t, parts: make([]part, t.decl.Partitions*levels), number: batch.Number}
	if r.number != 0 {
		r.sum = xxhash.Sum64String(batch.Topic)*sumPrime + xxhash.Sum64(batch.Records)
	}
	keyless := uint32(b.random() >> 32 * uint64(t.decl.Partitions) >> 32)
	for encoding, broken := range records(batch.Records) {
		if broken != nil {
			return nil, fail(BadRequest, "records", "records are no RecordSet: %v", broken)
		}
		rec, parseErr := ParseRecord(encoding.record)
		if parseErr != nil {
			return nil, fail(BadRequest, "records", "record %d: %v", len(r.order), parseErr)
		}
		if err := rec.check(t, b.limits); err != nil {
			return nil, err.with("index", len(r.order))
		}
		p := keyless
		if len(rec.Key) > 0 {
			p = PartitionOf(rec.Key, t.decl.Partitions)
		}
		at := p*levels + rec.lane()
		if rec.DelayMS != 0 || rec.DeliverAtMS != 0 {
			due, err := rec.due(now)
			if err != nil {
				return nil, err.with("index", len(r.order))
			}
			if due > now.UnixMilli() {
				r.scheduled = append(r.scheduled, newScheduledRecord(engine.LogID{Topic: t.id, Partition: p, Lane: uint8(rec.lane())}, due, rec))
				at |= isScheduled
			}
		}
		if at&isScheduled == 0 {
			part := &r.parts[at]
			if mutant.On(mutant.BufferReused) && part.count == 0 {
				part.records = encoding.framed
			} else {
				part.records = append(part.records, encoding.framed...)
			}
			part.count++
		}
		if len(rec.ID) > 0 && t.decl.Dedupe.Window > 0 {
			r.ids = append(r.ids, newIDOf(len(r.order), rec))
		}
		r.order = append(r.order, at)
		if len(r.order) > MaxBatchRecords {
			return nil, fail(BatchTooLarge, "records", "more than %d records in one batch", MaxBatchRecords).with("bound", MaxBatchRecords)
		}
	}
	if len(r.order) == 0 {
		return nil, fail(BatchEmpty, "records", "a batch has at least 1 record")
	}
	return r, nil
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
