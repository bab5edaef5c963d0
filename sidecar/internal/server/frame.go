package server

import (
	"math/bits"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Field numbers of what decodeFrame walks.
const (
	frameSequence      = 1
	frameBatches       = 2
	frameProducer      = 3
	frameAnsweredBelow = 4

	batchTopic   = 1
	batchRecords = 2
	batchNumber  = 3
)

// decodeFrame decodes a frame of a publisher into an empty message, with its records in memory that recycle gives back. It reports whether it has done so: what is
// malformed or unusual it leaves to protobuf, whose answer counts.
func decodeFrame(b []byte, frame *brokerv1.PublishStreamRequest) bool {
	for len(b) > 0 {
		f, n := consumeField(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(frameSequence, protowire.VarintType):
			frame.Sequence = f.number
		case f.is(frameBatches, protowire.BytesType):
			batch := &brokerv1.TopicRecords{}
			frame.Batches = append(frame.Batches, batch)
			if !decodeBatch(f.value, batch) {
				return false
			}
		case f.is(frameProducer, protowire.BytesType):
			frame.ProducerId = append([]byte(nil), f.value...)
		case f.is(frameAnsweredBelow, protowire.VarintType):
			frame.AnsweredBelow = f.number
		default:
			return false
		}
	}
	return true
}

func decodeBatch(b []byte, batch *brokerv1.TopicRecords) bool {
	for len(b) > 0 {
		f, n := consumeField(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(batchTopic, protowire.BytesType) && utf8.Valid(f.value):
			batch.Topic = string(f.value)
		case f.is(batchRecords, protowire.BytesType) && batch.Records == nil:
			batch.Records = append(memory.take(len(f.value)), f.value...)
		case f.is(batchNumber, protowire.VarintType):
			batch.Number = f.number
		default:
			return false
		}
	}
	return true
}

// field is a field of an encoding: its value if its type is bytes, else its number.
type field struct {
	at     protowire.Number
	typ    protowire.Type
	value  []byte
	number uint64
}

func (f field) is(at protowire.Number, typ protowire.Type) bool { return f.at == at && f.typ == typ }

// consumeField returns the first field of an encoding and its length, which is negative if that is malformed or of a type that frames do not have.
func consumeField(b []byte) (f field, n int) {
	if f.at, f.typ, n = protowire.ConsumeTag(b); n < 0 {
		return f, n
	}
	m := -1
	switch f.typ {
	case protowire.BytesType:
		f.value, m = protowire.ConsumeBytes(b[n:])
	case protowire.VarintType:
		f.number, m = protowire.ConsumeVarint(b[n:])
	}
	if m < 0 {
		return f, m
	}
	return f, n + m
}

// recycle gives back the memory of a frame's records, which must have come from the codec. Nobody may read them any more, and that must be certain: a
// publish whose outcome is not known may still be on its way to the disk, and then the memory is left to the garbage collector.
func recycle(frame *brokerv1.PublishStreamRequest) {
	for _, batch := range frame.GetBatches() {
		memory.give(batch.GetRecords())
		batch.Records = nil
	}
}

// memory is what the records of frames are decoded into. New memory for each costs more than all copies of a frame together: the kernel has to map it, page by
// page.
var memory lending

// The lengths of memory that is lent: powers of two. Less is left to the garbage collector, and more than a request may have there is not.
const (
	minLentBits = 14
	maxLentBits = 23
)

// lending is memory that is used again and again. It is safe for concurrent use. What nobody has taken for two cycles of the garbage collector is freed.
type lending struct {
	bySize [maxLentBits - minLentBits + 1]sync.Pool // of *[]byte
}

// class returns the index of the smallest length that n bytes fit into.
func (*lending) class(n int) (class int, ok bool) {
	if n <= 1<<(minLentBits-1) || n > 1<<maxLentBits {
		return 0, false
	}
	return max(0, bits.Len(uint(n-1))-minLentBits), true
}

// take returns an empty slice with room for n bytes. It belongs to the caller, until it is given back if it is.
func (l *lending) take(n int) []byte {
	class, ok := l.class(n)
	if !ok {
		return make([]byte, 0, n)
	}
	if b, ok := l.bySize[class].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 1<<(class+minLentBits))
}

// give ends the caller's use of memory that take returned. Other memory is ignored, unless it looks the same.
func (l *lending) give(b []byte) {
	if class, ok := l.class(cap(b)); ok && cap(b) == 1<<(class+minLentBits) {
		l.bySize[class].Put(&b)
	}
}
