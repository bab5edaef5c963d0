package pebbleengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const dir = "data"

var (
	logA  = engine.LogID{Topic: 1, Partition: 2, Lane: 3}
	logB  = engine.LogID{Topic: 1, Partition: 2, Lane: 4}
	owned = engine.ShardID{Group: "billing", Topic: 1, Partition: 2}
)

func openOn(t *testing.T, fs vfs.FS, options Options) *Engine {
	t.Helper()
	options.FS = fs
	if options.Logger == nil {
		options.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	e, err := Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func records(values ...string) []byte {
	var set []byte
	for _, v := range values {
		set = engine.AppendRecord(set, []byte(v))
	}
	return set
}

func appendTo(t *testing.T, e *Engine, log engine.LogID, values ...string) engine.Offset {
	t.Helper()
	firsts, err := e.Append(t.Context(), []engine.Append{{Log: log, Records: records(values...), Count: len(values), TimeMS: 1_000}})
	if err != nil {
		t.Fatal(err)
	}
	return firsts[0]
}

func closeEngine(t *testing.T, e *Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes the content of the files that match.
func rewrite(t *testing.T, fs vfs.FS, match func(name string) bool, change func([]byte) []byte) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, name := range names {
		if !match(name) {
			continue
		}
		path := fs.PathJoin(dir, name)
		f, err := fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		out, err := fs.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = out.Write(change(content))
		if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
			t.Fatal(err)
		}
		changed++
	}
	if changed == 0 {
		t.Fatalf("no file to damage among %v", names)
	}
}

func suffix(s string) func(string) bool {
	return func(name string) bool { return strings.HasSuffix(name, s) }
}

// wantCorrupt checks that a log neither serves nor grows.
func wantCorrupt(t *testing.T, e *Engine, log engine.LogID, from, at engine.Offset) {
	t.Helper()
	_, readErr := e.Read(t.Context(), log, from, 1<<20)
	_, appendErr := e.Append(t.Context(), []engine.Append{{Log: log, Records: records("more"), Count: 1}})
	for what, err := range map[string]error{"read": readErr, "append": appendErr} {
		bad := (*engine.CorruptError)(nil)
		if !errors.As(err, &bad) || bad.Log != log || bad.Offset != at {
			t.Errorf("%s of log %v: %v, want a CorruptError at %d", what, log, err, at)
		}
	}
}

func TestALogWhoseTailWasCutOffIsNotServed(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	appendTo(t, e, logB, "other")
	closeEngine(t, e)
	e = openOn(t, fs, Options{}) // which flushes, so that log B is out of the write-ahead log
	for i := range 1000 {
		appendTo(t, e, logA, fmt.Sprint(i))
	}
	closeEngine(t, e)
	rewrite(t, fs, suffix(".log"), func(b []byte) []byte { return b[:len(b)/2] })

	e = openOn(t, fs, Options{})
	wantCorrupt(t, e, logA, 0, 0)
	if _, err := e.Bounds(t.Context(), logA); err == nil {
		t.Error("a log that came back short tells its bounds")
	}
	if err := e.Trim(t.Context(), logA, 10); err == nil {
		t.Error("a log that came back short can be trimmed")
	}
	if chunks, err := e.Read(t.Context(), logB, 0, 1<<20); err != nil || len(chunks) != 1 {
		t.Errorf("the other log reads %v, %v", chunks, err)
	}
	if first := appendTo(t, e, logB, "more"); first != 1 {
		t.Errorf("the other log grows at %d", first)
	}
	closeEngine(t, e)
	e = openOn(t, fs, Options{})
	wantCorrupt(t, e, logA, 0, 0) // Opening again does not make it good.
}

func TestAFlippedBitInTheWriteAheadLogIsPutRight(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	for i := range 1000 {
		appendTo(t, e, logA, fmt.Sprint(i))
	}
	closeEngine(t, e)
	rewrite(t, fs, suffix(".log"), func(b []byte) []byte { b[len(b)/3] ^= 1; return b })
	e = openOn(t, fs, Options{})
	if b, err := e.Bounds(t.Context(), logA); err != nil || b.End != 1000 {
		t.Errorf("bounds %v, %v", b, err)
	}
}

func TestAWriteAheadLogThatIsDamagedInTheMiddleIsNamed(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	for i := range 1000 {
		appendTo(t, e, logA, fmt.Sprint(i))
	}
	closeEngine(t, e)
	before := filesOf(t, fs)
	// All of it fits in two blocks, so Pebble by itself would take the damage for the end of the log.
	rewrite(t, fs, suffix(".log"), func(b []byte) []byte { clear(b[len(b)*3/4 : len(b)*3/4+100]); return b })
	_, err := Open(dir, Options{FS: fs})
	damage := (*DamageError)(nil)
	if !errors.As(err, &damage) || !strings.HasSuffix(damage.File, ".log") || damage.Offset == 0 {
		t.Fatalf("open: %v", err)
	}
	for name, content := range filesOf(t, fs) {
		if !strings.HasSuffix(name, ".log") && !bytes.Equal(content, before[name]) {
			t.Errorf("%s was changed", name)
		}
	}
}

func TestAGapInTheCommitsIsNamed(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	batch := func(number uint64) { // as the committer writes it
		t.Helper()
		set(t, e, commitsKey(), sealed(commitsKey(), be64(number)))
	}
	n, err := commitNumber(stored(t, e, commitsKey()))
	if err != nil {
		t.Fatal(err)
	}
	batch(n + 1)
	batch(n + 3)
	closeEngine(t, e)
	if _, err := Open(dir, Options{FS: fs}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("commit %d follows commit %d", n+3, n+1)) {
		t.Errorf("open: %v", err)
	}
}

func TestADamagedTableQuarantinesTheLogFromThere(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	noise := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for i := range noise {
		noise[i] ^= byte(i * i >> 7)
	}
	for range 20 {
		appendTo(t, e, logA, string(noise))
	}
	closeEngine(t, e)
	e = openOn(t, fs, Options{}) // flushes
	closeEngine(t, e)
	rewrite(t, fs, suffix(".blob"), func(b []byte) []byte {
		if len(b) > 100_000 {
			b[len(b)/2] ^= 1
		}
		return b
	})
	e = openOn(t, fs, Options{})
	served := engine.Offset(0)
	for {
		chunks, err := e.Read(t.Context(), logA, served, 1)
		if bad := (*engine.CorruptError)(nil); errors.As(err, &bad) {
			if bad.Offset != served {
				t.Errorf("corrupt at %d after serving up to %d", bad.Offset, served)
			}
			break
		}
		if err != nil || len(chunks) == 0 {
			t.Fatalf("read from %d: %d chunks, %v", served, len(chunks), err)
		}
		served = chunks[0].Last() + 1
	}
	if served == 0 || served == 20 {
		t.Errorf("%d of 20 records were served", served)
	}
	wantCorrupt(t, e, logA, served, served)
	if chunks, err := e.Read(t.Context(), logA, 0, 1); err != nil || len(chunks) != 1 {
		t.Errorf("records before the damage: %d chunks, %v", len(chunks), err)
	}
	appendTo(t, e, logB, "other logs serve")
}

func TestDamageThatPebbleDoesNotSee(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, e *Engine){
		"changed record": func(t *testing.T, e *Engine) {
			key := chunkKey(logA, 5)
			value := stored(t, e, key)
			value[len(value)-1] ^= 1
			set(t, e, key, value)
		},
		"chunk of another place": func(t *testing.T, e *Engine) { set(t, e, chunkKey(logA, 5), stored(t, e, chunkKey(logA, 4))) },
		"cut short":              func(t *testing.T, e *Engine) { set(t, e, chunkKey(logA, 5), []byte{1}) },
		"missing":                func(t *testing.T, e *Engine) { remove(t, e, chunkKey(logA, 5)) },
		"replaced by a sound chunk": func(t *testing.T, e *Engine) {
			key, value := chunkKey(logA, 5), append(make([]byte, chunkHeaderLen), records("forged")...)
			fillChunk(key, value, 12345, 1, 5, 1_000, 0)
			set(t, e, key, value)
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			e := openOn(t, fs, Options{})
			for i := range 10 {
				appendTo(t, e, logA, fmt.Sprint(i))
			}
			harm(t, e)
			chunks, err := e.Read(t.Context(), logA, 0, 1<<20)
			if err != nil || len(chunks) != 5 {
				t.Fatalf("read up to the damage: %d chunks, %v; want 5", len(chunks), err)
			}
			if name == "replaced by a sound chunk" {
				return // Only who reads across the border can know.
			}
			wantCorrupt(t, e, logA, 5, 5)
		})
	}
	t.Run("last chunk replaced by a sound one while closed", func(t *testing.T) {
		fs := vfs.NewMem()
		e := openOn(t, fs, Options{})
		appendTo(t, e, logA, "0")
		appendTo(t, e, logA, "1")
		key, value := chunkKey(logA, 1), append(make([]byte, chunkHeaderLen), records("forged")...)
		fillChunk(key, value, 12345, 1, 1, 1_000, 0)
		set(t, e, key, value)
		closeEngine(t, e)
		wantCorrupt(t, openOn(t, fs, Options{}), logA, 0, 0)
	})
	t.Run("state of a group", func(t *testing.T) {
		e := openOn(t, vfs.NewMem(), Options{})
		s, err := e.Fence(t.Context(), owned, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), engine.Batch{Writes: []engine.Write{{Key: []byte("k"), Value: []byte("v")}}}); err != nil {
			t.Fatal(err)
		}
		set(t, e, stateKey(owned, []byte("k")), []byte("0000w"))
		bad := (*engine.CorruptError)(nil)
		if value, err := s.Get(t.Context(), []byte("k")); !errors.As(err, &bad) {
			t.Errorf("get: %q, %v", value, err)
		}
		for pair, err := range s.Scan(t.Context(), nil, nil) {
			if !errors.As(err, &bad) || pair.Key != nil {
				t.Errorf("scan: %q, %v", pair, err)
			}
		}
	})
}

