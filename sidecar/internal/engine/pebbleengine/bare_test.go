package pebbleengine

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// BenchmarkBareChunks is the limit that the engine works against: Pebble alone, with this engine's sizes and formats, to which 8 goroutines write chunks of 256 records
// of 290 bytes (a body of 256, a key, and what the encoding adds), each durable before the next. mqbench runs it beside what it measures.
func BenchmarkBareChunks(b *testing.B) {
	const records, size, writers = 256, 290, 8
	options := &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: mute{}, MemTableSize: 16 << 20}
	options.Experimental.ValueSeparationPolicy = separation
	db, err := pebble.Open(b.TempDir(), options)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	// Bodies do not compress, as messages would not be helped by it.
	chunk := make([]byte, records*size)
	for i := range chunk {
		chunk[i] = byte(rand.Uint32())
	}
	var next atomic.Int64
	var work sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	began := processor(b)
	for range writers {
		work.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				key := binary.BigEndian.AppendUint64([]byte("log/"), uint64(i%16)<<48|uint64(i))
				batch := db.NewBatch()
				if err := batch.Set(key, chunk, nil); err != nil {
					b.Error(err)
				}
				if err := batch.Commit(pebble.Sync); err != nil {
					b.Error(err)
				}
				_ = batch.Close()
			}
		})
	}
	work.Wait()
	n := float64(b.N) * records
	b.ReportMetric(n/b.Elapsed().Seconds(), "msgs/s")
	b.ReportMetric(float64((processor(b)-began).Nanoseconds())/n, "cpu-ns/msg")
}

// processor is the processor time of this process.
func processor(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type mute struct{}

func (mute) Infof(string, ...any)              {}
func (mute) Errorf(string, ...any)             {}
func (mute) Fatalf(format string, args ...any) { panic(format) }
