// Package enginetest is the conformance suite of engine.Engine: what every implementation must do, tested through the contract alone. An
// implementation calls Run from a test named TestConformance, and Bench from a benchmark.
package enginetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Harness is a fresh engine and what its kind can survive.
type Harness struct {
	// Engine is closed by the suite.
	Engine engine.Engine
	// Reopen opens the engine again on the same data, after the suite has closed it. Nil if nothing outlives the engine.
	Reopen func(t *testing.T) engine.Engine
	// Crash opens an engine on what the disk would hold if the power failed now. The first engine goes on working. Nil if the
	// implementation has no such disk. It may be called while the engine is in use, and several times.
	Crash func(t *testing.T) engine.Engine
	// Faulty makes a disk of its own that fails. Nil if the implementation has no such disk.
	Faulty func(t *testing.T, f Fault) FaultyDisk
}

// Run runs the suite. Each test gets a harness of its own.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"offsets are dense and records come back", offsetsAreDense},
		{"read works at every offset", readAtEveryOffset},
		{"read stops after max bytes", readStops},
		{"an append to many logs", appendToManyLogs},
		{"concurrent appends keep each writer's order", concurrentAppends},
		{"buffers belong to the caller", buffersBelongToTheCaller},
		{"large records", largeRecords},
		{"malformed appends have no effect", malformedAppends},
		{"commit writes all or nothing", commitAllOrNothing},
		{"commit of several shards writes all or nothing", commitOfSeveralShards},
		{"commit tells where records rest", commitTellsWhere},
		{"commit deletes ranges", commitDeletesRanges},
		{"fence refuses earlier epochs", fenceRefusesEarlierEpochs},
		{"fence against racing commits", fenceRacesCommits},
		{"get and scan", getAndScan},
		{"scan sees one state", scanSeesOneState},
		{"watch tells the end", watchTellsTheEnd},
		{"tail hands over what is written", tailHandsOver},
		{"trim", trim},
		{"bounds tell the bytes that are kept", boundsTellBytes},
		{"times of a log never go back", timesNeverGoBack},
		{"a cancelled context", cancelledContext},
		{"close", closing},
		{"close during appends", closingDuringAppends},
		{"reopen keeps all", reopenKeepsAll},
		{"reopen keeps what was trimmed", reopenAfterTrim},
		{"crash loses nothing acknowledged", crashLosesNothing},
		{"a disk may fail at any operation", diskFailsAnywhere},
		{"readers beside a writer", readersBesideAWriter},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := open(t)
			t.Cleanup(func() {
				if err := h.Engine.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test.run(t, h)
		})
	}
}

var (
	logA  = engine.LogID{Topic: 1, Partition: 2, Lane: 3}
	logB  = engine.LogID{Topic: 1, Partition: 2, Lane: 4}
	shard = engine.ShardID{Group: "billing", Topic: 1, Partition: 2}
)

// set encodes records.
func set(records ...string) []byte {
	var b []byte
	for _, r := range records {
		b = engine.AppendRecord(b, []byte(r))
	}
	return b
}

func appendOf(log engine.LogID, records ...string) engine.Append {
	return engine.Append{Log: log, Records: set(records...), Count: len(records), TimeMS: 1_000}
}

func mustAppend(t *testing.T, e engine.Engine, appends ...engine.Append) []engine.Offset {
	t.Helper()
	firsts, err := e.Append(t.Context(), appends)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	if len(firsts) != len(appends) {
		t.Fatalf("append of %d elements returned %d offsets", len(appends), len(firsts))
	}
	return firsts
}

func mustFence(t *testing.T, e engine.Engine, id engine.ShardID, epoch engine.Epoch) engine.Shard {
	t.Helper()
	s, err := e.Fence(t.Context(), id, epoch)
	if err != nil {
		t.Fatalf("fence %v at %d: %v", id, epoch, err)
	}
	return s
}

func mustCommit(t *testing.T, s engine.Shard, batch engine.Batch) []engine.Offset {
	t.Helper()
	firsts, err := s.Commit(t.Context(), batch)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return firsts
}

func put(key, value string) engine.Write { return engine.Write{Key: []byte(key), Value: []byte(value)} }

// readAll returns the records at or above from, and checks that they are dense and end where Bounds says, that chunks know the bytes before them, that
// Bounds knows the bytes of all, and that times do not go back. Nothing else may use the log meanwhile.
func readAll(t *testing.T, e engine.Engine, log engine.LogID, from engine.Offset) []string {
	t.Helper()
	bounds, err := e.Bounds(t.Context(), log)
	if err != nil {
		t.Fatalf("bounds: %v", err)
	}
	from = max(from, bounds.Begin)
	var (
		records []string
		last    engine.Chunk
	)
	begin, size := from, int64(0)
	for from < bounds.End {
		chunks, err := e.Read(t.Context(), log, from, 1<<20)
		if err != nil {
			t.Fatalf("read from %d: %v", from, err)
		}
		if len(chunks) == 0 {
			t.Fatalf("read from %d returned nothing below the end %d", from, bounds.End)
		}
		for _, c := range chunks {
			if c.First > from || c.Last() < from {
				t.Fatalf("read from %d returned a chunk of %d to %d", from, c.First, c.Last())
			}
			if size > 0 && (c.Taken != last.Taken+int64(len(last.Records)) || c.TimeMS < last.TimeMS) {
				t.Fatalf("chunk at %d has %d bytes before it and time %d, after %d+%d and time %d", c.First, c.Taken, c.TimeMS, last.Taken, len(last.Records), last.TimeMS)
			}
			size += int64(len(c.Records))
			last = c
			n := 0
			for offset, record := range c.All() {
				if offset >= from {
					records = append(records, string(record))
				}
				n++
			}
			if n != c.Count {
				t.Fatalf("chunk at %d says %d records and holds %d", c.First, c.Count, n)
			}
			from = c.Last() + 1
		}
	}
	if begin == bounds.Begin && size != bounds.Bytes {
		t.Fatalf("bounds tell of %d bytes, the log holds %d", bounds.Bytes, size)
	}
	return records
}

