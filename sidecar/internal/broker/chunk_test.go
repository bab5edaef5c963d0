package broker

import (
	"bytes"
	"strings"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestARunOfAChunk: the records of deliveries in their order, whether they are a part of the chunk or were copied out of it. Nobody who appends to them writes
// into the chunk.
func TestARunOfAChunk(t *testing.T) {
	const first, count = 100, 6
	framed := make([][]byte, count)
	chunk := engine.Chunk{First: first, Count: count}
	for i := range framed {
		framed[i] = engine.AppendRecord(nil, []byte(strings.Repeat(string(rune('a'+i)), 10*(i+1))))
		chunk.Records = append(chunk.Records, framed[i]...)
	}
	whole := bytes.Clone(chunk.Records)
	c := index(chunk)
	for _, places := range [][]int{{0}, {5}, {2}, {0, 1, 2, 3, 4, 5}, {3, 4, 5}, {4, 5}, {0, 1}, {0, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {0, 5}, {1, 3, 4, 5}, {5, 5}} {
		var run []dispatch.Delivery
		var want []byte
		for _, i := range places {
			run = append(run, dispatch.Delivery{Offset: dispatch.Offset(first + i)})
			want = append(want, framed[i]...)
		}
		got := c.run(run)
		if !bytes.Equal(got, want) {
			t.Errorf("records of %v are %q, want %q", places, got, want)
		}
		_ = append(got, "overwritten"...)
		if !bytes.Equal(chunk.Records, whole) {
			t.Fatalf("appending to %v changed the chunk", places)
		}
	}
}
