package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// FaultyDisk is a disk that fails, with an engine on it.
type FaultyDisk struct {
	// Open opens an engine on the disk.
	Open func() (engine.Engine, error)
	// Reached tells whether the operation that was to fail was tried.
	Reached func() bool
	// Reopen opens an engine on what the disk holds, which fails no more: what was synced and some of the rest if the power was cut, else all.
	Reopen func(t *testing.T, powerCut bool) engine.Engine
}

// Fault is what happens to a disk. Operations are all that change it: files made, renamed and removed, writes, syncs.
type Fault struct {
	At   int // number of the first operation that fails, from 1
	Once bool
	Err  error
}

// diskFailsAnywhere lets the disk fail at each of its operations in turn, in the end for good, which is a crash at that operation, or once. Whatever fails: what
// was acknowledged is there when the engine is opened again, in order and without holes, commits are whole, and nothing is there that was not written.
func diskFailsAnywhere(t *testing.T, h Harness) {
	if h.Faulty == nil {
		t.Skip("this engine has no disk that fails")
	}
	for _, mode := range []struct {
		name     string
		fault    Fault
		powerCut bool
	}{
		{"power cut", Fault{Err: syscall.EIO}, true},
		{"killed", Fault{Err: syscall.EIO}, false},
		{"failed once, then power cut", Fault{Err: syscall.EIO, Once: true}, true},
		{"full", Fault{Err: syscall.ENOSPC}, false},
		{"full once", Fault{Err: syscall.ENOSPC, Once: true}, false},
	} {
		t.Run(mode.name, func(t *testing.T) {
			step := 1 // EVERY=1 tries all; else some, not always the same
			if os.Getenv("EVERY") == "" {
				step = 7
			}
			first := 1 + int(time.Now().UnixNano())%step
			for n := first; ; n += step {
				mode.fault.At = n
				disk := h.Faulty(t, mode.fault)
				done := &script{}
				if e, err := disk.Open(); err == nil {
					done.run(t, e)
					_ = e.Close()
				}
				if !disk.Reached() {
					t.Logf("about %d operations, every %d from %d on", n, step, first)
					return
				}
				if t.Failed() {
					t.Fatalf("at operation %d", n)
				}
				e := disk.Reopen(t, mode.powerCut)
				done.check(t, e)
				_ = e.Close()
				if t.Failed() {
					t.Fatalf("after operation %d failed", n)
				}
			}
		})
	}
}

// script is some work on an engine, and how much of it was acknowledged.
type script struct {
	appended, committed, tried int
	trimmed                    engine.Offset
}

func (s *script) run(t *testing.T, e engine.Engine) {
	fenced, err := e.Fence(t.Context(), shard, 1)
	for i := 1; i <= 12; i++ {
		s.tried = i
		large := string(bytes.Repeat([]byte{byte(i)}, 9000)) // so that memtables are flushed
		if _, err := e.Append(t.Context(), []engine.Append{appendOf(logA, fmt.Sprint(i), large)}); err == nil {
			if s.appended != i-1 {
				t.Fatalf("append %d is acknowledged after %d was not", i, s.appended+1)
			}
			s.appended = i
		}
		if err == nil {
			_, err := fenced.Commit(t.Context(), engine.Batch{
				Writes: []engine.Write{put("n", fmt.Sprint(i)), put(fmt.Sprintf("n/%03d", i), "")}, Appends: []engine.Append{appendOf(logB, fmt.Sprint(i))},
			})
			if err == nil {
				s.committed = i
			}
		}
		if i == 8 && e.Trim(t.Context(), logA, 6) == nil {
			s.trimmed = engine.Offset(min(6, 2*s.appended))
		}
	}
}

func (s *script) check(t *testing.T, e engine.Engine) {
	t.Helper()
	bounds, err := e.Bounds(t.Context(), logA)
	if err != nil {
		t.Fatal(err)
	}
	if bounds.End < engine.Offset(2*s.appended) || bounds.End > engine.Offset(2*s.tried) || bounds.Begin < s.trimmed || bounds.Begin > 6 {
		t.Errorf("the log holds %v: %d appends were acknowledged of %d, trimmed to %d", bounds, s.appended, s.tried, s.trimmed)
	}
	for i, record := range readAll(t, e, logA, bounds.Begin) {
		n := (int(bounds.Begin) + i) / 2
		if i%2 == 0 && record != fmt.Sprint(n+1) || i%2 == 1 && (len(record) != 9000 || record[0] != byte(n+1)) {
			t.Fatalf("offset %d holds %.20q", int(bounds.Begin)+i, record)
		}
	}
	commits := readAll(t, e, logB, 0)
	if len(commits) < s.committed || len(commits) > s.tried {
		t.Errorf("%d commits survived, %d were acknowledged", len(commits), s.committed)
	}
	claimed := mustFence(t, e, shard, 1)
	value, err := claimed.Get(t.Context(), []byte("n"))
	switch {
	case len(commits) == 0 && errors.Is(err, engine.ErrNotFound):
	case err != nil || string(value) != commits[len(commits)-1]:
		t.Errorf("the counter is %q, %v; the log ends in %v", value, err, commits)
	}
	keys := 0
	for _, err := range claimed.Scan(t.Context(), []byte("n/"), nil) {
		if err != nil {
			t.Fatal(err)
		}
		keys++
	}
	if keys != len(commits) {
		t.Errorf("the log holds %d commits, the map %d", len(commits), keys)
	}
	if first := mustAppend(t, e, appendOf(logA, "more"))[0]; first != bounds.End {
		t.Errorf("the log of %v grows at %d", bounds, first)
	}
}

// readersBesideAWriter read at every place while a log grows and is trimmed: each sees a run of records without holes, below the end.
func readersBesideAWriter(t *testing.T, h Harness) {
	const records = 600
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for r := range 4 {
		readers.Go(func() {
			for at := engine.Offset(r); ; {
				select {
				case <-stop:
					return
				default:
				}
				chunks, err := h.Engine.Read(t.Context(), logA, at, 200)
				if err != nil {
					t.Errorf("read at %d: %v", at, err)
					return
				}
				next := at
				for i, c := range chunks {
					if i > 0 && c.First != next {
						t.Errorf("a chunk begins at %d, the one before ended at %d", c.First, next)
						return
					}
					for offset, record := range c.All() {
						if string(record) != fmt.Sprint(offset) {
							t.Errorf("offset %d holds %q", offset, record)
							return
						}
					}
					next = c.Last() + 1
				}
				if bounds, err := h.Engine.Bounds(t.Context(), logA); err != nil || len(chunks) > 0 && next > bounds.End {
					t.Errorf("read up to %d of a log of %v, %v", next, bounds, err)
					return
				}
				if at = next; len(chunks) == 0 {
					at = engine.Offset(r)
				}
			}
		})
	}
	for i := 0; i < records; i += 3 {
		mustAppend(t, h.Engine, appendOf(logA, fmt.Sprint(i), fmt.Sprint(i+1), fmt.Sprint(i+2)))
		if i%30 == 0 {
			if err := h.Engine.Trim(t.Context(), logA, engine.Offset(i/2)); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	readers.Wait()
	if got := readAll(t, h.Engine, logA, records-3); !slices.Equal(got, []string{"597", "598", "599"}) {
		t.Errorf("the log ends in %q", got)
	}
}
