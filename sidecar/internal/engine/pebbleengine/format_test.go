package pebbleengine

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// The bytes that docs/formats/pebble.md explains. A difference here is a change of format: raise formatNumber, or find out why.
func TestTheStoredFormIsStable(t *testing.T) {
	fs := vfs.NewMem()
	e := openOn(t, fs, Options{})
	s, err := e.Fence(t.Context(), owned, 5)
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, e, logA, "a")
	appendTo(t, e, logA, "bc", "d")
	if err := e.Trim(t.Context(), logA, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), engine.Batch{
		Writes:  []engine.Write{{Key: []byte("key"), Value: []byte("value")}, {Key: []byte("gone"), Delete: true}},
		Appends: []engine.Append{{Log: logB, Records: records("e"), Count: 1, TimeMS: 2_000}},
	}); err != nil {
		t.Fatal(err)
	}
	it, err := e.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for ok := it.First(); ok; ok = it.Next() {
		fmt.Fprintf(&got, "%c%s %s\n", it.Key()[0], hex.EncodeToString(it.Key()[1:]), hex.EncodeToString(it.Value()))
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	closeEngine(t, e)
	for _, name := range []string{formatFile, marksFile} {
		f, err := fs.Open(fs.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%s %s\n", name, hex.EncodeToString(content))
	}
	want, err := os.ReadFile("testdata/format.golden")
	if err != nil || got.String() != string(want) {
		t.Errorf("the store holds\n%s\nwant\n%s\n%v", got.String(), want, err)
	}
}

func TestKeysSortAsTheirOffsets(t *testing.T) {
	last := ""
	for _, log := range []engine.LogID{{}, {Lane: 255}, {Partition: 1}, {Partition: 1 << 31}, {Topic: 1}, {Topic: 1<<32 - 1, Partition: 1<<32 - 1, Lane: 255}} {
		for _, offset := range []engine.Offset{0, 1, 255, 256, 1 << 32, 1<<63 - 1} {
			key := string(chunkKey(log, offset))
			if key <= last || lastOfKey([]byte(key)) != offset {
				t.Errorf("key of %v at %d is %x, after %x", log, offset, key, last)
			}
			last = key
		}
	}
}

func TestAfterIsTheNextPrefix(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "a\xff\xff": "b", "ab": "ac"} {
		if got := string(after([]byte(prefix))); got != want {
			t.Errorf("after %q comes %q, want %q", prefix, got, want)
		}
	}
	if got := after([]byte("\xff\xff")); got != nil {
		t.Errorf("after the greatest comes %q", got)
	}
}

// TestAStoreOfFormat1IsServed: its chunks weigh nothing, and it cannot be opened by what wrote it once this version has had it. The bytes are those of
// format.golden as format 1 had it.
func TestAStoreOfFormat1IsServed(t *testing.T) {
	fs := vfs.NewMem()
	closeEngine(t, openOn(t, fs, Options{}))
	e := openOn(t, fs, Options{})
	for key, value := range map[string]string{
		"63000000010000000203" + "0000000000000002": "011dfae5bf8fdc1d4900000002000000000000000100000000000003e80a0262630a0164",
		"6c000000010000000203":                      "836fd53e000000000000000100000000",
	} {
		k, kerr := hex.DecodeString(key)
		v, verr := hex.DecodeString(value)
		if kerr != nil || verr != nil {
			t.Fatal(kerr, verr)
		}
		set(t, e, k, v)
	}
	closeEngine(t, e)
	old := func([]byte) []byte { return []byte("typedmq engine 1\n") }
	rewrite(t, fs, func(name string) bool { return name == formatFile }, old)
	e = openOn(t, fs, Options{})
	if b, err := e.Bounds(t.Context(), logA); err != nil || b != (engine.Bounds{Begin: 1, End: 3}) {
		t.Fatalf("bounds %+v, %v", b, err)
	}
	appendTo(t, e, logA, "new")
	chunks, err := e.Read(t.Context(), logA, 0, 1<<20)
	if err != nil || len(chunks) != 2 || string(chunks[0].Records) != string(records("bc", "d")) || string(chunks[1].Records) != string(records("new")) {
		t.Fatalf("read %+v, %v", chunks, err)
	}
	if b, err := e.Bounds(t.Context(), logA); err != nil || b != (engine.Bounds{Begin: 1, End: 4, Bytes: int64(len(records("new")))}) {
		t.Errorf("bounds %+v, %v", b, err)
	}
	closeEngine(t, e)
	f, err := fs.Open(fs.PathJoin(dir, formatFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); string(text) != "typedmq engine 2\n" || err != nil {
		t.Errorf("the format file holds %q, %v", text, err)
	}
}

func TestEveryBitOfAChunkIsChecked(t *testing.T) {
	key, value := chunkKey(logA, 7), append(make([]byte, chunkHeaderLen), records("abc", "d")...)
	fillChunk(key, value, 99, 2, 6, 1_000, 70)
	c, err := parseChunk(key, value)
	if err != nil || c.First != 6 || c.Count != 2 || c.TimeMS != 1_000 || c.previous != 99 || c.Taken != 70 || c.total != 70+int64(len(records("abc", "d"))) {
		t.Fatalf("a sound chunk gives %v, %v", c, err)
	}
	for bit := range 8 * len(value) {
		value[bit/8] ^= 1 << (bit % 8)
		if _, err := parseChunk(key, value); err == nil {
			t.Errorf("bit %d flipped goes unseen", bit)
		}
		value[bit/8] ^= 1 << (bit % 8)
	}
	for n := range len(value) {
		if _, err := parseChunk(key, value[:n]); err == nil {
			t.Errorf("cut to %d bytes goes unseen", n)
		}
	}
	for bit := range 8 * len(key) {
		key[bit/8] ^= 1 << (bit % 8)
		if _, err := parseChunk(key, value); err == nil {
			t.Errorf("bit %d of the key flipped goes unseen", bit)
		}
		key[bit/8] ^= 1 << (bit % 8)
	}
}
