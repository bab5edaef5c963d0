package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

const txMessages = 10

// BenchmarkTx commits transactions of 10 messages of 256 bytes over 5 partitions, and publishes 10 messages over the same partitions in one call, in turns. "ratio" is
// the median, over the turns, of the one time by the other.
func BenchmarkTx(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchmarkTx(b, callers) })
	}
}

func benchmarkTx(b *testing.B, callers int) {
	client := serve(b)
	ctx := context.Background()
	payload := body(200)
	sample := func() *benchv1.Sample {
		return &benchv1.Sample{Key: fmt.Sprintf("key%09d", rand.IntN(1_000_000_000)), Body: payload}
	}
	plain := benchv1mq.NewLoadPlain(client)
	publish := func() error {
		messages := make([]*benchv1.Sample, txMessages)
		for i := range messages {
			messages[i] = sample()
		}
		for _, r := range plain.PublishBatch(ctx, messages) {
			if r.Err != nil {
				return r.Err
			}
		}
		return nil
	}
	commit := func() error {
		return client.Tx(ctx, func(tx *mq.Tx) error {
			load := benchv1mq.NewLoadPublisher(tx)
			for range txMessages {
				if _, err := load.Plain(ctx, sample()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	each := 200 * callers
	together(b, callers, each/4, publish)
	together(b, callers, each/4, commit)
	var ratios, publishes, commits []float64
	for b.Loop() {
		var times [2]float64
		for i := range times {
			i = (i + len(ratios)) % 2
			times[i] = together(b, callers, each, []func() error{publish, commit}[i]).Seconds()
		}
		ratios = append(ratios, times[1]/times[0])
		publishes, commits = append(publishes, times[0]), append(commits, times[1])
	}
	took := func(all []float64) float64 { return median(all) / float64(each) * float64(callers) * 1e6 }
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(took(publishes), "publish-µs")
	b.ReportMetric(took(commits), "tx-µs")
	b.ReportMetric(0, "ns/op")
}
