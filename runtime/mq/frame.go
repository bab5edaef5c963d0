package mq

import (
	"cmp"
	"slices"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Bounds of a frame on the wire. The space left below 4 MiB is for what batches add to their records.
const (
	maxFrameBytes   = 4<<20 - 64<<10
	maxFrameRecords = 10_000
	maxFrameBatches = 512
	batchOverhead   = 32
)

// maxNumbersAhead bounds the numbers of batches from the first one that is not answered: the sidecar remembers 1,024 answers of a producer.
const maxNumbersAhead = 512

// entry is one Publish call that waits for its answer. Its state is guarded by the pipeline's lock.
type entry struct {
	state      entryState
	start, end int // its record in the batch
	id         string
	priority   uint32
	answer     chan answer // of capacity 1; written once, by the pipeline
}

type entryState uint8

const (
	queued    entryState = iota
	sent                 // on the wire at least once
	answered             // the answer is in the channel, or about to be
	abandoned            // nobody waits any more
)

type answer struct {
	receipt Receipt
	err     error
}

// batch is records of one topic that the sidecar takes or refuses together.
//
// Once it was sent it has a number and does not change, whoever abandons his entry, until the sidecar has answered: by the number and the records
// it recognises a batch that it has stored already.
type batch struct {
	topic   *topic
	number  uint64 // 0 until it is sent
	records []byte // encoding of a RecordSet
	entries []*entry

	redeclared bool // the topic was declared again for this batch
}

func (b *batch) size() int { return len(b.records) + len(b.topic.name) + batchOverhead }

// add appends an entry whose record is encoded.
func (b *batch) add(e *entry, encoded []byte) {
	e.start = len(b.records)
	b.records = append(b.records, encoded...)
	e.end = len(b.records)
	b.entries = append(b.entries, e)
}

// drop removes the abandoned entries and their records. Of a batch that was sent it removes all or none.
func (b *batch) drop() {
	if b.number != 0 && slices.ContainsFunc(b.entries, func(e *entry) bool { return e.state != abandoned }) {
		return
	}
	kept, bytes := b.entries[:0], b.records[:0]
	for _, e := range b.entries {
		if e.state == abandoned {
			continue
		}
		start := len(bytes)
		if start == e.start {
			bytes = b.records[:e.end]
		} else {
			bytes = append(bytes, b.records[e.start:e.end]...) // moves to the left only
		}
		e.start, e.end = start, len(bytes)
		kept = append(kept, e)
	}
	clear(b.entries[len(kept):])
	b.entries, b.records = kept, bytes
}

// split halves a batch of more than one entry, which was refused. The halves share its memory but no part of it, and have no numbers yet.
func (b *batch) split() (first, second *batch) {
	middle := len(b.entries) / 2
	cut := b.entries[middle].start
	first = &batch{topic: b.topic, redeclared: b.redeclared, records: b.records[:cut:cut], entries: b.entries[:middle:middle]}
	second = &batch{topic: b.topic, redeclared: b.redeclared, records: b.records[cut:], entries: b.entries[middle:]}
	for _, e := range second.entries {
		e.start, e.end = e.start-cut, e.end-cut
	}
	return first, second
}

// frame is what is sent and answered at once.
type frame struct {
	batches []*batch
	byTopic map[*topic]*batch
	bytes   int
	records int
}

func newFrame() *frame { return &frame{byTopic: make(map[*topic]*batch)} }

// fits reports whether a record of n bytes may be added.
func (f *frame) fits(t *topic, n int) bool {
	if f.records == maxFrameRecords {
		return false
	}
	if f.byTopic[t] == nil {
		if len(f.batches) == maxFrameBatches {
			return false
		}
		n += len(t.name) + batchOverhead
	}
	return f.bytes+n <= maxFrameBytes
}

func (f *frame) add(t *topic, e *entry, encoded []byte) {
	b := f.byTopic[t]
	if b == nil {
		b = &batch{topic: t}
		f.byTopic[t] = b
		f.batches = append(f.batches, b)
		f.bytes += b.size()
	}
	b.add(e, encoded)
	f.bytes += len(encoded)
	f.records++
}

// unanswered is the lowest number of a batch, 0 if none has one.
func (f *frame) unanswered() (lowest uint64) {
	for _, b := range f.batches {
		if b.number != 0 && (lowest == 0 || b.number < lowest) {
			lowest = b.number
		}
	}
	return lowest
}

// head returns the leading batches that fit one frame on the wire. All of them do, unless refused batches were split. It numbers them, from the
// number after last, and returns the last number given by now.
func (f *frame) head(last uint64) (head []*batch, given uint64) {
	lowest := f.unanswered()
	if lowest != 0 && last-lowest >= maxNumbersAhead {
		// New ones wait for those that have numbers.
		slices.SortStableFunc(f.batches, func(a, b *batch) int { return cmp.Compare(min(b.number, 1), min(a.number, 1)) })
	}
	for _, b := range f.fitting() {
		if b.number == 0 {
			if lowest != 0 && last-lowest >= maxNumbersAhead {
				break
			}
			last++
			b.number = last
			if lowest == 0 {
				lowest = last
			}
		}
		head = append(head, b)
	}
	return head, last
}

// fitting returns the leading batches that fit one frame by their size and number.
func (f *frame) fitting() []*batch {
	total := 0
	for i, b := range f.batches {
		total += b.size()
		if (total > maxFrameBytes || i == maxFrameBatches) && i > 0 {
			return f.batches[:i]
		}
	}
	return f.batches
}

// request is the frame of these batches. It refers to their memory.
func request(sequence uint64, producer []byte, answeredBelow uint64, batches []*batch) *brokerv1.PublishStreamRequest {
	r := &brokerv1.PublishStreamRequest{
		Sequence: sequence, ProducerId: producer, AnsweredBelow: answeredBelow, Batches: make([]*brokerv1.TopicRecords, len(batches))}
	for i, b := range batches {
		r.Batches[i] = &brokerv1.TopicRecords{Topic: b.topic.name, Records: b.records, Number: b.number}
	}
	return r
}
