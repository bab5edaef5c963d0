//go:build measure

package pebbleengine

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// written is what the process has had the system write to disks, in bytes, from /proc.
func written(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	t.Skip("no write_bytes")
	return 0
}

func size(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// TestMeasureAmplification prints how many bytes the engine writes for each byte of payload, in messages of 256 bytes that do not compress: published in frames,
// settled a moment later, and deleted at once (a queue), when the next are there (a backlog), or when a retention is over (a topic).
func TestMeasureAmplification(t *testing.T) {
	const frame, partitions, payload = 256, 16, 256
	for _, kind := range []struct {
		name   string
		keep   int // frames of each partition that are kept
		frames int
	}{{"queue without backlog", 1, 16_000}, {"queue with a backlog of 1 M", 250, 16_000}, {"topic that keeps 2 M", 500, 16_000}} {
		t.Run(kind.name, func(t *testing.T) {
			dir := t.TempDir()
			e, err := Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			rng := rand.NewChaCha8([32]byte{1})
			record := make([]byte, payload)
			shards := make([]engine.Shard, partitions)
			for p := range shards {
				if shards[p], err = e.Fence(t.Context(), engine.ShardID{Group: "g", Topic: 1, Partition: uint32(p)}, 1); err != nil {
					t.Fatal(err)
				}
			}
			began, before := time.Now(), written(t)
			set := make([]byte, 0, frame*(payload+3))
			for i := range kind.frames {
				p := uint32(i % partitions)
				log := engine.LogID{Topic: 1, Partition: p}
				set = set[:0]
				for range frame {
					_, _ = rng.Read(record)
					set = engine.AppendRecord(set, record)
				}
				if _, err := e.Append(t.Context(), []engine.Append{{Log: log, Records: set, Count: frame, TimeMS: int64(i)}}); err != nil {
					t.Fatal(err)
				}
				n := i / partitions // of the partition
				if n%4 == 3 {
					_, err := shards[p].Commit(t.Context(), engine.Batch{Writes: []engine.Write{{Key: []byte("head"), Value: []byte(fmt.Sprint(n))}}})
					if err != nil {
						t.Fatal(err)
					}
				}
				if n%4 == 3 && n >= kind.keep {
					if err := e.Trim(t.Context(), log, engine.Offset((n-kind.keep)*frame)); err != nil {
						t.Fatal(err)
					}
				}
			}
			took := time.Since(began)
			m := e.db.Metrics()
			total := m.Total()
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			all := int64(kind.frames) * frame * payload
			x := func(n uint64) float64 { return float64(n) / float64(all) }
			t.Logf("%d messages of %d bytes in %v: written %.2f (write-ahead log %.2f, values %.2f, tables %.2f), on disk %d MiB",
				kind.frames*frame, payload, took.Round(time.Millisecond), float64(written(t)-before)/float64(all), x(m.WAL.BytesWritten),
				x(total.BlobBytesFlushed+total.BlobBytesCompacted), x(total.TableBytesFlushed-m.WAL.BytesWritten+total.TableBytesCompacted), size(dir)>>20)
		})
	}
}

// TestMeasureFetch prints what a fetch costs on an empty store, and when millions of messages were published, settled and trimmed: each round appends one
// message, reads it, saves a position, and trims, as a queue does.
func TestMeasureFetch(t *testing.T) {
	const payload, partitions = 256, 16
	e, err := Open(t.TempDir(), Options{FS: unsynced{vfs.Default}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	one, frame := records(strings.Repeat("x", payload)), []byte(nil)
	for range 1000 {
		frame = engine.AppendRecord(frame, one[3:])
	}
	shards := make([]engine.Shard, partitions)
	for p := range shards {
		if shards[p], err = e.Fence(t.Context(), engine.ShardID{Group: "g", Topic: 1, Partition: uint32(p)}, 1); err != nil {
			t.Fatal(err)
		}
	}
	rounds := func() (cpu, read time.Duration) {
		const n = 2000
		begun := used(t)
		for i := range n {
			p := uint32(i % partitions)
			log := engine.LogID{Topic: 1, Partition: p}
			firsts, err := e.Append(t.Context(), []engine.Append{{Log: log, Records: one, Count: 1, TimeMS: 1}})
			if err != nil {
				t.Fatal(err)
			}
			reading := time.Now()
			if chunks, err := e.Read(t.Context(), log, firsts[0], 256<<10); err != nil || len(chunks) != 1 {
				t.Fatal(chunks, err)
			}
			read += time.Since(reading)
			if _, err := shards[p].Commit(t.Context(), engine.Batch{Writes: []engine.Write{{Key: []byte("head"), Value: []byte(fmt.Sprint(i))}}}); err != nil {
				t.Fatal(err)
			}
			if err := e.Trim(t.Context(), log, firsts[0]+1); err != nil {
				t.Fatal(err)
			}
		}
		return (used(t) - begun) / n, read / n
	}
	tell := func(what string) {
		for range 3 {
			cpu, read := rounds()
			m := e.db.Metrics()
			t.Logf("%s: %v of processor time a round, %v a read; %d tables, %d files of values", what, cpu, read, m.Total().TablesCount, m.BlobFiles.LiveCount)
		}
	}
	tell("empty")
	for i := range 10_000 {
		p := uint32(i % partitions)
		log := engine.LogID{Topic: 1, Partition: p}
		firsts, err := e.Append(t.Context(), []engine.Append{{Log: log, Records: frame, Count: 1000, TimeMS: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := shards[p].Commit(t.Context(), engine.Batch{Writes: []engine.Write{{Key: []byte("head"), Value: []byte(fmt.Sprint(i))}}}); err != nil {
			t.Fatal(err)
		}
		if i >= 2000 { // a backlog of 2 M meanwhile
			if err := e.Trim(t.Context(), log, max(0, firsts[0]-125_000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for p := range uint32(partitions) {
		log := engine.LogID{Topic: 1, Partition: p}
		b, err := e.Bounds(t.Context(), log)
		if err != nil {
			t.Fatal(err)
		}
		for at := b.Begin; at < b.End; at += 1000 {
			if err := e.Trim(t.Context(), log, at+1000); err != nil {
				t.Fatal(err)
			}
		}
	}
	tell("10 M settled")
	time.Sleep(trimsFreeWithin + 2*time.Second)
	tell("a moment later")
}

// used is the processor time that the process has used.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// unsynced is a file system that does not sync: what is measured on it is the processor's time.
type unsynced struct{ vfs.FS }

func (f unsynced) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return unsyncedFile{file}, err
}

func (f unsynced) ReuseForWrite(from, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, name, c)
	return unsyncedFile{file}, err
}

type unsyncedFile struct{ vfs.File }

func (f unsyncedFile) Sync() error                { return nil }
func (f unsyncedFile) SyncData() error            { return nil }
func (f unsyncedFile) SyncTo(int64) (bool, error) { return false, nil }
