package broker

import (
	"math/bits"
	"sync"
)

// buffers lends memory for the records of publications, in sizes that are powers of two. What is given back is lent again; what nobody wants for a while is left to
// the garbage collector.
//
// A buffer has one owner. It is given back once, when nobody looks at it any more: not after a time-out, an unknown outcome, or whenever else somebody may still
// read it, which would find the records of another publication there.
type buffers struct{ pools [largestBuffer + 1]sync.Pool }

// The sizes that are kept, as powers of two. What is larger than a frame may be is not.
const (
	smallestBuffer = 12
	largestBuffer  = 22
)

// buffer is memory on loan.
type buffer struct {
	bytes []byte
	home  *sync.Pool // nil if it is not lent again
}

// take returns a buffer of at least n bytes. What is in it is of no meaning.
func (bs *buffers) take(n int) *buffer {
	size := max(smallestBuffer, bits.Len(uint(max(n, 1)-1)))
	if size > largestBuffer {
		return &buffer{bytes: make([]byte, n)}
	}
	home := &bs.pools[size]
	if b, ok := home.Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, 1<<size), home}
}

func (b *buffer) give() {
	if b.home != nil {
		b.home.Put(b)
	}
}

// places lends tables that tell which of a batch's parts belongs to a log.
type places struct{ pool sync.Pool }

// placed has for each log of a topic, by partition and within it by lane, 1 + the index of its part, or 0.
type placed struct{ of []uint32 }

// take returns a table of n zeros.
func (ps *places) take(n int) *placed {
	if t, ok := ps.pool.Get().(*placed); ok && cap(t.of) >= n {
		t.of = t.of[:n]
		return t
	}
	return &placed{make([]uint32, n)}
}

// give takes a table back in which nothing but these parts was noted.
func (ps *places) give(t *placed, parts []part, levels uint32) {
	for i := range parts {
		t.of[parts[i].partition*levels+uint32(parts[i].lane)] = 0
	}
	ps.pool.Put(t)
}
