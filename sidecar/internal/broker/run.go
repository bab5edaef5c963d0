package broker

import (
	"iter"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

// Run is deliveries of one partition on their way to a consumer: leases, and where their records stand. It is read-only. Its parts are written where they are needed, so that a
// record is copied once, and tokens are made where they are sent.
type Run struct {
	Partition uint32
	// Priority is the level of all its records, from 1, the lowest, or 0 in a topic without priorities.
	Priority uint32
	AppendMS int64

	leases  []lease
	again   bool // some are not first attempts
	chunk   *chunk
	records []byte // their RecordSet, if it is not in chunk
	size    int    // of the RecordSet
	epoch   uint64
	tokens  tokens
	lane    uint8
}

// lease is one delivery of a run.
type lease struct {
	offset  dispatch.Offset
	number  uint32
	attempt uint32
}

func leaseOf(d dispatch.Delivery) lease {
	return lease{offset: d.Offset, number: d.Lease, attempt: d.Attempt}
}

// sharedPart is which part of its chunk a run has to be, at least, to keep it alive. The records of a smaller one are copied: 2 MiB of runs that wait to be sent keep 8 MiB alive at
// most.
const sharedPart = 4

// of is the run with leases whose records are in a chunk, in that order.
func (r Run) of(c *chunk, leases []lease) Run {
	r.leases, r.chunk = leases, c
	for _, l := range leases {
		start, end := c.place(l.offset)
		r.size += int(end - start)
		r.again = r.again || l.attempt > 1
	}
	if r.size*sharedPart < len(c.Records) {
		r.records = r.AppendRecords(make([]byte, 0, r.size))
		r.chunk = nil
	}
	return r
}

// Len is the number of deliveries.
func (r *Run) Len() int { return len(r.leases) }

// Offset is that of a delivery.
func (r *Run) Offset(i int) int64 { return int64(r.leases[i].offset) }

// FirstAttempts tells whether all deliveries are first attempts.
func (r *Run) FirstAttempts() bool { return !r.again }

// Attempt is which attempt a delivery is, from 1.
func (r *Run) Attempt(i int) uint32 { return r.leases[i].attempt }

// Row is the RecordSet of the deliveries where it rests, to be read only, if it is in one piece; otherwise nil.
func (r *Run) Row() []byte {
	if r.chunk == nil {
		return r.records
	}
	for i := range r.leases[1:] {
		if r.leases[i+1].offset != r.leases[i].offset+1 {
			return nil
		}
	}
	from, _ := r.chunk.place(r.leases[0].offset)
	end := int(from) + r.size
	return r.chunk.Records[from:end:end]
}

// AppendRecords adds the RecordSet of the deliveries.
func (r *Run) AppendRecords(dst []byte) []byte {
	if r.chunk == nil {
		return append(dst, r.records...)
	}
	for i := 0; i < len(r.leases); { // a row of neighbours at a time
		from, end := r.chunk.place(r.leases[i].offset)
		for i++; i < len(r.leases) && r.leases[i].offset == r.leases[i-1].offset+1; i++ {
			_, end = r.chunk.place(r.leases[i].offset)
		}
		dst = append(dst, r.chunk.Records[from:end]...)
	}
	return dst
}

// AppendTokens adds the lease tokens of the deliveries, TokenSize bytes each.
func (r *Run) AppendTokens(dst []byte) []byte {
	for i := range r.leases {
		dst = r.tokens.append(dst, r.token(i))
	}
	return dst
}

func (r *Run) token(i int) Token {
	return Token{Token: dispatch.Token{Epoch: r.epoch, Offset: r.leases[i].offset, Lease: r.leases[i].number}, Partition: r.Partition, Lane: r.lane}
}

// Slice is the run with all its parts made.
func (r *Run) Slice() Slice {
	s := Slice{
		Partition: r.Partition, Priority: r.Priority, AppendMS: r.AppendMS, Offsets: make([]int64, r.Len()),
		Tokens: r.AppendTokens(make([]byte, 0, r.Len()*TokenSize)), Records: r.AppendRecords(make([]byte, 0, r.size)),
	}
	for i := range s.Offsets {
		s.Offsets[i] = r.Offset(i)
		if r.again {
			s.Attempts = append(s.Attempts, r.Attempt(i))
		}
	}
	return s
}

// Slice is a run of deliveries of one partition with all parts made. Lists are parallel to the records.
type Slice struct {
	Partition uint32
	// Priority is the level of all its records, from 1, the lowest, or 0 in a topic without priorities.
	Priority uint32
	AppendMS int64
	Offsets  []int64
	// Attempts is empty if all are first attempts.
	Attempts []uint32
	Tokens   []byte // TokenSize each
	Records  []byte // encoding of a RecordSet
}

// Lane is the lane of the slice's records.
func (s Slice) Lane() uint8 { return uint8(max(s.Priority, 1) - 1) }

// Each yields the index and the encoding of each record of the slice.
func (s Slice) Each() iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		i := 0
		for f, err := range records(s.Records) {
			if err != nil || !yield(i, f.record) {
				return
			}
			i++
		}
	}
}
