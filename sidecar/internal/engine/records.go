package engine

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// Bounds of a chunk as the engines of this tree store it. A single record larger than MaxChunkBytes makes a chunk of its own.
const (
	MaxChunkRecords = 1024
	MaxChunkBytes   = 256 << 10
)

// recordTag is the tag of field 1 with wire type "length-delimited": it precedes each record of an encoded RecordSet.
const recordTag = 1<<3 | 2

// Run is consecutive records of one Append: the encoding of Count records.
type Run struct {
	Count   int
	Records []byte
}

// Cut checks an Append and cuts its records into runs that fit a chunk. The runs are slices of a.Records, which is not copied.
// The error tells what is wrong with the Append; it is the caller's mistake, not the store's.
func Cut(a Append) ([]Run, error) {
	return AppendRuns(make([]Run, 0, len(a.Records)/MaxChunkBytes+a.Count/MaxChunkRecords+1), a)
}

// AppendRuns is Cut that adds the runs to a slice.
func AppendRuns(dst []Run, a Append) ([]Run, error) {
	if a.Count < 1 {
		return nil, fmt.Errorf("engine: append to log %v has a count of %d: must be at least 1", a.Log, a.Count)
	}
	var (
		runs  = dst
		start int // of the present run
		count int // of the present run
		total int
	)
	for at := 0; at < len(a.Records); {
		n := RecordLen(a.Records[at:])
		if n < 0 {
			return nil, fmt.Errorf("engine: append to log %v is malformed at byte %d", a.Log, at)
		}
		if count == MaxChunkRecords || count > 0 && at+n-start > MaxChunkBytes {
			runs = append(runs, Run{Count: count, Records: a.Records[start:at:at]})
			start, count = at, 0
		}
		at += n
		count++
		total++
	}
	if total != a.Count {
		return nil, fmt.Errorf("engine: append to log %v says %d records and holds %d", a.Log, a.Count, total)
	}
	return append(runs, Run{Count: count, Records: a.Records[start:]}), nil
}

// All yields the records of the chunk with their offsets, without their framing. The slices alias c.Records. It stops at the first malformed
// byte: a chunk that an engine returned has none.
func (c Chunk) All() iter.Seq2[Offset, []byte] {
	return func(yield func(Offset, []byte) bool) {
		for at, offset := 0, c.First; at < len(c.Records); offset++ {
			n := RecordLen(c.Records[at:])
			if n < 0 {
				return
			}
			_, head := binary.Uvarint(c.Records[at+1:])
			if !yield(offset, c.Records[at+1+head:at+n:at+n]) {
				return
			}
			at += n
		}
	}
}

// AppendRecord adds a record to the encoding of a RecordSet.
func AppendRecord(dst, record []byte) []byte {
	dst = append(dst, recordTag)
	dst = binary.AppendUvarint(dst, uint64(len(record)))
	return append(dst, record...)
}

// RecordLen is the length of the first record of b with its framing, or -1 if b does not begin with a whole record.
func RecordLen(b []byte) int {
	if len(b) == 0 || b[0] != recordTag {
		return -1
	}
	size, head := binary.Uvarint(b[1:])
	if head <= 0 || size > uint64(len(b)-1-head) {
		return -1
	}
	return 1 + head + int(size)
}