func numbered(n int, format string) []string {
	records := make([]string, n)
	for i := range records {
		records[i] = fmt.Sprintf(format, i)
	}
	return records
}

func offsetsAreDense(t *testing.T, h Harness) {
	var want []string
	for i, n := range []int{1, 3, 100, engine.MaxChunkRecords + 5, 1} {
		records := numbered(n, fmt.Sprintf("%d-%%d", i))
		first := mustAppend(t, h.Engine, appendOf(logA, records...))[0]
		if first != engine.Offset(len(want)) {
			t.Fatalf("append %d got offset %d, want %d", i, first, len(want))
		}
		want = append(want, records...)
	}
	if got := readAll(t, h.Engine, logA, 0); !slices.Equal(got, want) {
		t.Errorf("got %d records, want %d, or they differ", len(got), len(want))
	}
	if firsts, err := h.Engine.Append(t.Context(), nil); err != nil || len(firsts) != 0 {
		t.Errorf("append of nothing: %v, %v", firsts, err)
	}
}

func readAtEveryOffset(t *testing.T, h Harness) {
	want := numbered(2*engine.MaxChunkRecords+7, "record %d")
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/2)
		mustAppend(t, h.Engine, appendOf(logA, rest[:n]...))
		rest = rest[n:]
	}
	end := engine.Offset(len(want))
	for from := engine.Offset(-2); from < end; from++ {
		chunks, err := h.Engine.Read(t.Context(), logA, from, 1)
		if err != nil || len(chunks) != 1 {
			t.Fatalf("read from %d with max bytes 1: %d chunks, %v; want one", from, len(chunks), err)
		}
		c, at := chunks[0], max(from, 0)
		if c.First > at || c.Last() < at || c.TimeMS != 1_000 {
			t.Fatalf("read from %d returned %d to %d at time %d", from, c.First, c.Last(), c.TimeMS)
		}
		for offset, record := range c.All() {
			if string(record) != want[offset] {
				t.Fatalf("offset %d holds %q, want %q", offset, record, want[offset])
			}
		}
	}
	for _, from := range []engine.Offset{end, end + 1, 1 << 60} {
		if chunks, err := h.Engine.Read(t.Context(), logA, from, 1<<20); err != nil || len(chunks) != 0 {
			t.Errorf("read from %d, beyond the end: %d chunks, %v", from, len(chunks), err)
		}
	}
	if chunks, err := h.Engine.Read(t.Context(), logB, 0, 1<<20); err != nil || len(chunks) != 0 {
		t.Errorf("read of an empty log: %d chunks, %v", len(chunks), err)
	}
	if b, err := h.Engine.Bounds(t.Context(), logB); err != nil || b != (engine.Bounds{}) {
		t.Errorf("bounds of an empty log: %v, %v", b, err)
	}
}

func readStops(t *testing.T, h Harness) {
	record := string(make([]byte, 1000))
	for range 10 {
		mustAppend(t, h.Engine, appendOf(logA, record))
	}
	chunks, err := h.Engine.Read(t.Context(), logA, 0, 3*len(set(record)))
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, c := range chunks {
		size += len(c.Records)
	}
	if len(chunks) != 3 || size > 3*len(set(record)) {
		t.Errorf("got %d chunks of %d bytes, want 3 chunks", len(chunks), size)
	}
}

func appendToManyLogs(t *testing.T, h Harness) {
	mustAppend(t, h.Engine, appendOf(logB, "b0"))
	firsts := mustAppend(t, h.Engine,
		appendOf(logA, "a0", "a1"), appendOf(logB, "b1"), appendOf(logA, "a2"), appendOf(logB, "b2", "b3"))
	if want := []engine.Offset{0, 1, 2, 2}; !slices.Equal(firsts, want) {
		t.Errorf("offsets %v, want %v", firsts, want)
	}
	if got := readAll(t, h.Engine, logA, 0); fmt.Sprint(got) != "[a0 a1 a2]" {
		t.Errorf("log A holds %v", got)
	}
	if got := readAll(t, h.Engine, logB, 0); fmt.Sprint(got) != "[b0 b1 b2 b3]" {
		t.Errorf("log B holds %v", got)
	}
}

func concurrentAppends(t *testing.T, h Harness) {
	const writers, appends, perAppend = 8, 50, 3
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			last := engine.NoOffset
			for i := range appends {
				records := numbered(perAppend, fmt.Sprintf("%d.%d.%%d", w, i))
				firsts, err := h.Engine.Append(t.Context(), []engine.Append{appendOf(logA, records...)})
				if err != nil {
					errs <- err
					return
				}
				if firsts[0] <= last {
					errs <- fmt.Errorf("writer %d: append %d got offset %d after %d", w, i, firsts[0], last)
					return
				}
				last = firsts[0]
				got, err := h.Engine.Read(t.Context(), logA, firsts[0], 1)
				if err != nil || len(got) == 0 {
					errs <- fmt.Errorf("writer %d: own record %d is not readable after the append: %w", w, firsts[0], err)
					return
				}
				for offset, record := range got[0].All() {
					if offset == firsts[0] && string(record) != records[0] {
						errs <- fmt.Errorf("writer %d: offset %d holds %q, want %q", w, offset, record, records[0])
						return
					}
				}
			}
			errs <- nil
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		return
	}
	next := map[int]int{}
	records := readAll(t, h.Engine, logA, 0)
	for _, r := range records {
		var w, i, k int
		if _, err := fmt.Sscanf(r, "%d.%d.%d", &w, &i, &k); err != nil {
			t.Fatalf("record %q: %v", r, err)
		}
		if i*perAppend+k != next[w] {
			t.Fatalf("writer %d's record %d comes where %d is due", w, i*perAppend+k, next[w])
		}
		next[w]++
	}
	if len(records) != writers*appends*perAppend {
		t.Errorf("%d records, want %d", len(records), writers*appends*perAppend)
	}
}

