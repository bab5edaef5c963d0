package broker

import (
	"bytes"
	"errors"
	"hash/maphash"
	"strings"
	"testing"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestARunOfAChunk: the records of deliveries in their order, whether the run keeps the chunk or has copied them. Nobody who appends to them writes
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
	c, err := newChunk(engine.LogID{}, chunk, maphash.MakeSeed())
	if err != nil {
		t.Fatal(err)
	}
	for _, places := range [][]int{{0}, {5}, {2}, {0, 1, 2, 3, 4, 5}, {3, 4, 5}, {4, 5}, {0, 1}, {0, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {0, 5}, {1, 3, 4, 5}, {5, 5}} {
		var leases []lease
		var want []byte
		for _, i := range places {
			leases = append(leases, lease{offset: dispatch.Offset(first + i), attempt: 1})
			want = append(want, framed[i]...)
		}
		run := Run{}.of(c, leases)
		got := run.Slice().Records
		if !bytes.Equal(got, want) || run.size != len(want) {
			t.Errorf("records of %v are %q of %d, want %q", places, got, run.size, want)
		}
		row := true
		for i, p := range places {
			row = row && (i == 0 || p == places[i-1]+1)
		}
		if in := run.Row(); in != nil && !bytes.Equal(in, want) || in == nil && (row || run.chunk == nil) {
			t.Errorf("records of %v are %q in one piece, want %q", places, in, want)
		}
		_ = append(run.Row(), "overwritten"...)
		if kept, small := run.chunk != nil, sharedPart*len(want) < len(whole); kept == small {
			t.Errorf("%v, %d bytes of %d, keeps its chunk alive: %v", places, len(want), len(whole), kept)
		}
		_ = append(got, "overwritten"...)
		if !bytes.Equal(chunk.Records, whole) {
			t.Fatalf("appending to %v changed the chunk", places)
		}
	}
}

// TestWhatIsKnownOfARecord: a chunk that is taken apart knows of each record what ParseRecord finds in it, whatever order its fields have.
func TestWhatIsKnownOfARecord(t *testing.T) {
	seed := maphash.MakeSeed()
	ttl := func(raw []byte, ms uint64) []byte { return appendNumber(raw, recordTTL, ms) }
	whole := NewRecord([]byte("SFO"), []byte("payload"), []topic.HeaderValue{{Name: "a", Value: "b"}}, "id")
	all := [][]byte{
		whole, ttl(whole, 70_000), ttl(nil, 1), {}, appendField(whole, recordKey, []byte("last key wins")), appendField(ttl(nil, 5), recordKey, []byte("late")),
		appendNumber(appendNumber(whole, recordPrio, 3), recordCall, 1<<60), appendField(whole, recordReplyTo, bytes.Repeat([]byte{1}, InboxSize)),
		appendField(whole, 200, []byte("unknown")), appendNumber(whole, 12, 9), whole[:len(whole)-1], {0x0a}, {0xff}, {0x0a, 0x83, 0x00, 'a', 'b', 'c'}, {0x8a, 0x00, 0x01, 'k'},
		appendNumber(nil, recordKey, 7), appendField(nil, recordTTL, []byte{1}),
	}
	var set []byte
	for _, raw := range all {
		set = engine.AppendRecord(set, raw)
	}
	c, err := newChunk(engine.LogID{}, engine.Chunk{First: 7, Count: len(all), Records: set}, seed)
	if err != nil {
		t.Fatal(err)
	}
	for i, raw := range all {
		o := dispatch.Offset(7 + i)
		if got := c.record(o); !bytes.Equal(got, raw) {
			t.Errorf("record %d is %x, want %x", i, got, raw)
		}
		r, err := ParseRecord(raw)
		want := r.TTLMS
		if err != nil {
			r.Key, want = nil, unreadable
		}
		if c.keys[i] != hashKey(seed, r.Key) || c.ttls[i] != want {
			t.Errorf("record %d, %x: key %x and ttl %d, want those of %q and %d", i, raw, c.keys[i], c.ttls[i], r.Key, want)
		}
	}
}

// TestAChunkThatIsNotWhatItSays: it is told of as damage of its log, and is not kept.
func TestAChunkThatIsNotWhatItSays(t *testing.T) {
	log := engine.LogID{Topic: 3, Partition: 1}
	two := engine.AppendRecord(engine.AppendRecord(nil, []byte("one")), []byte("two"))
	for name, c := range map[string]engine.Chunk{
		"a record less":     {First: 7, Count: 3, Records: two},
		"a record more":     {First: 7, Count: 1, Records: two},
		"the last one torn": {First: 7, Count: 2, Records: two[:len(two)-1]},
		"more behind them":  {First: 7, Count: 2, Records: append(bytes.Clone(two), 0)},
		"nothing":           {First: 7, Count: 0},
	} {
		cs := newChunks(1<<20, maphash.MakeSeed())
		var corrupt *engine.CorruptError
		if _, err := cs.add(log, c); !errors.As(err, &corrupt) || corrupt.Log != log || corrupt.Offset != 7 {
			t.Errorf("%s: %v", name, err)
		}
		if cs.find(log, 7) != nil {
			t.Errorf("%s: it is kept", name)
		}
	}
}

// TestChunksAreBounded: what was used longest ago goes first, and what nobody used for two rounds.
func TestChunksAreBounded(t *testing.T) {
	record := engine.AppendRecord(nil, bytes.Repeat([]byte{'x'}, 1000))
	one := func(first engine.Offset) engine.Chunk { return engine.Chunk{First: first, Count: 1, Records: record} }
	a, b := engine.LogID{Topic: 1}, engine.LogID{Topic: 2}
	c, err := newChunk(a, one(0), maphash.MakeSeed())
	if err != nil {
		t.Fatal(err)
	}
	weight := c.weight()
	cs := newChunks(4*weight, maphash.MakeSeed())
	add := func(log engine.LogID, first engine.Offset) *chunk {
		t.Helper()
		c, err := cs.add(log, one(first))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	check := func(log engine.LogID, there, gone []engine.Offset) {
		t.Helper()
		for _, o := range gone {
			if cs.find(log, o) != nil {
				t.Errorf("offset %d of log %v is still there", o, log)
			}
		}
		for _, o := range there {
			if c := cs.find(log, o); c == nil || c.First != o {
				t.Errorf("offset %d of log %v has chunk %v", o, log, c)
			}
		}
	}
	for _, o := range []engine.Offset{2, 0, 1} {
		add(a, o)
	}
	add(b, 0)
	check(a, []engine.Offset{2}, nil) // used
	add(b, 1)
	check(a, []engine.Offset{1, 2}, []engine.Offset{0, 3})
	check(b, []engine.Offset{0, 1}, nil)
	if had := cs.find(a, 1); add(a, 1) != had {
		t.Error("a chunk that is there was replaced")
	}
	cs.trim(a, 2)
	check(a, []engine.Offset{2}, []engine.Offset{1})
	cs.sweep()
	check(b, []engine.Offset{1}, nil)
	cs.sweep()
	check(b, []engine.Offset{1}, []engine.Offset{0})
	check(a, nil, []engine.Offset{2})
	cs.trim(b, 9)
	if cs.mu.bytes != 0 || len(cs.mu.logs) != 0 || cs.mu.oldest != nil || cs.mu.newest != nil {
		t.Errorf("of nothing there are %d bytes, logs %v, from %v to %v", cs.mu.bytes, cs.mu.logs, cs.mu.oldest, cs.mu.newest)
	}
}
