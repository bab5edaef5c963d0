package broker

import (
	"context"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/filter"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// fetchBytes is how much is read from the log at a time.
const fetchBytes = 256 << 10

// fetch reads what the machines want from their logs. It returns false if that is nothing.
func (sv *serving) fetch(ctx context.Context) (fetched bool, err error) {
	for _, l := range sv.lanes {
		some, err := sv.fetchLane(ctx, l)
		if err != nil {
			return false, err
		}
		fetched = fetched || some
	}
	return fetched, nil
}

func (sv *serving) fetchLane(ctx context.Context, l *lane) (bool, error) {
	from, n := l.machine.Want()
	if n == 0 {
		return false, nil
	}
	end := dispatch.Offset(l.end.Load()) // before reading: what is published meanwhile is no gap
	chunks, err := sv.broker.engine.Read(ctx, l.log, engine.Offset(from), fetchBytes)
	if err != nil {
		return false, err
	}
	ev := &dispatch.Fetched{Next: from}
	policy, expiry := sv.group.policy.Load(), sv.expiry()
	for _, c := range chunks {
		l.chunks.add(c)
		for offset, raw := range c.All() {
			if offset < engine.Offset(from) {
				continue
			}
			if len(ev.Messages) == n {
				break
			}
			m := sv.message(policy, expiry, dispatch.Offset(offset), c.TimeMS, raw)
			if mutant.On(mutant.PositionPastFiltered) && m.Filtered {
				l.filteredTo = m.Offset + 1
			}
			ev.Messages = append(ev.Messages, m)
			ev.Next = dispatch.Offset(offset) + 1
		}
		if len(ev.Messages) == n {
			break
		}
	}
	begin := end // the log was trimmed up to its end
	if len(chunks) > 0 {
		begin = dispatch.Offset(chunks[0].First)
	} else {
		ev.Next = max(from, end)
	}
	if begin > from {
		sv.lost(l, from, l.unsettled(from, begin))
	}
	l.fetchedTo(ev.Next)
	_ = l.machine.Step(sv.broker.now(), ev)
	return true, nil
}

// framedSize is the length of a record in a RecordSet: what it weighs against the credits of a session.
func framedSize(record []byte) uint32 { return uint32(1 + protowire.SizeBytes(len(record))) }

// message tells dispatch what it has to know of a record.
func (sv *serving) message(policy *subscriptionState, expiry expiry, o dispatch.Offset, appendMS int64, raw []byte) dispatch.Message {
	m := dispatch.Message{Offset: o, Size: framedSize(raw)}
	r, err := ParseRecord(raw)
	if err != nil {
		return m // delivered as it is: the consumer rejects what it cannot read
	}
	m.Key, m.Expires = sv.keyHash(r.Key), expiry.of(appendMS, r.TTLMS)
	if policy.filter == nil {
		return m
	}
	match, err := policy.filter.Match(filter.Input{
		Key: r.Key, Headers: r,
		Message: func() (protoreflect.Message, error) { return policy.codec.Decode(r.Payload) },
	})
	if err != nil {
		sv.filterFailed(o, err)
	}
	if !match {
		m.Filtered = true
		sv.counted.Filtered++
	}
	return m
}

// chunkCache keeps the chunks that were read lately, so that a lease finds its record. It is bounded in bytes.
type chunkCache struct {
	chunks []indexedChunk // by first offset
	bytes  int
	limit  int
}

// cacheBytes bounds the chunks that a partition keeps, over all its lanes.
const cacheBytes = 1 << 20

// indexedChunk is a chunk with the places of its records.
type indexedChunk struct {
	engine.Chunk
	ends []uint32 // of each record with its framing
}

func index(c engine.Chunk) indexedChunk {
	ic := indexedChunk{Chunk: c, ends: make([]uint32, 0, c.Count)}
	at := 0
	for f := range records(c.Records) {
		at += len(f.framed)
		ic.ends = append(ic.ends, uint32(at))
	}
	return ic
}

// place is where a record stands in the chunk, with its tag and length.
func (c indexedChunk) place(o dispatch.Offset) (start, end uint32) {
	i := int(engine.Offset(o) - c.First)
	if i > 0 {
		start = c.ends[i-1]
	}
	return start, c.ends[i]
}

// run is a RecordSet of some of the chunk's records, in the order of their deliveries, to be read only. It is a part of the chunk if they stand in a row there and are half of
// it or more: a copy would cost more memory than the rest of the chunk that it keeps alive.
func (c indexedChunk) run(all []dispatch.Delivery) []byte {
	size, inRow := 0, true
	for i, d := range all {
		start, end := c.place(d.Offset)
		size += int(end - start)
		inRow = inRow && (i == 0 || d.Offset == all[i-1].Offset+1)
	}
	if inRow && 2*size >= len(c.Records) {
		start, _ := c.place(all[0].Offset)
		end := int(start) + size
		return c.Records[start:end:end]
	}
	set := make([]byte, 0, size)
	for _, d := range all {
		start, end := c.place(d.Offset)
		set = append(set, c.Records[start:end]...)
	}
	return set
}

func (cc *chunkCache) add(c engine.Chunk) indexedChunk {
	at, found := slices.BinarySearchFunc(cc.chunks, c.First, func(ic indexedChunk, o engine.Offset) int { return int(ic.First - o) })
	if found {
		return cc.chunks[at]
	}
	ic := index(c)
	cc.chunks = slices.Insert(cc.chunks, at, ic)
	cc.bytes += len(c.Records)
	for cc.bytes > cc.limit && len(cc.chunks) > 1 {
		drop := 0 // the oldest, unless it was just added: then the newest, which will be read again
		if at == 0 {
			drop = len(cc.chunks) - 1
		}
		cc.bytes -= len(cc.chunks[drop].Records)
		cc.chunks = slices.Delete(cc.chunks, drop, drop+1)
		at = max(0, at-1)
	}
	return ic
}

func (cc *chunkCache) find(o engine.Offset) (indexedChunk, bool) {
	at, found := slices.BinarySearchFunc(cc.chunks, o, func(ic indexedChunk, o engine.Offset) int { return int(ic.First - o) })
	if !found {
		at--
	}
	if at < 0 || cc.chunks[at].Last() < o {
		return indexedChunk{}, false
	}
	return cc.chunks[at], true
}

// chunkOf returns the chunk of an offset, from the cache or the engine.
func (sv *serving) chunkOf(ctx context.Context, l *lane, o dispatch.Offset) (indexedChunk, error) {
	if c, ok := l.chunks.find(engine.Offset(o)); ok {
		return c, nil
	}
	chunks, err := sv.broker.engine.Read(ctx, l.log, engine.Offset(o), 1)
	if err != nil {
		return indexedChunk{}, err
	}
	if len(chunks) == 0 || chunks[0].First > engine.Offset(o) {
		return indexedChunk{}, errTrimmed
	}
	return l.chunks.add(chunks[0]), nil
}