func stored(t *testing.T, e *Engine, key []byte) []byte {
	t.Helper()
	value, closer, err := e.db.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	return bytes.Clone(value)
}

func set(t *testing.T, e *Engine, key, value []byte) {
	t.Helper()
	if err := e.db.Set(key, value, pebble.Sync); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, e *Engine, key []byte) {
	t.Helper()
	if err := e.db.Delete(key, pebble.Sync); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedMarkIsPassedOver(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	appendTo(t, e, logA, "a")
	appendTo(t, e, logB, "b")
	closeEngine(t, e)
	rewrite(t, fs, func(name string) bool { return name == marksFile }, func(b []byte) []byte {
		b[markLen+20] ^= 1
		return b
	})
	var said bytes.Buffer
	e = openOn(t, fs, Options{Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if first := appendTo(t, e, logA, "more"); first != 1 {
		t.Errorf("offset %d", first)
	}
	if !strings.Contains(said.String(), "high-water mark is damaged") {
		t.Errorf("nothing was said about the mark: %s", said.String())
	}
}

// syncs is a file system whose syncs of write-ahead logs do what the test says.
func syncs(do func() error) (vfs.FS, *atomic.Bool) {
	on := &atomic.Bool{}
	return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			if on.Load() && strings.HasSuffix(op.Path, ".log") {
				return do()
			}
		}
		return nil
	})), on
}

