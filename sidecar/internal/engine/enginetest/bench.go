package enginetest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Bench measures appends of 256-byte records in frames of 256, and commits as an owner makes them: a few small values each. It reports
// records/s and commits/s.
func Bench(b *testing.B, open func(b *testing.B) engine.Engine) {
	const frame = 256
	records := make([]byte, 0, frame*260)
	for i := range frame {
		record := make([]byte, 256)
		for j := range record {
			record[j] = byte(i*31 + j*j) // not all alike, so that compression has something to do
		}
		records = engine.AppendRecord(records, record)
	}
	for _, writers := range []int{1, 8} {
		b.Run(fmt.Sprintf("append/writers=%d", writers), func(b *testing.B) {
			e := open(b)
			defer e.Close()
			share(b, writers, func(w int) error {
				_, err := e.Append(b.Context(), []engine.Append{{
					Log: engine.LogID{Topic: 1, Partition: uint32(w)}, Records: records, Count: frame, TimeMS: 1,
				}})
				return err
			})
			b.SetBytes(int64(len(records)))
			b.ReportMetric(float64(b.N*frame)/b.Elapsed().Seconds(), "records/s")
		})
	}
	for _, writers := range []int{1, 8} {
		b.Run(fmt.Sprintf("commit/writers=%d", writers), func(b *testing.B) {
			e := open(b)
			defer e.Close()
			shards := make([]engine.Shard, writers)
			for w := range shards {
				var err error
				if shards[w], err = e.Fence(b.Context(), engine.ShardID{Group: "g", Topic: 1, Partition: uint32(w)}, 1); err != nil {
					b.Fatal(err)
				}
			}
			share(b, writers, func(w int) error {
				_, err := shards[w].Commit(b.Context(), engine.Batch{Writes: []engine.Write{
					put("head", "0123456789abcdef"), put("block/00000001", string(make([]byte, 128))),
				}})
				return err
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// share does b.N calls of step, shared out between writers.
func share(b *testing.B, writers int, step func(w int) error) {
	b.ResetTimer()
	var all sync.WaitGroup
	for w := range writers {
		n := b.N / writers
		if w < b.N%writers {
			n++
		}
		all.Go(func() {
			for range n {
				if err := step(w); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
}