func buffersBelongToTheCaller(t *testing.T, h Harness) {
	s := mustFence(t, h.Engine, shard, 1)
	a := appendOf(logA, "first")
	w := put("key", "value")
	mustAppend(t, h.Engine, a)
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{w}})
	for _, b := range [][]byte{a.Records, w.Key, w.Value} {
		clear(b)
	}
	chunks, err := h.Engine.Read(t.Context(), logA, 0, 1)
	if err != nil || len(chunks) != 1 || !bytes.Equal(chunks[0].Records, set("first")) {
		t.Fatalf("read %v, %v", chunks, err)
	}
	value, err := s.Get(t.Context(), []byte("key"))
	if err != nil || string(value) != "value" {
		t.Fatalf("get: %q, %v", value, err)
	}
	clear(value)
	if again, err := s.Get(t.Context(), []byte("key")); err != nil || string(again) != "value" {
		t.Errorf("get after the caller changed its copy: %q, %v", again, err)
	}
	mustAppend(t, h.Engine, appendOf(logA, "second"))
	if err := h.Engine.Trim(t.Context(), logA, 2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(chunks[0].Records, set("first")) {
		t.Errorf("a chunk changed after it was returned: %q", chunks[0].Records)
	}
}

func largeRecords(t *testing.T, h Harness) {
	big := func(c byte, n int) string { return string(bytes.Repeat([]byte{c}, n)) }
	want := []string{big('a', 5<<20), "small", big('b', 1<<20), big('c', engine.MaxChunkBytes), "end"}
	mustAppend(t, h.Engine, appendOf(logA, want...))
	if got := readAll(t, h.Engine, logA, 0); !slices.Equal(got, want) {
		t.Errorf("large records differ")
	}
	s := mustFence(t, h.Engine, shard, 1)
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{put("k", want[0]), put("empty", "")}})
	if got, err := s.Get(t.Context(), []byte("k")); err != nil || string(got) != want[0] {
		t.Errorf("large value: %d bytes, %v", len(got), err)
	}
	if got, err := s.Get(t.Context(), []byte("empty")); err != nil || len(got) != 0 {
		t.Errorf("empty value: %q, %v", got, err)
	}
}

func malformedAppends(t *testing.T, h Harness) {
	good := appendOf(logA, "good")
	for name, bad := range map[string]engine.Append{
		"no records":  {Log: logB},
		"wrong count": {Log: logB, Records: set("x"), Count: 2},
		"cut short":   {Log: logB, Records: set("xyz")[:3], Count: 1},
		"not a set":   {Log: logB, Records: []byte("xyz"), Count: 1},
	} {
		if firsts, err := h.Engine.Append(t.Context(), []engine.Append{good, bad}); err == nil {
			t.Errorf("%s: accepted at %v", name, firsts)
		} else if errors.Is(err, engine.ErrUnknownOutcome) {
			t.Errorf("%s: outcome is called unknown: %v", name, err)
		}
	}
	for _, log := range []engine.LogID{logA, logB} {
		if b, err := h.Engine.Bounds(t.Context(), log); err != nil || b.End != 0 {
			t.Errorf("log %v holds %v after refused appends, %v", log, b, err)
		}
	}
}

func commitAllOrNothing(t *testing.T, h Harness) {
	s := mustFence(t, h.Engine, shard, 1)
	firsts := mustCommit(t, s, engine.Batch{
		Writes:  []engine.Write{put("floor", "1"), put("gone", "x")},
		Appends: []engine.Append{appendOf(logA, "a0", "a1"), appendOf(logB, "b0"), appendOf(logA, "a2")},
	})
	if want := []engine.Offset{0, 0, 2}; !slices.Equal(firsts, want) {
		t.Errorf("offsets %v, want %v", firsts, want)
	}
	_, err := s.Commit(t.Context(), engine.Batch{
		Writes:  []engine.Write{put("floor", "2"), {Key: []byte("gone"), Delete: true}},
		Appends: []engine.Append{appendOf(logA, "a3"), {Log: logB, Records: set("x"), Count: 3}},
	})
	if err == nil {
		t.Fatal("a malformed commit was accepted")
	}
	if got := dump(t, s, "", ""); got != "floor=1 gone=x" {
		t.Errorf("after a refused commit the shard holds %q", got)
	}
	if got := readAll(t, h.Engine, logA, 0); fmt.Sprint(got) != "[a0 a1 a2]" {
		t.Errorf("after a refused commit log A holds %v", got)
	}
	mustCommit(t, s, engine.Batch{})
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{
		{Key: []byte("gone"), Delete: true}, {Key: []byte("never there"), Delete: true}, put("floor", "3"), put("floor", "4"),
	}})
	if got := dump(t, s, "", ""); got != "floor=4" {
		t.Errorf("the shard holds %q", got)
	}
}

