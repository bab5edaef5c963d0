package sqltest

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
	"github.com/typedmq/typedmq/sidecar/mqtest"
)

func benchOnEach(b *testing.B, bench func(b *testing.B, db *database)) {
	b.Run("SQLite", func(b *testing.B) { bench(b, newSQLite(b)) })
	b.Run("PostgreSQL", func(b *testing.B) { bench(b, newPostgres(b)) })
}

// fill writes messages of that many keys in one transaction.
func fill(b *testing.B, db *database, o *mqsql.Outbox, n, keys int) {
	b.Helper()
	db.tx(b, func(ctx context.Context, tx *sql.Tx) error {
		pub := flightsv1mq.NewFlightEventsPublisher(o.On(tx))
		for i := range n {
			msg := &flightsv1.FlightDeparted{FlightId: fmt.Sprint(i), Origin: fmt.Sprint("A", i%keys), Destination: "LAX"}
			if _, err := pub.Departed(ctx, msg); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkOutbox is one message in a transaction of its own, written.
func BenchmarkOutbox(b *testing.B) {
	benchOnEach(b, func(b *testing.B, db *database) {
		o := mqsql.NewOutbox(db.DB, db.dialect)
		for b.Loop() {
			fill(b, db, o, 1, 1)
		}
	})
}

// BenchmarkRelay sends messages that are there, to a sidecar that answers after a millisecond, as one does that syncs its disk.
func BenchmarkRelay(b *testing.B) {
	for _, keys := range []int{1000, 1} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			benchOnEach(b, func(b *testing.B, db *database) {
				o := mqsql.NewOutbox(db.DB, db.dialect)
				fill(b, db, o, b.N, keys)
				ctx, cancel := context.WithCancel(b.Context())
				left := make(chan struct{}, b.N)
				b.ResetTimer()
				go func() {
					for range b.N {
						<-left
					}
					cancel()
				}()
				err := o.Relay(senderFunc(func(context.Context, *mq.Publication) (mq.Receipt, error) {
					time.Sleep(time.Millisecond)
					left <- struct{}{}
					return mq.Receipt{}, nil
				})).Run(ctx)
				if err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkRelayToSidecar is the same to a sidecar in memory, which takes many messages of one key together.
func BenchmarkRelayToSidecar(b *testing.B) {
	for _, keys := range []int{1000, 1} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			benchOnEach(b, func(b *testing.B, db *database) {
				o := mqsql.NewOutbox(db.DB, db.dialect)
				fill(b, db, o, b.N, keys)
				relay := o.Relay(mqtest.New(b).Client())
				b.ResetTimer()
				stop := run(b, relay)
				await(b, "all is sent", func() bool { return relay.Counts().Sent == uint64(b.N) })
				stop()
			})
		})
	}
}

// BenchmarkLatency is the time from before a message is written until it is sent, beside many rows that were sent, or that wait behind a parked one.
func BenchmarkLatency(b *testing.B) {
	for _, state := range []string{"alone", "sent", "held"} {
		b.Run(state, func(b *testing.B) {
			benchOnEach(b, func(b *testing.B, db *database) {
				o := mqsql.NewOutbox(db.DB, db.dialect)
				var texts []string
				if state != "alone" {
					fill(b, db, o, 100_000, 1)
					texts = append(texts, "ANALYZE")
				}
				switch state {
				case "sent":
					texts = append(texts, "UPDATE mq_outbox SET state = 3, done_at = 10000000000000")
				case "held":
					texts = append(texts, "UPDATE mq_outbox SET state = 2, error = '' WHERE seq = (SELECT min(seq) FROM mq_outbox)")
				}
				for _, text := range texts {
					if _, err := db.ExecContext(b.Context(), text); err != nil {
						b.Fatal(err)
					}
				}
				got := make(chan struct{}, 1)
				run(b, o.Relay(senderFunc(func(context.Context, *mq.Publication) (mq.Receipt, error) {
					got <- struct{}{}
					return mq.Receipt{}, nil
				})))
				b.ResetTimer()
				for range b.N {
					db.tx(b, func(ctx context.Context, tx *sql.Tx) error {
						_, err := flightsv1mq.NewFlightEventsPublisher(o.On(tx)).Departed(ctx, &flightsv1.FlightDeparted{Origin: "another"})
						return err
					})
					<-got
				}
			})
		})
	}
}
