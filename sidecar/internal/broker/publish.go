package broker

import (
	"context"
	"iter"
	"math/rand/v2"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// MaxBatchRecords bounds the records of one batch.
const MaxBatchRecords = 10_000

// Batch is records for one topic: the encoding of a mq.broker.v1.RecordSet.
type Batch struct {
	Topic   string
	Records []byte
}

// Placement says where the records of a batch rest, in their order, or why none was taken.
type Placement struct {
	Refused    *Error
	Partitions []uint32
	Offsets    []int64
}

// Publish appends batches and returns when they are durable. A batch that is at fault is refused alone; the others are stored all or none.
// Records of one partition keep their order. The error is about all batches that were not refused.
func (b *Broker) Publish(ctx context.Context, batches []Batch) ([]Placement, error) {
	out := make([]Placement, len(batches))
	now := b.wall().UnixMilli()
	var (
		appends []engine.Append
		owners  []*routed // whose part each append is
		routes  []*routed
	)
	for i, batch := range batches {
		r, err := b.route(batch)
		if err != nil {
			out[i].Refused = err
			continue
		}
		r.out = &out[i]
		routes = append(routes, r)
		for p, part := range r.parts {
			if part.count > 0 {
				appends = append(appends, engine.Append{
					Log: engine.LogID{Topic: r.topic.id, Partition: uint32(p)}, Records: part.records, Count: part.count, TimeMS: now,
				})
				owners = append(owners, r)
			}
		}
	}
	if len(appends) == 0 {
		return out, nil
	}
	firsts, err := b.engine.Append(ctx, appends)
	if err != nil {
		return nil, Refusal(err)
	}
	for i, first := range firsts {
		owners[i].parts[appends[i].Log.Partition].next = first
	}
	for _, r := range routes {
		r.out.Partitions = r.order
		r.out.Offsets = make([]int64, len(r.order))
		for i, p := range r.order {
			r.out.Offsets[i] = int64(r.parts[p].next)
			r.parts[p].next++
		}
	}
	return out, nil
}

// routed is a batch cut by partition.
type routed struct {
	topic *topicState
	parts []part
	order []uint32 // the partition of each record
	out   *Placement
}

type part struct {
	records []byte
	count   int
	next    engine.Offset
}

// route checks a batch and cuts it. Records without a key share a partition, drawn for each batch.
func (b *Broker) route(batch Batch) (*routed, *Error) {
	t, err := b.topic(batch.Topic)
	if err != nil {
		return nil, err
	}
	r := &routed{topic: t, parts: make([]part, t.decl.Partitions)}
	keyless := rand.Uint32N(t.decl.Partitions)
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
		part := &r.parts[p]
		part.records = append(part.records, encoding.framed...)
		part.count++
		r.order = append(r.order, p)
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

// Draft is a message as a person or a small client writes it: JSON or a payload, with key and headers where they are to differ from
// what the schema derives.
type Draft struct {
	JSON    *structpb.Struct
	Payload []byte
	Key     []byte
	HasKey  bool
	Headers map[string]string
	ID      string
}

// Compose encodes a draft as a record of the topic.
func (b *Broker) Compose(topicName string, d Draft) ([]byte, error) {
	t, refused := b.topic(topicName)
	if refused != nil {
		return nil, refused
	}
	payload := d.Payload
	if d.JSON != nil {
		m, err := t.codec.FromJSON(d.JSON)
		if err != nil {
			return nil, fail(SchemaMismatch, "json", "%v", err).with("message", t.decl.Message.FullName())
		}
		if payload, err = schema.Marshal(m); err != nil {
			return nil, fail(SchemaMismatch, "json", "%v", err)
		}
	}
	if err := t.codec.Validate(payload); err != nil {
		return nil, fail(SchemaMismatch, "payload", "%v", err).with("message", t.decl.Message.FullName())
	}
	m, err := t.codec.Decode(payload)
	if err != nil {
		return nil, fail(SchemaMismatch, "payload", "%v", err).with("message", t.decl.Message.FullName())
	}
	key := t.decl.KeyOf(m)
	if d.HasKey {
		key = d.Key
	}
	headers := t.decl.HeadersOf(m)
	for name, value := range d.Headers {
		headers = append(headers, topic.HeaderValue{Name: name, Value: value})
	}
	return NewRecord(key, payload, headers, d.ID), nil
}