func TestAFailedSyncStopsWritesForGood(t *testing.T) {
	fs, fail := syncs(func() error { return syscall.EIO })
	told := make(chan error, 10)
	e := openOn(t, fs, Options{OnFatal: func(err error) { told <- err }})
	s, err := e.Fence(t.Context(), owned, 1)
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, e, logA, "durable")

	fail.Store(true)
	a := []engine.Append{{Log: logA, Records: records("lost"), Count: 1}}
	if _, err := e.Append(t.Context(), a); !errors.Is(err, engine.ErrUnknownOutcome) {
		t.Errorf("append whose sync failed: %v", err)
	}
	if err := <-told; err == nil {
		t.Error("told of no error")
	}
	fail.Store(false) // The disk says that all is well again. It is not to be believed.

	if _, err := e.Append(t.Context(), a); err == nil || errors.Is(err, engine.ErrUnknownOutcome) {
		t.Errorf("append after a failed sync: %v", err)
	}
	if _, err := s.Commit(t.Context(), engine.Batch{}); err == nil {
		t.Error("commit after a failed sync succeeded")
	}
	if _, err := e.Fence(t.Context(), owned, 2); err == nil {
		t.Error("fence after a failed sync succeeded")
	}
	if b, err := e.Bounds(t.Context(), logA); err != nil || b.End != 1 {
		t.Errorf("bounds %v, %v; want what is durable", b, err)
	}
	if chunks, err := e.Read(t.Context(), logA, 0, 1<<20); err != nil || len(chunks) != 1 || chunks[0].Count != 1 {
		t.Errorf("read %v, %v", chunks, err)
	}
	if len(told) > 0 {
		t.Errorf("told twice: %v", <-told)
	}
}