func commitOfSeveralShards(t *testing.T, h Harness) {
	other := engine.ShardID{Group: "audit", Topic: 2}
	s, o := mustFence(t, h.Engine, shard, 1), mustFence(t, h.Engine, other, 7)
	commit := func(appends ...engine.Append) ([]engine.Offset, error) {
		n := strconv.Itoa(len(readAll(t, h.Engine, logA, 0)))
		return h.Engine.Commit(t.Context(), []engine.Part{
			{Shard: s, Writes: []engine.Write{put("floor", n)}},
			{Shard: o, Writes: []engine.Write{put("mark", n)}},
			{Shard: s, Writes: []engine.Write{put("floor", n+"+")}},
		}, appends)
	}
	holds := func(e engine.Engine, floor, mark string, records int) {
		t.Helper()
		if f, m := dump(t, e.View(shard), "", ""), dump(t, e.View(other), "", ""); f != "floor="+floor || m != "mark="+mark {
			t.Errorf("the shards hold %q and %q, want floor=%s and mark=%s", f, m, floor, mark)
		}
		if got := readAll(t, e, logA, 0); len(got) != records {
			t.Errorf("the log holds %v, want %d records", got, records)
		}
	}
	if firsts, err := commit(appendOf(logA, "a0", "a1"), appendOf(logB, "b0"), appendOf(logA, "a2")); err != nil || !slices.Equal(firsts, []engine.Offset{0, 0, 2}) {
		t.Errorf("a commit returned %v, %v", firsts, err)
	}
	holds(h.Engine, "0+", "0", 3)
	if _, err := commit(appendOf(logA, "a3"), engine.Append{Log: logB, Records: set("x"), Count: 3}); err == nil {
		t.Error("a malformed commit was accepted")
	}
	holds(h.Engine, "0+", "0", 3)
	mustFence(t, h.Engine, other, 8)
	if _, err := commit(appendOf(logA, "a3")); !errors.Is(err, engine.ErrFenced) {
		t.Errorf("a commit with a claim that was taken over returned %v", err)
	}
	holds(h.Engine, "0+", "0", 3)
	if _, err := h.Engine.Commit(t.Context(), []engine.Part{{Shard: s}, {Shard: h.Engine.View(other)}}, nil); !errors.Is(err, engine.ErrFenced) {
		t.Errorf("a commit of a shard that is only viewed returned %v", err)
	}
	o = mustFence(t, h.Engine, other, 8)
	if _, err := commit(); err != nil {
		t.Errorf("a commit without appends returned %v", err)
	}
	holds(h.Engine, "3+", "3", 3)
	if h.Reopen == nil {
		return
	}
	if err := h.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	e := h.Reopen(t)
	defer func() { _ = e.Close() }()
	holds(e, "3+", "3", 3)
}

func commitTellsWhere(t *testing.T, h Harness) {
	s := mustFence(t, h.Engine, shard, 1)
	mustAppend(t, h.Engine, appendOf(logB, "b0", "b1"))
	commit := func(e engine.Engine, s engine.Shard, writes ...engine.Write) {
		t.Helper()
		appends := []engine.Append{appendOf(logA, "a"), appendOf(logB, "b"), appendOf(logB, "b")}
		if _, err := e.Commit(t.Context(), []engine.Part{{Shard: s, Writes: writes, Yields: true}}, appends); err != nil {
			t.Fatal(err)
		}
	}
	at := func(key, value string, from, n int) engine.Write {
		return engine.Write{Key: []byte(key), Value: []byte(value), FirstsAt: from, Firsts: n}
	}
	commit(h.Engine, s, at("all", "x", 0, 3), at("last", "", 2, 1), at("none", "y", 3, 0))
	const want = "all=x\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03 last=\x00\x00\x00\x00\x00\x00\x00\x03 none=y"
	if got := dump(t, s, "", ""); got != want {
		t.Errorf("the map holds %q, want %q", got, want)
	}
	if h.Reopen == nil {
		return
	}
	if err := h.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	e := h.Reopen(t)
	defer func() { _ = e.Close() }()
	if got := dump(t, e.View(shard), "", ""); got != want {
		t.Errorf("after opening again the map holds %q, want %q", got, want)
	}
}

func commitDeletesRanges(t *testing.T, h Harness) {
	s := mustFence(t, h.Engine, shard, 1)
	other := mustFence(t, h.Engine, engine.ShardID{Group: shard.Group, Topic: shard.Topic, Partition: shard.Partition + 1}, 1)
	cut := func(from, until string) engine.Write {
		return engine.Write{Key: []byte(from), Until: []byte(until), Delete: true}
	}
	mustCommit(t, other, engine.Batch{Writes: []engine.Write{put("b", "other")}})
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{put("a", "1"), put("b", "1"), put("ba", "1"), put("c", "1"), put("d", "1")}})
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{put("bb", "2"), cut("b", "c"), put("ba", "2")}})
	if got := dump(t, s, "", ""); got != "a=1 ba=2 c=1 d=1" {
		t.Errorf("the map holds %q", got)
	}
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{cut("x", "y"), cut("c", "c"), cut("d", "zz")}})
	if got := dump(t, s, "", ""); got != "a=1 ba=2 c=1" {
		t.Errorf("the map holds %q", got)
	}
	if got := dump(t, other, "", ""); got != "b=other" {
		t.Errorf("the next shard's map holds %q", got)
	}
}

// dump is a scan's result in one line.
func dump(t *testing.T, s engine.Shard, prefix, from string) string {
	t.Helper()
	var out []byte
	for pair, err := range s.Scan(t.Context(), []byte(prefix), []byte(from)) {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		if len(out) > 0 {
			out = append(out, ' ')
		}
		out = fmt.Appendf(out, "%s=%s", pair.Key, pair.Value)
	}
	return string(out)
}

