package pebbleengine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// checked is what a check finds, a line each, and what it looked at.
func checked(t *testing.T, fs vfs.FS) (found []string, tally Tally) {
	t.Helper()
	o, err := OpenOffline(dir, Options{FS: fs})
	var broken *UnsoundError
	if errors.As(err, &broken) {
		return []string{err.Error()}, tally
	}
	if err != nil {
		t.Fatal(err)
	}
	tally, err = o.Check(t.Context(), func(f engine.Finding) { found = append(found, f.String()) }, func(int64) {})
	if err := errors.Join(err, o.Close()); err != nil {
		t.Fatal(err)
	}
	return found, tally
}

// sample makes a store with something of everything in it: logs of one and of many chunks, trimmed ones, an empty one, state, claims.
func sample(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	s, err := e.Fence(t.Context(), owned, 7)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		appendTo(t, e, logA, fmt.Sprint("a", i), "second")
		if _, err := s.Commit(t.Context(), engine.Batch{
			Writes:  []engine.Write{{Key: []byte(fmt.Sprint("key", i%7)), Value: []byte(fmt.Sprint(i))}},
			Appends: []engine.Append{{Log: logB, Records: records("b"), Count: 1, TimeMS: int64(i)}},
		}); err != nil {
			t.Fatal(err)
		}
		if i == 25 { // the rest in the write-ahead log, this in files
			closeEngine(t, e)
			e = openOn(t, fs, Options{})
			if s, err = e.Fence(t.Context(), owned, 8); err != nil {
				t.Fatal(err)
			}
		}
	}
	empty := engine.LogID{Topic: 9}
	appendTo(t, e, empty, "gone")
	for log, before := range map[engine.LogID]engine.Offset{logA: 41, empty: 1} {
		if err := e.Trim(t.Context(), log, before); err != nil {
			t.Fatal(err)
		}
	}
	closeEngine(t, e)
	return fs
}

func contents(t *testing.T, fs vfs.FS) string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var all strings.Builder
	for _, name := range names {
		f, err := fs.Open(fs.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %x\n", name, content)
	}
	return all.String()
}

func TestACheckOfASoundStoreFindsNothingAndWritesNothing(t *testing.T) {
	fs := sample(t)
	before := contents(t, fs)
	found, tally := checked(t, fs)
	if len(found) > 0 {
		t.Errorf("found %q", found)
	}
	if tally.Logs != 3 || tally.Records != 60+50 || tally.Shards != 1 || tally.Values != 7 || tally.HighestEpoch != 8 || tally.Commit == 0 || tally.Bytes == 0 {
		t.Errorf("looked at %+v", tally)
	}
	if now := contents(t, fs); now != before {
		t.Errorf("the check changed the store's files: %s\n\n%s", before, now)
	}
}

func TestACheckOfAStoreAfterAKillFindsNothing(t *testing.T) {
	fs := vfs.NewCrashableMem()
	e := openOn(t, fs, Options{})
	for i := range 20 {
		appendTo(t, e, logA, fmt.Sprint(i))
	}
	killed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))})
	if found, tally := checked(t, killed); len(found) > 0 || tally.Records != 20 {
		t.Errorf("found %q in %+v", found, tally)
	}
}

