package broker_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"testing"
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
)

// forgetful is an engine that says that it stored what it was given.
type forgetful struct{ engine.Engine }

func (forgetful) Append(_ context.Context, appends []engine.Append) ([]engine.Offset, error) {
	return make([]engine.Offset, len(appends)), nil
}

// openAt opens a broker on an engine, by a clock.
func openAt(tb testing.TB, e engine.Engine, c cluster.Cluster, clock broker.Clock) *broker.Broker {
	tb.Helper()
	b, err := broker.New(context.Background(), broker.Options{
		Engine: e, Cluster: c, Clock: clock, Logger: slog.New(slog.DiscardHandler), Limits: broker.DefaultLimits(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// declareFlights registers the topics of the example, without a consumer.
func declareFlights(tb testing.TB, b *broker.Broker) {
	tb.Helper()
	if _, err := b.Declare(context.Background(), broker.Declaration{
		Descriptors: (&world{}).files(nil), Topics: []string{"air.flights.v1.FlightDeparted", "air.flights.v1.BagsChecked"},
	}); err != nil {
		tb.Fatal(err)
	}
}

// flightRecord is a record of size bytes, most of which do not compress well.
func flightRecord(size int, key string) []byte {
	payload := append([]byte{0x0a, 3}, key[:3]...) // field 1: a string
	payload = append(payload, 0x12, 3)             // field 2, the key
	payload = append(payload, key[:3]...)
	filler := make([]byte, size)
	rand.Read(filler)
	note := hex.EncodeToString(filler)[:size-len(payload)-len(key)-16]
	return broker.NewRecord([]byte(key), payload, []topic.HeaderValue{{Name: "note", Value: note}}, "")
}

// BenchmarkPublish is what the broker itself costs per record of 256 bytes: an engine that stores nothing is below it.
func BenchmarkPublish(b *testing.B) {
	const frame = 256
	w := openAt(b, forgetful{memengine.New()}, memcluster.New().Join(time.Hour, nil), wall{})
	declareFlights(b, w)
	defer w.Close(context.Background())
	var records []byte
	for i := range frame {
		records = engine.AppendRecord(records, flightRecord(256, "key"+string(rune('a'+i%16))))
	}
	b.ReportAllocs()
	for b.Loop() {
		placed, err := w.Publish(context.Background(), []broker.Batch{{Topic: departed, Records: records}})
		if err != nil || placed[0].Refused != nil {
			b.Fatal(err, placed)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*frame), "ns/record")
}