func fenceRefusesEarlierEpochs(t *testing.T, h Harness) {
	if _, err := h.Engine.Fence(t.Context(), shard, 0); err == nil {
		t.Error("a claim at epoch 0 was accepted")
	}
	old := mustFence(t, h.Engine, shard, 5)
	mustCommit(t, old, engine.Batch{Writes: []engine.Write{put("k", "5")}})
	again := mustFence(t, h.Engine, shard, 5)
	mustCommit(t, again, engine.Batch{Writes: []engine.Write{put("k", "5 again")}})

	present := mustFence(t, h.Engine, shard, 9)
	batch := engine.Batch{Writes: []engine.Write{put("k", "stale")}, Appends: []engine.Append{appendOf(logA, "stale")}}
	for _, s := range []engine.Shard{old, again} {
		if _, err := s.Commit(t.Context(), batch); !errors.Is(err, engine.ErrFenced) {
			t.Errorf("commit of an earlier epoch: %v", err)
		}
	}
	for _, epoch := range []engine.Epoch{1, 5, 8} {
		if _, err := h.Engine.Fence(t.Context(), shard, epoch); !errors.Is(err, engine.ErrFenced) {
			t.Errorf("claim at %d after 9: %v", epoch, err)
		}
	}
	mustCommit(t, present, engine.Batch{Writes: []engine.Write{put("k2", "9")}})
	if got := dump(t, present, "", ""); got != "k=5 again k2=9" {
		t.Errorf("the shard holds %q", got)
	}
	if got := readAll(t, h.Engine, logA, 0); len(got) != 0 {
		t.Errorf("a fenced commit appended %v", got)
	}
	other := mustFence(t, h.Engine, engine.ShardID{Group: "other", Topic: 1, Partition: 2}, 1)
	mustCommit(t, other, engine.Batch{Writes: []engine.Write{put("k", "other")}})
}

func fenceRacesCommits(t *testing.T, h Harness) {
	type result struct {
		last uint64 // counter of the last commit that was acknowledged
		err  error
	}
	const owners, commits = 5, 20
	done := make(chan result, owners)
	started := make([]chan struct{}, owners+1)
	for i := range started {
		started[i] = make(chan struct{})
	}
	own := func(epoch engine.Epoch) {
		s, err := h.Engine.Fence(t.Context(), shard, epoch)
		if err != nil {
			close(started[epoch])
			done <- result{err: err}
			return
		}
		r := result{}
		value, err := s.Get(t.Context(), []byte("n"))
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			r.err = err
		}
		n := counter(value)
		for i := 0; r.err == nil; i++ {
			if i == commits {
				close(started[epoch]) // The next owner comes while this one is at work.
			}
			n++
			_, err := s.Commit(t.Context(), engine.Batch{
				Writes:  []engine.Write{{Key: []byte("n"), Value: binary.BigEndian.AppendUint64(nil, n)}},
				Appends: []engine.Append{appendOf(logA, fmt.Sprintf("%d/%d", epoch, n))},
			})
			if err == nil {
				r.last = n
			}
			r.err = err
		}
		done <- r
	}
	for epoch := engine.Epoch(1); epoch <= owners; epoch++ {
		go own(epoch)
		<-started[epoch]
	}
	last := mustFence(t, h.Engine, shard, owners+1)
	value, err := last.Get(t.Context(), []byte("n"))
	if err != nil {
		t.Fatal(err)
	}
	n := counter(value)
	for range owners {
		if r := <-done; !errors.Is(r.err, engine.ErrFenced) {
			t.Errorf("an owner ended with %v, want ErrFenced", r.err)
		} else if r.last > n {
			t.Errorf("commit %d was acknowledged; the next owner read %d", r.last, n)
		}
	}
	value, err = last.Get(t.Context(), []byte("n"))
	if err != nil || counter(value) != n {
		t.Errorf("the counter moved from %d to %d after the fence, %v", n, counter(value), err)
	}
	epoch := 0
	for i, record := range readAll(t, h.Engine, logA, 0) {
		var e, m int
		if _, err := fmt.Sscanf(record, "%d/%d", &e, &m); err != nil || m != i+1 || e < epoch {
			t.Fatalf("record %d is %q after epoch %d, want counter %d", i, record, epoch, i+1)
		}
		epoch = e
	}
	if b, err := h.Engine.Bounds(t.Context(), logA); err != nil || b.End != engine.Offset(n) {
		t.Errorf("the log ends at %v, the counter at %d, %v", b.End, n, err)
	}
}

func counter(value []byte) uint64 {
	if len(value) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(value)
}

func getAndScan(t *testing.T, h Harness) {
	ids := []engine.ShardID{
		{Group: "a", Topic: 1, Partition: 2}, {Group: "ab", Topic: 1, Partition: 2}, {Group: "a", Topic: 1, Partition: 3},
		{Group: "a", Topic: 2, Partition: 2}, {Group: string(bytes.Repeat([]byte("g"), 249)), Topic: 1, Partition: 2},
	}
	for i, id := range ids {
		mustCommit(t, mustFence(t, h.Engine, id, 1), engine.Batch{Writes: []engine.Write{
			put("a", fmt.Sprint(i)), put("b/1", "x"), put("b/2", "y"), put("b/2\x00", "z"), put("b\xff", "w"), put("\xff", "f"), put("\xff\xff", "g"),
		}})
	}
	for i, id := range ids {
		s := mustFence(t, h.Engine, id, 2)
		for _, tc := range []struct{ prefix, from, want string }{
			{"", "", fmt.Sprintf("a=%d b/1=x b/2=y b/2\x00=z b\xff=w \xff=f \xff\xff=g", i)},
			{"b/", "", "b/1=x b/2=y b/2\x00=z"},
			{"b/", "b/2", "b/2=y b/2\x00=z"},
			{"b/", "a", "b/1=x b/2=y b/2\x00=z"},
			{"b/", "b/2\x00\x00", ""},
			{"b/", "c", ""},
			{"\xff", "", "\xff=f \xff\xff=g"},
			{"", "b\xff", "b\xff=w \xff=f \xff\xff=g"},
			{"nothing", "", ""},
		} {
			if got := dump(t, s, tc.prefix, tc.from); got != tc.want {
				t.Errorf("shard %v, scan of %q from %q: %q, want %q", id, tc.prefix, tc.from, got, tc.want)
			}
		}
		for range s.Scan(t.Context(), nil, nil) {
			break
		}
		if _, err := s.Get(t.Context(), []byte("b/")); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("get of a key that is not there: %v", err)
		}
	}
}

