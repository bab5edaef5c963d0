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

// batch is records of one topic that the sidecar takes or refuses together.
//
// Once it was sent it has a number and does not change, whoever abandons his record, until the sidecar has answered: by the number and the records
// it recognises a batch that it has stored already.
//
// Its memory is the pipeline's: records are copied into it, and the calls that wait know its answers, which refer to no record. So when its frame is
// answered, nobody can read it any more and it serves another one.
type batch struct {
	lane    *lane
	topic   *topic
	number  uint64   // 0 until it is sent
	records []byte   // encoding of a RecordSet
	ends    []uint32 // of each record
	answers *answers

	redeclared bool // the topic was declared again for this batch
	part       bool // of a batch that was split: the frame may have more of the topic

	// Guarded by the pipeline's lock, also once the batch is on its way.
	sent      bool   // on the wire at least once, also as part of what was split
	abandoned []bool // of the first records; the others are not
	given     int    // records that are
}

func (b *batch) size() int { return len(b.records) + len(b.topic.name) + batchOverhead }

// add appends an encoded record and returns its index.
func (b *batch) add(encoded []byte) int {
	if n := len(b.records) + len(encoded); n > cap(b.records) {
		b.records = slices.Grow(b.records, max(n, min(2*cap(b.records), maxFrameBytes), minBatchMemory)-len(b.records))
	}
	b.records = append(b.records, encoded...)
	b.ends = append(b.ends, uint32(len(b.records)))
	return len(b.ends) - 1
}

// minBatchMemory is what a batch begins with: memory grows by doubling, since fresh memory is dear.
const minBatchMemory = 4 << 10

// abandon notes that nobody waits for a record any more.
func (b *batch) abandon(i int) {
	b.abandoned = append(b.abandoned, make([]bool, len(b.ends)-len(b.abandoned))...) // it may be added to between calls
	if !b.abandoned[i] {
		b.abandoned[i] = true
		b.given++
	}
}

func (b *batch) isAbandoned(i int) bool { return i < len(b.abandoned) && b.abandoned[i] }

// drop removes the abandoned records. Of a batch that was sent it removes all or none.
func (b *batch) drop() {
	if b.given == 0 || b.number != 0 && b.given < len(b.ends) {
		return
	}
	kept, bytes := b.ends[:0], b.records[:0]
	places := make([]int32, len(b.ends))
	start := uint32(0)
	for i, end := range b.ends {
		record := b.records[start:end]
		start = end
		if b.isAbandoned(i) {
			places[i] = nowhere
			continue
		}
		places[i] = int32(len(kept))
		bytes = append(bytes, record...) // moves to the left only
		kept = append(kept, uint32(len(bytes)))
	}
	b.ends, b.records = kept, bytes
	b.abandoned, b.given = b.abandoned[:0], 0
	b.answers.move(places)
}

// split halves a batch of more than one record, which was refused. The halves share its memory but no part of it, and have no numbers yet.
func (b *batch) split() (first, second *batch) {
	middle := len(b.ends) / 2
	cut := b.ends[middle-1]
	first = &batch{lane: b.lane, topic: b.topic, records: b.records[:cut:cut], ends: b.ends[:middle:middle]}
	second = &batch{lane: b.lane, topic: b.topic, records: b.records[cut:], ends: b.ends[middle:]}
	for i := range second.ends {
		second.ends[i] -= cut
	}
	for _, half := range []*batch{first, second} {
		half.redeclared, half.sent, half.part = b.redeclared, b.sent, true
		half.answers = newAnswers(half)
	}
	for i := range b.abandoned {
		switch {
		case !b.isAbandoned(i):
		case i < middle:
			first.abandon(i)
		default:
			second.abandon(i - middle)
		}
	}
	return first, second
}

// frame is what is sent and answered at once.
type frame struct {
	batches []*batch // not answered yet
	begun   []*batch // all that it began with, one for each topic, whose memory it holds
	byTopic map[*topic]*batch
	latest  *batch // the one that was added to last
	bytes   int
	records int

	// Records of one key, of different frames, are in different lanes at most if they were queued in different eras. Then the later frame has to wait
	// for the earlier one: until each lane has answered so many frames.
	after [lanesPerClient]uint64
	era   uint64 // in which records were spread, or in which they were not
}

func newFrame() *frame { return &frame{byTopic: make(map[*topic]*batch)} }

// batch returns the batch of a topic, nil if there is none.
func (f *frame) batch(t *topic) *batch {
	if f.latest != nil && f.latest.topic == t {
		return f.latest
	}
	return f.byTopic[t]
}

// fits reports whether a record of n bytes may be added.
func (f *frame) fits(t *topic, n int) bool {
	if f.records == maxFrameRecords {
		return false
	}
	if f.batch(t) == nil {
		if len(f.batches) == maxFrameBatches {
			return false
		}
		n += len(t.name) + batchOverhead
	}
	return f.bytes+n <= maxFrameBytes
}

// begin adds an empty batch for a topic that has none.
func (f *frame) begin(b *batch) {
	f.byTopic[b.topic] = b
	f.batches = append(f.batches, b)
	f.begun = append(f.begun, b)
	f.bytes += b.size()
}

// add adds a record to the topic's batch.
func (f *frame) add(b *batch, encoded []byte) (index int) {
	f.latest = b
	f.bytes += len(encoded)
	f.records++
	return b.add(encoded)
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
// number after last, and returns the last number given by now. A part of a topic gets no number before those ahead of it are done, so sorting by numbers
// keeps the order in each topic.
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

// fitting returns the leading batches that fit one frame by their size and number, and are of different topics: of the parts of a batch each waits for
// the answer to the one before. Were they sent together, the second could be stored while the first is refused, to be split or sent again.
func (f *frame) fitting() []*batch {
	total := 0
	for i, b := range f.batches {
		total += b.size()
		if (total > maxFrameBytes || i == maxFrameBatches) && i > 0 {
			return f.batches[:i]
		}
		if b.part && slices.ContainsFunc(f.batches[:i], func(before *batch) bool { return before.topic == b.topic }) {
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
