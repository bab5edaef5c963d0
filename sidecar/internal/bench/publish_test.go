package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// BenchmarkPublish publishes records of 256 bytes over 16 partitions, in frames of so many, with a sync before each answer. "cpu-ns/msg" is the processor time of the whole process for
// each, flushes and compactions of the store included. Numbered batches are what clients send: each caller is a producer, which tells with each frame that it has all answers before.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct{ frame, callers int }{{1, 64}, {16, 32}, {256, 8}, {2048, 8}} {
		for _, numbered := range []bool{false, true} {
			b.Run(fmt.Sprintf("frame=%d/numbered=%v", c.frame, numbered), func(b *testing.B) { benchmarkPublish(b, c.frame, c.callers, numbered) })
		}
	}
}

func benchmarkPublish(b *testing.B, frame, callers int, numbered bool) {
	s := open(b, b.TempDir())
	defer s.close()
	s.declare()
	g := generator{rng: rand.New(rand.NewPCG(1, 2))}
	frames := g.frames(max(8, 4096/frame), frame)
	var taken atomic.Int64
	run := func(n int64) {
		taken.Store(0)
		var work sync.WaitGroup
		for c := range callers {
			work.Go(func() {
				var from broker.Producer
				binary.BigEndian.PutUint64(from.ID[:], uint64(c)+uint64(n)<<32)
				for number := uint64(1); ; number++ {
					i := taken.Add(1)
					if i > n {
						return
					}
					batch := broker.Batch{Topic: "plain", Records: frames[i%int64(len(frames))]}
					if numbered {
						batch.Number, from.AnsweredBelow = number, number
					}
					placed, err := s.PublishAs(context.Background(), from, []broker.Batch{batch})
					if err != nil || placed[0].Refused != nil {
						b.Error(err, placed)
						return
					}
				}
			})
		}
		work.Wait()
	}
	run(int64(max(1, 64_000/frame))) // memtables and buffers are there
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	used := cpuTime()
	b.ResetTimer()
	run(int64(b.N))
	b.StopTimer()
	cpu := cpuTime() - used
	runtime.ReadMemStats(&after)
	messages := float64(b.N * frame)
	b.ReportMetric(float64(cpu.Nanoseconds())/messages, "cpu-ns/msg")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/messages, "B/msg")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/messages, "allocs/msg")
	b.ReportMetric(messages/b.Elapsed().Seconds(), "msgs/s")
	b.ReportMetric(float64(after.NumGC-before.NumGC), "GCs")
}
