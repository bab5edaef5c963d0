package mq

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/typedmq/typedmq/internal/hook"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

func benchClient(b *testing.B) (*fakeBroker, *Client) {
	b.Helper()
	broker, address := listen(b, "unix", filepath.Join(b.TempDir(), "mq.sock"))
	c, err := Dial(b.Context(), WithAddress("unix://"+address))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return broker, c
}

// benchPublisher returns a publisher of a broker that stores nothing, and takes so long for each frame; and the number of frames that it has had.
func benchPublisher(b *testing.B, sync time.Duration) (*Publisher[*wrapperspb.BytesValue], *atomic.Int64) {
	b.Helper()
	broker, c := benchClient(b)
	frames := new(atomic.Int64)
	broker.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
		frames.Add(1)
		broker.mu.Lock()
		broker.mu.frames = nil
		broker.mu.Unlock()
		answer := &brokerv1.PublishStreamResponse{Sequence: r.GetSequence()}
		for _, batch := range r.GetBatches() {
			n := 0
			for range bytesFields(batch.GetRecords()) {
				n++
			}
			answer.Results = append(answer.Results, &brokerv1.BatchResult{Partitions: make([]uint32, n), Offsets: make([]int64, n)})
		}
		time.Sleep(sync)
		return answer, nil
	}
	var keys [100][]byte
	for i := range keys {
		keys[i] = fmt.Append(nil, "gate ", i)
	}
	var next atomic.Uint32
	p := NewPublisher(c, NewTopic("blobs", func(_ *wrapperspb.BytesValue, r *Record) { r.Key = keys[next.Add(1)%100] }))
	if _, err := p.Publish(b.Context(), wrapperspb.Bytes(nil)); err != nil {
		b.Fatal(err)
	}
	frames.Store(0)
	b.ReportAllocs()
	b.ResetTimer()
	return p, frames
}

func reportFrames(b *testing.B, frames *atomic.Int64) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	b.ReportMetric(float64(b.N)/float64(frames.Load()), "msgs/frame")
}

// BenchmarkPublish publishes messages of 256 bytes from many goroutines over a Unix socket to a broker that stores nothing.
func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			p, frames := benchPublisher(b, 0)
			message := wrapperspb.Bytes(make([]byte, 256))
			b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := p.Publish(context.Background(), message); err != nil {
						b.Error(err)
						return
					}
				}
			})
			reportFrames(b, frames)
		})
	}
}

// BenchmarkPublishAsync publishes messages of 256 bytes from 8 goroutines, each of which waits after 1,024. A message has two allocations, its Pending
// and the id of its receipt; the rest is what frames need, and the broker.
func BenchmarkPublishAsync(b *testing.B) {
	for _, sync := range []time.Duration{0, time.Millisecond} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			p, frames := benchPublisher(b, sync)
			message := wrapperspb.Bytes(make([]byte, 256))
			b.SetParallelism(max(1, 8/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				all := make([]*Pending, 0, 1024)
				for more := true; more; {
					all = all[:0]
					for len(all) < cap(all) {
						if more = pb.Next(); !more {
							break
						}
						all = append(all, p.PublishAsync(context.Background(), message))
					}
					for _, pending := range all {
						if _, err := pending.Wait(context.Background()); err != nil {
							b.Error(err)
							return
						}
					}
				}
			})
			reportFrames(b, frames)
		})
	}
}

// BenchmarkConsume handles and settles messages of 256 bytes over a Unix socket, 256 in flight.
func BenchmarkConsume(b *testing.B) {
	const inFlight = 256
	broker, c := benchClient(b)
	broker.inFlight = inFlight
	freed := make(chan int, 1<<16)
	broker.settle = func(r *brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
		<-broker.settled
		freed <- len(r.GetAcks()) / tokenBytes
		return nil, nil
	}
	w := NewWorker(c)
	s := stringSubscription
	s.Topic, s.RPC = "blobs", "test.Consumer/blobs"
	Handle(w, s, func(context.Context, *wrapperspb.BytesValue) error { return nil })
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	k := <-broker.consumers
	payload, _ := proto.Marshal(wrapperspb.Bytes(make([]byte, 256)))
	record, _ := proto.Marshal(&brokerv1.RecordSet{Records: []*brokerv1.Record{{Key: []byte("SFO"), Payload: payload}}})
	b.ReportAllocs()
	b.ResetTimer()
	credit, sent, settled := inFlight, 0, 0
	for settled < b.N {
		if n := min(credit, b.N-sent); n > 0 {
			slice := &brokerv1.Slice{}
			for range n {
				slice.Offsets = append(slice.Offsets, int64(sent))
				slice.Tokens = append(slice.Tokens, token(int64(sent))...)
				slice.Records = append(slice.Records, record...)
				sent++
			}
			credit -= n
			if err := k.deliverSlice(slice); err != nil {
				b.Fatal(err)
			}
		}
		n := <-freed
		credit += n
		settled += n
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}

// BenchmarkHandle is what the SDK alone does for each message of 256 bytes from a frame in memory to its outcome, with a handler that returns at once, and with one
// that makes a context of its own, as those do that call somebody.
func BenchmarkHandle(b *testing.B) {
	for name, handler := range map[string]func(context.Context, *wrapperspb.BytesValue) error{
		"returns": func(context.Context, *wrapperspb.BytesValue) error { return nil },
		"makes a context": func(ctx context.Context, _ *wrapperspb.BytesValue) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return ctx.Err()
		},
		"asks for the meta": func(ctx context.Context, _ *wrapperspb.BytesValue) error {
			if MetaFrom(ctx).Attempt != 1 {
				return errNack
			}
			return nil
		},
	} {
		b.Run(name, func(b *testing.B) { benchmarkHandle(b, handler) })
	}
}

func benchmarkHandle(b *testing.B, handler func(context.Context, *wrapperspb.BytesValue) error) {
	const inFrame = 1024
	payload, _ := proto.Marshal(wrapperspb.Bytes(make([]byte, 256)))
	record, _ := proto.Marshal(&brokerv1.RecordSet{Records: []*brokerv1.Record{{Key: []byte("SFO"), Payload: payload}}})
	slice := &brokerv1.Slice{}
	for i := range inFrame {
		slice.Offsets = append(slice.Offsets, int64(i))
		slice.Tokens = append(slice.Tokens, token(int64(i))...)
		slice.Records = append(slice.Records, record...)
	}
	w := NewWorker(&Client{log: slog.New(slog.DiscardHandler), hooks: hook.From(b.Context())}, WithConcurrency(64), WithPrefetch(inFrame))
	Handle(w, stringSubscription, handler)
	c := newConsumer(w, w.mu.subscriptions[0], policy{limit: 1 << 14, timeout: defaultTimeout})
	s, interrupt := c.newSession(life{b.Context(), b.Context(), b.Context()})
	defer interrupt(nil)
	c.mu.current = s
	b.ReportAllocs()
	var spare []byte
	for i := 0; i < b.N; i += inFrame {
		if err := s.accept([]*brokerv1.Slice{slice}); err != nil {
			b.Fatal(err)
		}
		for left := inFrame; left > 0; {
			batch, _ := s.take(spare)
			if left -= batch.count(); batch.count() > 0 {
				spare = batch.acks[:0]
			} else {
				<-s.wake
			}
		}
	}
}