func scanSeesOneState(t *testing.T, h Harness) {
	s := mustFence(t, h.Engine, shard, 1)
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{put("a", "1"), put("b", "1"), put("c", "1")}})
	var got []string
	for pair, err := range s.Scan(t.Context(), nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if string(pair.Key) == "a" {
			mustCommit(t, s, engine.Batch{Writes: []engine.Write{put("b", "2"), {Key: []byte("c"), Delete: true}, put("d", "2")}})
		}
		got = append(got, fmt.Sprintf("%s=%s", pair.Key, pair.Value))
	}
	if fmt.Sprint(got) != "[a=1 b=1 c=1]" {
		t.Errorf("a scan saw a commit that came after its start: %v", got)
	}
	if got := dump(t, s, "", ""); got != "a=1 b=2 d=2" {
		t.Errorf("the shard holds %q", got)
	}
}

func tailHandsOver(t *testing.T, h Harness) {
	e, ok := h.Engine.(engine.Tailer)
	if !ok {
		t.Skip("the engine hands nothing over")
	}
	mustAppend(t, h.Engine, appendOf(logA, "before"))
	var mu sync.Mutex
	var wanted atomic.Bool
	var got []engine.Chunk
	cancel := e.Tail(logA, wanted.Load, func(c engine.Chunk) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, c)
	})
	mustAppend(t, h.Engine, appendOf(logA, "not", "wanted"))
	wanted.Store(true)
	mustAppend(t, h.Engine, appendOf(logA, "a", "b"), appendOf(logB, "other"))
	records := set("c")
	mustAppend(t, h.Engine, engine.Append{Log: logA, Records: records, Count: 1, TimeMS: 1_000})
	clear(records) // which belong to the caller again
	s := mustFence(t, h.Engine, shard, 1)
	mustCommit(t, s, engine.Batch{Appends: []engine.Append{appendOf(logA, "d")}})
	mu.Lock()
	read, err := h.Engine.Read(t.Context(), logA, 3, 1<<20)
	if err != nil || !reflect.DeepEqual(got, read) || len(got) != 3 {
		t.Errorf("handed over %v, read %v, %v", got, read, err)
	}
	mu.Unlock()
	cancel()
	mustAppend(t, h.Engine, appendOf(logA, "late"))
	if len(got) != 3 {
		t.Errorf("handed over %v after the end", got[3:])
	}
}

func watchTellsTheEnd(t *testing.T, h Harness) {
	ends := make(chan engine.Offset, 100)
	cancel := h.Engine.Watch(logA, func(end engine.Offset) { ends <- end })
	other := make(chan engine.Offset, 100)
	defer h.Engine.Watch(logB, func(end engine.Offset) { other <- end })()

	last := engine.Offset(0)
	wait := func(want engine.Offset) {
		for last < want {
			end := <-ends
			if end <= last {
				t.Errorf("told of end %d after %d", end, last)
			}
			last = end
			if b, err := h.Engine.Bounds(t.Context(), logA); err != nil || b.End < end {
				t.Errorf("told of end %d, bounds are %v, %v", end, b, err)
			}
		}
	}
	for i := range 10 {
		mustAppend(t, h.Engine, appendOf(logA, "x", "y"))
		wait(engine.Offset(2 * (i + 1)))
	}
	s := mustFence(t, h.Engine, shard, 1)
	mustCommit(t, s, engine.Batch{Appends: []engine.Append{appendOf(logA, "z")}})
	wait(21)
	if last != 21 {
		t.Errorf("told of end %d, want 21", last)
	}
	cancel()
	mustAppend(t, h.Engine, appendOf(logA, "after"), appendOf(logB, "b"))
	if end := <-other; end != 1 {
		t.Errorf("the other log's watcher was told %d", end)
	}
	select {
	case end := <-ends:
		t.Errorf("told of end %d after cancel", end)
	default:
	}
}

func trim(t *testing.T, h Harness) {
	if err := h.Engine.Trim(t.Context(), logB, 10); err != nil {
		t.Errorf("trim of an empty log: %v", err)
	}
	for i := range 10 {
		mustAppend(t, h.Engine, appendOf(logA, numbered(10, fmt.Sprintf("%d.%%d", i))...))
	}
	want := readAll(t, h.Engine, logA, 0)
	begin := engine.Offset(0)
	for _, before := range []engine.Offset{-1, 0, 5, 35, 20, 35, 60} {
		if err := h.Engine.Trim(t.Context(), logA, before); err != nil {
			t.Fatalf("trim before %d: %v", before, err)
		}
		b, err := h.Engine.Bounds(t.Context(), logA)
		if err != nil || b.End != 100 || b.Begin < begin || b.Begin > max(before, begin) {
			t.Fatalf("after a trim before %d bounds are %v, earlier begin %d, %v", before, b, begin, err)
		}
		begin = b.Begin
		if got := readAll(t, h.Engine, logA, 0); !slices.Equal(got, want[begin:]) {
			t.Fatalf("after a trim before %d the log holds %d records, want %d", before, len(got), len(want[begin:]))
		}
	}
	if begin != 60 {
		t.Errorf("a trim at a chunk's border left begin at %d, want 60", begin)
	}
	if err := h.Engine.Trim(t.Context(), logA, 1<<60); err != nil {
		t.Fatal(err)
	}
	if b, err := h.Engine.Bounds(t.Context(), logA); err != nil || b != (engine.Bounds{Begin: 100, End: 100}) { // and no bytes
		t.Errorf("after a trim of all bounds are %v, %v", b, err)
	}
	if chunks, err := h.Engine.Read(t.Context(), logA, 0, 1<<20); err != nil || len(chunks) != 0 {
		t.Errorf("a trimmed log reads %v, %v", chunks, err)
	}
	if first := mustAppend(t, h.Engine, appendOf(logA, "next"))[0]; first != 100 {
		t.Errorf("the next record got offset %d, want 100", first)
	}
	if got := readAll(t, h.Engine, logA, 0); fmt.Sprint(got) != "[next]" {
		t.Errorf("the log holds %v", got)
	}
}