func TestACheckNamesWhatIsWrong(t *testing.T) {
	// change alters the value that a key has.
	change := func(key []byte, with func([]byte) []byte) func(*testing.T, *Engine) {
		return func(t *testing.T, e *Engine) {
			value, closer, err := e.db.Get(key)
			if err != nil {
				t.Fatal(err)
			}
			changed := with(bytes.Clone(value))
			_ = closer.Close()
			if err := e.db.Set(key, changed, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte {
			b[(at+len(b))%len(b)] ^= 4
			return b
		}
	}
	remove := func(key []byte) func(*testing.T, *Engine) {
		return func(t *testing.T, e *Engine) {
			if err := e.db.Delete(key, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	// refill is a chunk with another header and a right checksum.
	refill := func(key []byte, with func(*storedChunk)) func(*testing.T, *Engine) {
		return change(key, func(value []byte) []byte {
			c, err := parseChunk(key, value)
			if err != nil {
				t.Fatal(err)
			}
			with(&c)
			out := append(make([]byte, chunkHeaderLen), c.Records...)
			fillChunk(key, out, c.previous, c.Count, c.First, c.TimeMS, c.Taken)
			return out
		})
	}
	for name, tc := range map[string]struct {
		harm func(*testing.T, *Engine)
		want string
	}{
		"chunk flipped":        {change(chunkKey(logB, 20), flip(-1)), "log 1/2/4 at 20: checksum does not match; restore"},
		"chunk missing":        {remove(chunkKey(logB, 20)), "log 1/2/4 at 20: the next chunk begins at 21"},
		"last chunk missing":   {remove(chunkKey(logB, 49)), "log 1/2/4 at 49: the log ends here and was durable up to 50"},
		"first chunk missing":  {remove(chunkKey(logB, 0)), "log 1/2/4 at 0: the next chunk begins at 1"},
		"chunk replaced":       {refill(chunkKey(logB, 20), func(c *storedChunk) { c.TimeMS++ }), "log 1/2/4 at 21: the chunk does not follow the one before"},
		"last chunk replaced":  {refill(chunkKey(logB, 49), func(c *storedChunk) { c.TimeMS++ }), "log 1/2/4 at 50: the chunk before is not the one that was written last"},
		"bytes miscounted":     {refill(chunkKey(logB, 49), func(c *storedChunk) { c.Taken++ }), "log 1/2/4 at 49: the chunk counts"},
		"time goes back":       {refill(chunkKey(logB, 49), func(c *storedChunk) { c.TimeMS = 3 }), "log 1/2/4 at 49: the chunk is of an earlier time"},
		"records miscounted":   {refill(chunkKey(logB, 49), func(c *storedChunk) { c.Records = append(c.Records, records("x")...) }), "log 1/2/4 at 49: the chunk counts 1 records and 2 can be read"},
		"begin flipped":        {change(logKey(logA), flip(5)), "log 1/2/3 at 0: where the log begins cannot be read: checksum"},
		"begin missing":        {remove(logKey(logA)), "log 1/2/3 at 0: the next chunk begins at 40"},
		"state flipped":        {change(stateKey(owned, []byte("key3")), flip(-1)), "shard billing@1/2 at key 6b657933: value: checksum does not match"},
		"fence flipped":        {change(fenceKey(owned), flip(-1)), "shard billing@1/2: the epoch of its owner: checksum"},
		"commit number":        {change(commitsKey(), flip(-1)), "commit number: checksum does not match"},
		"commit number behind": {change(commitsKey(), func([]byte) []byte { return sealed(commitsKey(), be64(3)) }), "commit number: is 3, was durable up to"},
		"unknown key": {func(t *testing.T, e *Engine) {
			if err := e.db.Set([]byte("zebra"), nil, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}, "store at key 7a65627261: the key is of no kind"},
	} {
		t.Run(name, func(t *testing.T) {
			fs := sample(t)
			e := openOn(t, fs, Options{})
			tc.harm(t, e)
			closeEngine(t, e)
			found, _ := checked(t, fs)
			if !strings.Contains(strings.Join(found, "\n"), tc.want) {
				t.Errorf("found %q, want %q", found, tc.want)
			}
		})
	}
}

// TestACheckSeesEveryFlippedBit: one bit of each file of a store, at many places, is found, or is of no consequence: the store is whole without it.
func TestACheckSeesEveryFlippedBit(t *testing.T) {
	fs := sample(t)
	_, whole := checked(t, fs)
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	flips, found := map[string]int{}, map[string]int{}
	for _, name := range names {
		kind := strings.TrimRight(strings.Split(name, "-")[0], "0123456789.")
		if i := strings.LastIndexByte(name, '.'); i > 0 {
			kind = name[i:]
		}
		size := 0
		only := func(n string) bool { return n == name }
		rewrite(t, fs, only, func(b []byte) []byte { size = len(b); return b })
		for at := 0; at < size; at += max(1, size/11) {
			turn := func(b []byte) []byte { b[at] ^= 1 << (at % 8); return b }
			rewrite(t, fs, only, turn)
			flips[kind]++
			lines, tally, refused := tryCheck(t, fs)
			switch {
			case len(lines) > 0 || refused != nil:
				found[kind]++
			case tally != whole:
				t.Errorf("a flipped bit of %s at %d of %d: nothing was found in %+v, which was %+v", name, at, size, tally, whole)
			}
			rewrite(t, fs, only, turn)
		}
	}
	for kind, n := range flips {
		t.Logf("%-10s %4d flipped, %4d found", kind, n, found[kind])
	}
	if found[".sst"] == 0 || found[".log"] == 0 || found[marksFile] == 0 || found["MANIFEST"] == 0 {
		t.Errorf("of some kinds of file nothing was found: %v", found)
	}
	if lines, _ := checked(t, fs); len(lines) > 0 {
		t.Errorf("in the end: %q", lines)
	}
}

// tryCheck is checked with the store's refusal to be opened as an outcome.
func tryCheck(t *testing.T, fs vfs.FS) (found []string, tally Tally, refused error) {
	t.Helper()
	o, err := OpenOffline(dir, Options{FS: fs})
	if err != nil {
		return nil, tally, err
	}
	tally, err = o.Check(t.Context(), func(f engine.Finding) { found = append(found, f.String()) }, func(int64) {})
	return found, tally, errors.Join(err, o.Close())
}

func TestOfflineRefuses(t *testing.T) {
	fs := sample(t)
	e := openOn(t, fs, Options{})
	if _, err := OpenOffline(dir, Options{FS: fs}); !errors.Is(err, ErrLocked) {
		t.Errorf("a store in use: %v", err)
	}
	closeEngine(t, e)
	if _, err := OpenOffline("nowhere", Options{FS: fs}); err == nil {
		t.Error("a directory that does not exist was opened")
	}
	if err := fs.MkdirAll("empty", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOffline("empty", Options{FS: fs}); !errors.Is(err, ErrNotAStore) {
		t.Errorf("an empty directory: %v", err)
	}
	rewrite(t, fs, func(n string) bool { return n == formatFile }, func([]byte) []byte { return []byte("typedmq engine 999\n") })
	if _, err := OpenOffline(dir, Options{FS: fs}); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("a newer format: %v", err)
	}
}

func TestEveryEpochBelowTheFloorIsRefused(t *testing.T) {
	fs := sample(t)
	e := openOn(t, fs, Options{})
	if got, err := e.HighestEpoch(t.Context()); got != 8 || err != nil {
		t.Errorf("highest epoch %d, %v", got, err)
	}
	other := fenceKey(engine.ShardID{Group: "damaged"})
	if err := e.db.Set(other, []byte("garbage"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if got, err := e.HighestEpoch(t.Context()); got != 8 || err != nil {
		t.Errorf("highest epoch beside a damaged claim %d, %v", got, err)
	}
	if err := e.db.Delete(other, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := e.FenceAll(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if err := e.FenceAll(t.Context(), 50); err != nil { // does not lower it
		t.Fatal(err)
	}
	for range 2 {
		for _, id := range []engine.ShardID{owned, {Group: "never claimed", Topic: 3}} {
			if _, err := e.Fence(t.Context(), id, 99); !errors.Is(err, engine.ErrFenced) {
				t.Errorf("epoch 99 of %v: %v", id, err)
			}
		}
		closeEngine(t, e)
		e = openOn(t, fs, Options{})
	}
	if _, err := e.Fence(t.Context(), owned, 101); err != nil {
		t.Error(err)
	}
	closeEngine(t, e)
	if found, _ := checked(t, fs); len(found) > 0 {
		t.Errorf("found %q", found)
	}
}