func TestACallerNeedNotWaitForAStalledSync(t *testing.T) {
	stalled, release := make(chan struct{}, 10), make(chan struct{})
	fs, stall := syncs(func() error {
		stalled <- struct{}{}
		<-release
		return nil
	})
	e := openOn(t, fs, Options{})
	stall.Store(true)

	call := func(value string) (cancel func(), set []byte, done chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		set, done = records(value), make(chan error, 1)
		go func() {
			_, err := e.Append(ctx, []engine.Append{{Log: logA, Records: set, Count: 1}})
			done <- err
		}()
		return cancel, set, done
	}
	cancelTaken, buffer, taken := call("taken")
	<-stalled // Its batch is being synced.
	cancelQueued, _, queued := call("queued")
	cancelQueued()
	if err := <-queued; !errors.Is(err, context.Canceled) || errors.Is(err, engine.ErrUnknownOutcome) {
		t.Errorf("a call given up before its batch was begun: %v", err)
	}
	cancelTaken()
	if err := <-taken; !errors.Is(err, context.Canceled) || !errors.Is(err, engine.ErrUnknownOutcome) {
		t.Errorf("a call given up during the sync: %v", err)
	}
	clear(buffer) // It is the caller's again.
	if b, err := e.Bounds(t.Context(), logA); err != nil || b.End != 0 {
		t.Errorf("bounds during the sync: %v, %v", b, err)
	}
	if chunks, err := e.Read(t.Context(), logA, 0, 1<<20); err != nil || len(chunks) != 0 {
		t.Errorf("read during the sync: %v, %v", chunks, err)
	}
	stall.Store(false)
	close(release)
	if first := appendTo(t, e, logA, "next"); first != 1 {
		t.Errorf("the next record got offset %d, want 1", first)
	}
	chunks, err := e.Read(t.Context(), logA, 0, 1<<20)
	if err != nil || len(chunks) != 2 || !bytes.Equal(chunks[0].Records, records("taken")) {
		t.Errorf("read %v, %v", chunks, err)
	}
}

