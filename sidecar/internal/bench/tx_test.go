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
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	txMessages   = 10
	txPartitions = 5
)

// BenchmarkTx commits transactions of 10 messages over 5 partitions, and publishes 10 messages over the same partitions at once, in turns: "ratio" is the median, over the
// turns, of the one time by the other, "publish-µs" and "tx-µs" what one of each takes.
func BenchmarkTx(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchmarkTx(b, callers) })
	}
}

func benchmarkTx(b *testing.B, callers int) {
	s := open(b, b.TempDir())
	defer s.close()
	s.declare()
	rng := rand.New(rand.NewPCG(1, 2))
	var id atomic.Uint64
	publish := func(records []byte) error {
		placed, err := s.Publish(context.Background(), []broker.Batch{{Topic: "plain", Records: records}})
		if err == nil && placed[0].Refused != nil {
			err = placed[0].Refused
		}
		return err
	}
	commit := func(records []byte) error {
		n := binary.BigEndian.AppendUint64([]byte("transact"), id.Add(1))
		_, err := s.Commit(context.Background(), broker.Transaction{ID: n, Publishes: []broker.Batch{{Topic: "plain", Records: records}}})
		return err
	}
	each := 100 * callers
	var ratios, tx, plain []float64
	for b.Loop() {
		sets := make([][]byte, each)
		for i := range sets {
			sets[i] = overPartitions(rng)
		}
		var times [2]float64
		for i := range times {
			i = (i + len(ratios)) % 2
			runtime.GC()
			began := time.Now()
			parallel(b, callers, sets, []func([]byte) error{publish, commit}[i])
			times[i] = time.Since(began).Seconds()
		}
		ratios, plain, tx = append(ratios, times[1]/times[0]), append(plain, times[0]), append(tx, times[1])
	}
	took := func(all []float64) float64 { return median(all) / float64(each) * float64(callers) * 1e6 }
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(took(plain), "publish-µs")
	b.ReportMetric(took(tx), "tx-µs")
	b.ReportMetric(0, "ns/op")
}

// parallel does something with each set, from so many callers.
func parallel(b *testing.B, callers int, sets [][]byte, do func([]byte) error) {
	b.Helper()
	next := make(chan []byte, len(sets))
	for _, s := range sets {
		next <- s
	}
	close(next)
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for records := range next {
				if err := do(records); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
}

// overPartitions is records whose keys are of txPartitions of 16 partitions.
func overPartitions(rng *rand.Rand) (records []byte) {
	count := map[uint32]int{}
	for n := 0; n < txMessages; {
		key := fmt.Sprintf("key%05d", rng.IntN(50_000))
		p := broker.PartitionOf([]byte(key), 16)
		if count[p] == txMessages/txPartitions || count[p] == 0 && len(count) == txPartitions {
			continue
		}
		count[p]++
		n++
		payload := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
		body := make([]byte, recordSize-60)
		for i := 0; i+8 <= len(body); i += 8 {
			binary.BigEndian.PutUint64(body[i:], rng.Uint64())
		}
		payload = protowire.AppendBytes(protowire.AppendTag(payload, 2, protowire.BytesType), body)
		records = engine.AppendRecord(records, broker.NewRecord([]byte(key), payload, nil, ""))
	}
	return records
}
