package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

const (
	windowIDs  = 1_000_000 // that the window knows when it is measured
	turn       = 131_072   // messages
	batch      = 256
	publishers = 8
)

// BenchmarkDedupe publishes messages of 256 bytes with unique ids to a topic with a dedupe window of 10 minutes that knows a million ids already, and the same to a topic
// without, on a sidecar that is as full, in turns. "ratio" is the median, over the turns, of the one time by the other.
func BenchmarkDedupe(b *testing.B) {
	var id atomic.Uint64
	ctx := context.Background()
	payload := body(200)
	name := func() string { return fmt.Sprintf("id-%d", id.Add(1)) }
	plain, deduped := benchv1mq.NewLoadPlain(serve(b)), benchv1mq.NewLoadDeduped(serve(b))
	check := func(results []mq.Result) error {
		for _, r := range results {
			if r.Err != nil || r.Receipt.Duplicate {
				return fmt.Errorf("%v: %w", r.Receipt, r.Err)
			}
		}
		return nil
	}
	// An id of its own for each message: one call for each, all waiting at once.
	ways := []func() error{
		func() error {
			pending := make([]*mq.Pending, batch)
			for i := range pending {
				n := name()
				pending[i] = plain.PublishAsync(ctx, &benchv1.Sample{Key: n, Body: payload}, mq.WithID(n))
			}
			return check(wait(ctx, pending))
		},
		func() error {
			pending := make([]*mq.Pending, batch)
			for i := range pending {
				n := name()
				pending[i] = deduped.PublishAsync(ctx, &benchv1.Once{Key: n, Body: payload}, mq.WithID(n))
			}
			return check(wait(ctx, pending))
		},
	}
	for _, way := range ways {
		together(b, publishers, windowIDs/batch, way)
	}
	var ratios []float64
	var rates [2][]float64
	for b.Loop() {
		var times [2]float64
		for i := range times {
			i = (i + len(ratios)) % 2
			times[i] = together(b, publishers, turn/batch, ways[i]).Seconds()
			rates[i] = append(rates[i], turn/times[i])
		}
		ratios = append(ratios, times[1]/times[0])
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(rates[0]), "plain-msgs/s")
	b.ReportMetric(median(rates[1]), "dedupe-msgs/s")
	b.ReportMetric(0, "ns/op")
}

func wait(ctx context.Context, pending []*mq.Pending) []mq.Result {
	out := make([]mq.Result, len(pending))
	for i, p := range pending {
		out[i].Receipt, out[i].Err = p.Wait(ctx)
	}
	return out
}