func TestWhatArrivesDuringASyncSharesTheNext(t *testing.T) {
	stalled, release := make(chan struct{}, 10), make(chan struct{})
	fs, stall := syncs(func() error {
		stalled <- struct{}{}
		<-release
		return nil
	})
	e := openOn(t, fs, Options{})
	stall.Store(true)
	const waiting = 50
	done := make(chan error, 2*waiting)
	put := func(timeMS int64) {
		go func() {
			_, err := e.Append(t.Context(), []engine.Append{{Log: logA, Records: records("x"), Count: 1, TimeMS: timeMS}})
			done <- err
		}()
	}
	put(1_000)
	<-stalled
	for i := range int64(waiting) {
		put(5_000 + i)
	}
	queued := func(n int) {
		for len(e.queue) < n {
			runtime.Gosched() // The callers are on their way to the queue.
		}
	}
	queued(waiting)
	for range waiting {
		put(60_000)
	}
	queued(2 * waiting)
	before := stored(t, e, commitsKey())
	stall.Store(false)
	close(release)
	for range 2*waiting + 1 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	was, err := commitNumber(before)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := commitNumber(stored(t, e, commitsKey())); err != nil || now != was+1 {
		t.Errorf("%d appends took %d commits, %v", 2*waiting, now-was, err)
	}
	chunks, err := e.Read(t.Context(), logA, 1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	// Times that are more than a second apart share no chunk.
	if len(chunks) != 2 || chunks[0].Count != waiting || chunks[0].TimeMS < 5_000 || chunks[0].TimeMS >= 5_000+waiting ||
		chunks[1].Count != waiting || chunks[1].TimeMS != 60_000 {
		t.Errorf("chunks %+v", chunks)
	}
}

func commitNumber(value []byte) (uint64, error) {
	body, err := unsealed(commitsKey(), value)
	if err != nil {
		return 0, err
	}
	return parse64(body)
}

func TestOpenSaysWhyItCannot(t *testing.T) {
	t.Run("locked", func(t *testing.T) {
		for name, fs := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
			where := t.TempDir()
			e, err := Open(where, Options{FS: fs})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(where, Options{FS: fs}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), where) {
				t.Errorf("%s: second open: %v", name, err)
			}
			closeEngine(t, e)
		}
	})
	t.Run("newer format", func(t *testing.T) {
		fs := vfs.NewMem()
		closeEngine(t, openOn(t, fs, Options{}))
		rewrite(t, fs, func(name string) bool { return name == formatFile }, func([]byte) []byte { return []byte("typedmq engine 3\n") })
		if _, err := Open(dir, Options{FS: fs}); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("open: %v", err)
		}
		rewrite(t, fs, func(name string) bool { return name == formatFile }, func([]byte) []byte { return []byte("?") })
		if _, err := Open(dir, Options{FS: fs}); err == nil || errors.Is(err, ErrNewerFormat) {
			t.Errorf("open with a format file that makes no sense: %v", err)
		}
	})
	t.Run("not a store", func(t *testing.T) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(fs.PathJoin(dir, "photo.jpg"), vfs.WriteCategoryUnspecified)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{FS: fs}); !errors.Is(err, ErrNotAStore) {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("not writable", func(t *testing.T) {
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpLock {
				return &iofs.PathError{Op: "open", Path: op.Path, Err: syscall.EACCES}
			}
			return nil
		}))
		if _, err := Open(dir, Options{FS: fs}); !errors.Is(err, syscall.EACCES) || errors.Is(err, ErrLocked) {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("and leaves it unlocked", func(t *testing.T) {
		fs := vfs.NewMem()
		closeEngine(t, openOn(t, fs, Options{}))
		damage := func(b []byte) []byte { return append([]byte("x"), b...) }
		rewrite(t, fs, func(name string) bool { return strings.HasPrefix(name, "MANIFEST") }, damage)
		if _, err := Open(dir, Options{FS: fs}); err == nil || errors.Is(err, ErrLocked) {
			t.Errorf("open of a damaged store: %v", err)
		}
		if _, err := Open(dir, Options{FS: fs}); err == nil || errors.Is(err, ErrLocked) {
			t.Errorf("second open of a damaged store: %v", err)
		}
	})
}
