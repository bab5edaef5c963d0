package dispatch

import (
	"testing"
	"time"
)

// BenchmarkLeaseAck measures one message through fetch, lease and ack, 1 M messages at a time, in batches of 256.
func BenchmarkLeaseAck(b *testing.B) {
	for _, c := range []struct {
		name string
		ord  Ordering
		keys uint64
	}{{"unordered", Unordered, 0}, {"per_key_10k", PerKey, 10_000}, {"per_key_1M", PerKey, 1_000_000}} {
		b.Run(c.name, func(b *testing.B) {
			p := New(Config{
				Epoch: 1, Ordering: c.ord, Lookahead: 1024, MaxUnsettled: 1 << 20,
				Policy: Policy{Retry: Retry{MaxAttempts: 8, Initial: time.Second, Max: time.Minute, Coefficient: 2}},
			}, Snapshot{}, 0)
			_ = p.Step(0, Join{Session: 1})
			msgs := make([]Message, 256)
			f, g, a := &Fetched{}, &Grant{Session: 1}, &Ack{}
			var at Offset
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(msgs) {
				for j := range msgs {
					msgs[j] = Message{Offset: at}
					if c.keys > 0 {
						msgs[j].Key = 1 + mix(uint64(at))%c.keys
					}
					at++
				}
				_ = p.Step(0, Grown{End: at})
				f.Messages, f.Next = msgs, at
				_ = p.Step(0, f)
				for p.Stats().Ready+p.Stats().Leased > 0 {
					g.Messages, g.Used = 256, 0
					_ = p.Step(0, g)
					r := p.Ready(false)
					a.Tokens = a.Tokens[:0]
					for _, d := range r.Deliver {
						a.Tokens = append(a.Tokens, Token{Epoch: 1, Offset: d.Offset, Lease: d.Lease})
					}
					_ = p.Step(0, a)
					p.Ready(false)
				}
			}
			if p.Position() != at {
				b.Fatalf("position %d of %d", p.Position(), at)
			}
		})
	}
}

// BenchmarkBacklog measures lease and ack of a message with 1 M messages of 10,000 keys known to the machine.
func BenchmarkBacklog(b *testing.B) {
	const size = 1 << 20
	for b.Loop() {
		b.StopTimer()
		p := New(Config{
			Epoch: 1, Lookahead: size, MaxUnsettled: size, Policy: Policy{Retry: Retry{MaxAttempts: 8, Initial: time.Second, Max: time.Minute, Coefficient: 2}},
		}, Snapshot{}, 0)
		_ = p.Step(0, Join{Session: 1})
		msgs := make([]Message, size)
		for i := range msgs {
			msgs[i] = Message{Offset: Offset(i), Key: 1 + mix(uint64(i))%10_000}
		}
		_ = p.Step(0, &Fetched{Messages: msgs, Next: size})
		b.StartTimer()
		g, a := &Grant{Session: 1}, &Ack{}
		for p.Position() < size {
			g.Messages, g.Used = 256, 0
			_ = p.Step(0, g)
			r := p.Ready(false)
			a.Tokens = a.Tokens[:0]
			for _, d := range r.Deliver {
				a.Tokens = append(a.Tokens, Token{Epoch: 1, Offset: d.Offset, Lease: d.Lease})
			}
			_ = p.Step(0, a)
			p.Ready(false)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/size, "ns/message")
}
