package pebbleengine

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestMemoryIsGivenBackWithAllThatWasStored: what was in memory is in tables, also when writes go on meanwhile, and survives the loss of all that is not synced.
func TestMemoryIsGivenBackWithAllThatWasStored(t *testing.T) {
	disk := vfs.NewCrashableMem()
	e := openOn(t, disk, Options{MemTableBytes: 1 << 20})
	log, long := engine.LogID{Topic: 1}, strings.Repeat("x", 100<<10)
	live := func() uint64 { return e.db.Metrics().WAL.Size } // of write-ahead logs that are needed
	giveBack := func() {
		t.Helper()
		if err := e.GiveBack(); err != nil {
			t.Fatal(err)
		}
	}
	flushes := func() int64 { return e.db.Metrics().Flush.Count }
	before := flushes()
	appendTo(t, e, log, "little")
	if giveBack(); flushes() != before {
		t.Error("memory is given back after a write of some bytes")
	}
	want := 1
	for range 5 {
		for live() < givenFrom/2 || want%12 != 0 { // so that memtables of all fills are met
			appendTo(t, e, log, long)
			want++
		}
		if giveBack(); live() >= givenFrom/2 {
			t.Errorf("after giving back, %d bytes are in memory only", live())
		}
		before := flushes()
		if giveBack(); flushes() != before {
			t.Error("memory is given back twice")
		}
		appendTo(t, e, log, long)
		want++
	}
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 20 {
				if _, err := e.Append(context.Background(), []engine.Append{{Log: log, Records: records(long), Count: 1}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		giveBack()
	}
	writers.Wait()
	want += 4 * 20
	giveBack()

	e.backlog.note(errors.New("a flush failed"))
	for range 2 * givenFrom / len(long) {
		appendTo(t, e, log, long)
		want++
	}
	had := e.givenAt
	if giveBack(); e.givenAt != had {
		t.Error("memory is given back where flushes fail")
	}

	after := openOn(t, disk.CrashClone(vfs.CrashCloneCfg{}), Options{})
	defer closeEngine(t, after)
	bounds, err := after.Bounds(t.Context(), log)
	if err != nil || bounds.End != engine.Offset(want) {
		t.Fatalf("%d records after a crash, %v; want %d", bounds.End, err, want)
	}
	for next := engine.Offset(0); next < bounds.End; {
		chunks, err := after.Read(t.Context(), log, next, 1<<20)
		if err != nil || len(chunks) == 0 {
			t.Fatalf("at %d of %d: %d chunks, %v", next, bounds.End, len(chunks), err)
		}
		next = chunks[len(chunks)-1].Last() + 1
	}
	closeEngine(t, e)
	if err := e.GiveBack(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