// boundsTellBytes follows the count of bytes through trims and, where the engine can, through being opened again. What was trimmed counts in
// Chunk.Taken for ever, also when nothing was left.
func boundsTellBytes(t *testing.T, h Harness) {
	e := h.Engine
	var taken int64
	check := func(when string) {
		t.Helper()
		readAll(t, e, logA, 0) // which compares each chunk with the one before, and the sum with Bounds
		b, err := e.Bounds(t.Context(), logA)
		if err != nil {
			t.Fatal(err)
		}
		chunks, err := e.Read(t.Context(), logA, b.End-1, 1)
		if err != nil {
			t.Fatal(err)
		}
		if b.Begin == b.End {
			if b.Bytes != 0 || len(chunks) != 0 {
				t.Fatalf("%s: an empty log has %d bytes, %d chunks", when, b.Bytes, len(chunks))
			}
			return
		}
		if got := chunks[0].Taken + int64(len(chunks[0].Records)); got != taken {
			t.Fatalf("%s: the last chunk ends at %d bytes, %d were appended", when, got, taken)
		}
	}
	reopen := func() {
		if h.Reopen == nil {
			return
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = h.Reopen(t)
		t.Cleanup(func() { e.Close() })
	}
	for round, before := range []engine.Offset{0, 5, 20, 1 << 40, 45, 1 << 40} {
		for range 2 {
			a := appendOf(logA, "first", "second", fmt.Sprint("third of round ", round))
			taken += int64(len(a.Records))
			mustAppend(t, e, a, appendOf(logB, "other"))
			check(fmt.Sprintf("round %d, after an append", round))
		}
		if err := e.Trim(t.Context(), logA, before); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("round %d, after a trim before %d", round, before))
		reopen()
		check(fmt.Sprintf("round %d, opened again", round))
	}
}

// timesNeverGoBack: a clock that was set back looks as if it stood still.
func timesNeverGoBack(t *testing.T, h Harness) {
	e := h.Engine
	var want int64
	for i, ms := range []int64{1_000_000, 900_000, 999_999, 0, 1_000_000, 2_000_000, 1_000_000, 2_000_001} {
		if h.Reopen != nil && i%2 == 0 {
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = h.Reopen(t)
			t.Cleanup(func() { e.Close() })
		}
		want = max(want, ms)
		a := appendOf(logA, "r")
		a.TimeMS = ms
		first := mustAppend(t, e, a)[0]
		chunks, err := e.Read(t.Context(), logA, first, 1)
		if err != nil || len(chunks) != 1 || chunks[0].TimeMS != want {
			t.Errorf("appended at %d: %+v, %v, want time %d", ms, chunks, err, want)
		}
	}
	readAll(t, e, logA, 0)
}

func cancelledContext(t *testing.T, h Harness) {
	s := mustFence(t, h.Engine, shard, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	batch := engine.Batch{Writes: []engine.Write{put("k", "v")}, Appends: []engine.Append{appendOf(logA, "x")}}
	_, appendErr := h.Engine.Append(ctx, batch.Appends)
	_, commitErr := s.Commit(ctx, batch)
	_, fenceErr := h.Engine.Fence(ctx, shard, 2)
	_, readErr := h.Engine.Read(ctx, logA, 0, 1)
	for name, err := range map[string]error{"append": appendErr, "commit": commitErr, "fence": fenceErr, "read": readErr,
		"trim": h.Engine.Trim(ctx, logA, 1)} {
		if !errors.Is(err, context.Canceled) || errors.Is(err, engine.ErrUnknownOutcome) {
			t.Errorf("%s with a context that is done: %v", name, err)
		}
	}
	if got := dump(t, s, "", "") + fmt.Sprint(readAll(t, h.Engine, logA, 0)); got != "[]" {
		t.Errorf("calls with a context that was done left %s", got)
	}
	mustCommit(t, s, batch)

	// A cancellation on the way leaves a write that is there wholly or not at all.
	for i := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		before := len(readAll(t, h.Engine, logA, 0))
		a := appendOf(logA, fmt.Sprint(i))
		_, err := s.Commit(ctx, engine.Batch{Writes: []engine.Write{put("k", fmt.Sprint(i))}, Appends: []engine.Append{a}})
		clear(a.Records)                     // The race detector tells if the engine still reads it.
		s = mustFence(t, h.Engine, shard, 1) // Claiming again tells the outcome.
		value, getErr := s.Get(t.Context(), []byte("k"))
		if getErr != nil {
			t.Fatal(getErr)
		}
		stored := string(value) == fmt.Sprint(i)
		after := len(readAll(t, h.Engine, logA, 0))
		if stored != (after == before+1) {
			t.Fatalf("write stored: %t, records %d to %d", stored, before, after)
		}
		switch {
		case err == nil && !stored:
			t.Fatal("acknowledged and not stored")
		case err != nil && !errors.Is(err, context.Canceled):
			t.Fatalf("cancelled commit: %v", err)
		case err != nil && stored && !errors.Is(err, engine.ErrUnknownOutcome):
			t.Fatalf("stored, and the error does not say that it may be: %v", err)
		}
	}
}

