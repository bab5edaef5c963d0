package mq

import (
	"context"
	"slices"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// answers is what becomes of the records of a batch. The calls that wait share it: one channel and one result for all of them, of which each makes its
// own receipt. It outlives the batch, whose memory it does not keep.
type answers struct {
	topic string
	done  chan struct{} // closed, by the pipeline, once all of what follows is as it stays

	// One of these is set.
	result  *brokerv1.BatchResult
	err     error
	halves  *[2]*answers // of what the batch was split into, before the record at middle
	receipt *Receipt     // of a message that went another way

	middle int
	places []int32 // of each record among those that are left, nowhere if it is not; nil: all are left
	batch  *batch  // nil when done; guarded by the pipeline's lock, as is all until then
}

const nowhere = -1

func newAnswers(b *batch) *answers {
	return &answers{topic: b.topic.name, done: make(chan struct{}), batch: b}
}

// settled has the answer of one message that was refused before it was queued, or that another sender took.
func settled(topic string, receipt Receipt, err error) *answers {
	a := &answers{topic: topic, done: make(chan struct{})}
	a.settle(receipt, err)
	return a
}

// settle answers one message that is in no batch.
func (a *answers) settle(receipt Receipt, err error) {
	if a.err = err; err == nil {
		a.receipt = &receipt
	}
	close(a.done)
}

// place is where the record of that index is among those that are left.
func (a *answers) place(index int) int {
	if a.places == nil {
		return index
	}
	return int(a.places[index])
}

// move notes new places of the records that were left.
func (a *answers) move(places []int32) {
	if a.places == nil {
		a.places = places
		return
	}
	for i, place := range a.places {
		if place != nowhere {
			a.places[i] = places[place]
		}
	}
}

// ticket is one record's claim to an answer. What is said of its batch after it was queued, that it was split or has less records, it follows.
type ticket struct {
	answers  *answers
	index    uint32
	priority uint32
	id       string // its own; else it is known by its place
}

// half is the claim in that half of a split batch that the record went to. The batch must be done, or the pipeline locked.
func (t ticket) half() ticket {
	place := t.answers.place(int(t.index))
	if place < t.answers.middle {
		t.answers = t.answers.halves[0]
	} else {
		t.answers, place = t.answers.halves[1], place-t.answers.middle
	}
	t.index = uint32(place)
	return t
}

// wait returns the answer, or false if ctx ends before. An answer that is there comes first.
func (t ticket) wait(ctx context.Context) (receipt Receipt, err error, answered bool) {
	for {
		select {
		case <-t.answers.done:
		default:
			select {
			case <-t.answers.done:
			case <-ctx.Done():
				return Receipt{}, nil, false
			}
		}
		if t.answers.halves == nil {
			receipt, err = t.answer()
			return receipt, err, true
		}
		t = t.half()
	}
}

// answer returns what a batch that is done, and was not split, means for the record.
func (t ticket) answer() (Receipt, error) {
	a := t.answers
	switch {
	case a.err != nil:
		return Receipt{}, a.err
	case a.receipt != nil:
		return *a.receipt, nil
	}
	return receiptOf(a.topic, t.id, t.priority, a.result, a.place(int(t.index))), nil
}

// noOffset is the offset of a record that has no place: it is kept back, or in a transaction that is not committed.
const noOffset = -1

// receiptOf is the receipt of record i of a batch.
func receiptOf(topic, id string, priority uint32, result *brokerv1.BatchResult, i int) Receipt {
	partition, offset := result.GetPartitions()[i], result.GetOffsets()[i]
	if id == "" {
		id = place{partition, priority, offset}.id()
	}
	_, duplicate := slices.BinarySearch(result.GetDuplicates(), uint32(i))
	return Receipt{ID: id, Topic: topic, Partition: partition, Offset: offset, Scheduled: offset == noOffset, Duplicate: duplicate}
}
