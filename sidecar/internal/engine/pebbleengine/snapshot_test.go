package pebbleengine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// copied is a file system that has the snapshot's files as its store.
func copied(t *testing.T, s engine.Snapshot) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range s.Files() {
		in, err := s.Open(file.Name)
		if err != nil {
			t.Fatal(err)
		}
		out, err := fs.Create(fs.PathJoin(dir, file.Name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(out, in)
		if err := errors.Join(err, in.Close(), out.Close()); err != nil || n != file.Size {
			t.Fatalf("%s: %d of %d bytes, %v", file.Name, n, file.Size, err)
		}
	}
	return fs
}

// TestASnapshotIsOneCommit: publishers and an owner write as fast as they can; every snapshot is whole, has all that was acknowledged before it was asked for, and
// of what came later the same in its two logs and its state, which were written together.
func TestASnapshotIsOneCommit(t *testing.T) {
	store := t.TempDir() // a real one: write-ahead logs of a memory file system have no reserved space
	e, err := Open(store, Options{MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	owner, err := e.Fence(t.Context(), owned, 3)
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged atomic.Int64 // commits of the owner
	stop, ended := make(chan struct{}), make(chan error, 1)
	pad := strings.Repeat("x", 3000)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			one := engine.Append{Records: records(fmt.Sprint(i, pad)), Count: 1, TimeMS: int64(i) * 2 * mergeWithin}
			two := one
			one.Log, two.Log = logA, logB
			if _, err := owner.Commit(t.Context(), engine.Batch{
				Writes: []engine.Write{{Key: []byte("last"), Value: []byte(fmt.Sprint(i))}}, Appends: []engine.Append{one, two},
			}); err != nil {
				ended <- err
				return
			}
			acknowledged.Store(int64(i) + 1)
		}
	}()
	last := engine.Offset(0)
	for range 12 {
		before := acknowledged.Load()
		s, err := e.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Snapshot(t.Context()); !errors.Is(err, engine.ErrSnapshotOpen) {
			t.Errorf("a second snapshot: %v", err)
		}
		fs := copied(t, s)
		if found, tally := checked(t, fs); len(found) > 0 || tally.Commit != s.Commit() {
			t.Fatalf("found %q, commit %d, want %d", found, tally.Commit, s.Commit())
		}
		c := openOn(t, fs, Options{})
		a, _ := c.Bounds(t.Context(), logA)
		b, _ := c.Bounds(t.Context(), logB)
		state, err := c.View(owned).Get(t.Context(), []byte("last"))
		if before > 0 && (err != nil || string(state) != fmt.Sprint(int64(a.End)-1)) || a.End != b.End || int64(a.End) < before || a.End < last {
			t.Errorf("logs end at %d and %d, state is %q (%v); %d commits were acknowledged before", a.End, b.End, state, err, before)
		}
		last = a.End
		closeEngine(t, c)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if last == 0 {
		t.Error("nothing was ever in a snapshot")
	}
	t.Logf("%d commits, %d in the last of 12 snapshots", acknowledged.Load(), last)
	closeEngine(t, e)
	if _, err := vfs.Default.Stat(store + snapshotSuffix); err == nil {
		t.Error("a closed snapshot is left behind")
	}
}

func TestASnapshotOfAKilledProcessIsRemoved(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	if _, err := e.Snapshot(t.Context()); err != nil { // never closed
		t.Fatal(err)
	}
	closeEngine(t, e)
	e = openOn(t, fs, Options{})
	if _, err := fs.Stat(dir + snapshotSuffix); err == nil {
		t.Error("it is still there")
	}
	closeEngine(t, e)
}