func closing(t *testing.T, h Harness) {
	s := mustFence(t, h.Engine, shard, 1)
	mustCommit(t, s, engine.Batch{Writes: []engine.Write{put("k", "v")}})
	if err := h.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	errs := map[string]error{}
	_, errs["append"] = h.Engine.Append(t.Context(), []engine.Append{appendOf(logA, "x")})
	_, errs["read"] = h.Engine.Read(t.Context(), logA, 0, 1)
	_, errs["bounds"] = h.Engine.Bounds(t.Context(), logA)
	errs["trim"] = h.Engine.Trim(t.Context(), logA, 1)
	_, errs["fence"] = h.Engine.Fence(t.Context(), shard, 2)
	_, errs["commit"] = s.Commit(t.Context(), engine.Batch{})
	_, errs["get"] = s.Get(t.Context(), []byte("k"))
	for pair, err := range s.Scan(t.Context(), nil, nil) {
		if pair.Key != nil || pair.Value != nil {
			t.Errorf("scan after close yielded %q", pair)
		}
		errs["scan"] = err
	}
	if len(errs) != 8 {
		t.Error("scan after close yielded no error")
	}
	for name, err := range errs {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s after close: %v", name, err)
		}
	}
	h.Engine.Watch(logA, func(engine.Offset) {})()
	if err := h.Engine.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func closingDuringAppends(t *testing.T, h Harness) {
	const writers = 4
	var acked [writers]int
	errs, begun := make(chan error, writers), make(chan struct{}, writers)
	for w := range writers {
		go func() {
			for i := 0; ; i++ {
				if _, err := h.Engine.Append(t.Context(), []engine.Append{appendOf(logA, fmt.Sprintf("%d.%d", w, i))}); err != nil {
					errs <- err
					return
				}
				acked[w]++
				if i == 0 {
					begun <- struct{}{}
				}
			}
		}()
	}
	for range writers {
		<-begun
	}
	if err := h.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for range writers {
		if err := <-errs; !errors.Is(err, engine.ErrClosed) {
			t.Errorf("append during close: %v", err)
		}
	}
	for _, n := range acked {
		total += n
	}
	if h.Reopen == nil {
		return
	}
	e := h.Reopen(t)
	defer e.Close()
	if got := len(readAll(t, e, logA, 0)); got != total {
		t.Errorf("%d records after reopening, %d were acknowledged and none has an unknown outcome", got, total)
	}
}

func reopenKeepsAll(t *testing.T, h Harness) {
	if h.Reopen == nil {
		t.Skip("nothing outlives this engine")
	}
	e := h.Engine
	var want []string
	for round := range 4 {
		s := mustFence(t, e, shard, engine.Epoch(10+round))
		for i := range 20 {
			records := numbered(1+i*30, fmt.Sprintf("%d.%d.%%d", round, i))
			if first := mustAppend(t, e, appendOf(logA, records...))[0]; first != engine.Offset(len(want)) {
				t.Fatalf("round %d: offset %d, want %d", round, first, len(want))
			}
			want = append(want, records...)
		}
		mustCommit(t, s, engine.Batch{
			Writes:  []engine.Write{put(fmt.Sprint("k", round), "v"), put("last", fmt.Sprint(round))},
			Appends: []engine.Append{appendOf(logB, fmt.Sprint(round))},
		})
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = h.Reopen(t)
		t.Cleanup(func() { e.Close() })
		if got := readAll(t, e, logA, 0); !slices.Equal(got, want) {
			t.Fatalf("round %d: %d records after reopening, want %d", round, len(got), len(want))
		}
		if got := len(readAll(t, e, logB, 0)); got != round+1 {
			t.Fatalf("round %d: log B holds %d records", round, got)
		}
		if _, err := e.Fence(t.Context(), shard, engine.Epoch(9+round)); !errors.Is(err, engine.ErrFenced) {
			t.Errorf("round %d: a claim at an earlier epoch after reopening: %v", round, err)
		}
	}
	s := mustFence(t, e, shard, 13)
	if got := dump(t, s, "", ""); got != "k0=v k1=v k2=v k3=v last=3" {
		t.Errorf("the shard holds %q", got)
	}
}

func reopenAfterTrim(t *testing.T, h Harness) {
	if h.Reopen == nil {
		t.Skip("nothing outlives this engine")
	}
	e := h.Engine
	for i := range 10 {
		mustAppend(t, e, appendOf(logA, numbered(10, fmt.Sprintf("%d.%%d", i))...), appendOf(logB, "b"))
	}
	for _, step := range []struct {
		before engine.Offset
		want   engine.Bounds
	}{{30, engine.Bounds{Begin: 30, End: 100}}, {1000, engine.Bounds{Begin: 100, End: 100}}, {0, engine.Bounds{Begin: 100, End: 100}}} {
		if err := e.Trim(t.Context(), logA, step.before); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = h.Reopen(t)
		t.Cleanup(func() { e.Close() })
		b, err := e.Bounds(t.Context(), logA)
		if b.Bytes = 0; err != nil || b != step.want { // readAll knows the bytes
			t.Fatalf("after a trim before %d and reopening bounds are %v, want %v, %v", step.before, b, step.want, err)
		}
		if got := readAll(t, e, logA, 0); len(got) != int(step.want.End-step.want.Begin) {
			t.Fatalf("%d records", len(got))
		}
	}
	if first := mustAppend(t, e, appendOf(logA, "next"))[0]; first != 100 {
		t.Errorf("the next record got offset %d, want 100", first)
	}
	if got := readAll(t, e, logB, 0); len(got) != 10 {
		t.Errorf("the other log holds %d records", len(got))
	}
}
