package pebbleengine

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// FuzzChunk: what is accepted, with its checksum put right, is within its value and its key.
func FuzzChunk(f *testing.F) {
	key, value := chunkKey(logA, 7), append(make([]byte, chunkHeaderLen), records("abc", "d")...)
	fillChunk(key, value, 99, 2, 6, 1_000, 70)
	f.Add(key, value)
	f.Add(chunkKey(logA, 9), value)
	f.Add(key, append([]byte{1}, make([]byte, 40)...))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(value) >= chunkSummed {
			binary.BigEndian.PutUint32(value[chunkSumAt:], checksum(key, value[chunkSummed:])) // or nothing would get past it
		}
		c, err := parseChunk(key, value)
		if err != nil {
			return
		}
		if c.Last() != lastOfKey(key) || c.Count < 1 || len(c.Records) > len(value) || c.total < c.Taken && c.total != 0 {
			t.Errorf("chunk %+v of key %x", c, key)
		}
		for range c.All() { // ends at the first malformed byte
		}
	})
}

// FuzzValues: what a seal covers comes back, and begins of logs are what was written.
func FuzzValues(f *testing.F) {
	f.Add([]byte("key"), sealed([]byte("key"), logBegin{5, 6, 7}.encode()))
	f.Add([]byte("key"), sealed([]byte("key"), be64(5)))
	f.Add([]byte{}, []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if body, err := unsealed(key, value); err == nil && !bytes.Equal(sealed(key, body), value) {
			t.Errorf("%x is read as %x", value, body)
		}
		if l, err := parseLogBegin(value); err == nil && len(value) == 20 && !bytes.Equal(l.encode(), value) {
			t.Errorf("%x is read as %+v", value, l)
		}
		if n, err := parse64(value); err == nil && !bytes.Equal(be64(n), value) {
			t.Errorf("%x is read as %d", value, n)
		}
	})
}

// FuzzMarks: a file of marks never breaks the open, and a mark that is set is read again, whatever was in the file.
func FuzzMarks(f *testing.F) {
	slot := make([]byte, markLen)
	slot[4] = kindChunk
	binary.BigEndian.PutUint32(slot, crc32.Checksum(slot[4:], castagnoli()))
	f.Add(slot)
	f.Add(append(make([]byte, markLen), slot[:20]...))
	f.Fuzz(func(t *testing.T, content []byte) {
		for at := 0; at+markLen <= len(content); at += 2 * markLen { // every other slot gets a checksum that fits
			binary.BigEndian.PutUint32(content[at:], crc32.Checksum(content[at+4:at+markLen], castagnoli()))
		}
		fs := vfs.NewMem()
		file, err := fs.Create("MARKS", vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		open := func() *marks {
			m, err := openMarks(fs, "MARKS", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := open()
		id, want := engine.LogID{Topic: 1, Partition: 2, Lane: 3}, mark{end: 77, sum: 88}
		m.set(id, want)
		m.setCommits(99)
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		m = open()
		if got, ok := m.of(id); !ok || got != want || m.commits() != 99 {
			t.Errorf("set %+v, read %+v, %v, commits %d", want, got, ok, m.commits())
		}
		_ = m.close()
	})
}
