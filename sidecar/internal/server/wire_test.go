package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/typedmq/typedmq/internal/h2c"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

// bareBroker answers as a broker would that has nothing to do, so that what is left is the wire.
type bareBroker struct {
	brokerv1connect.UnimplementedBrokerServiceHandler
	response *brokerv1.ConsumeResponse
}

func (*bareBroker) PublishStream(ctx context.Context, stream *connect.BidiStream[brokerv1.PublishStreamRequest, brokerv1.PublishStreamResponse]) error {
	for {
		await(ctx)
		frame, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		recycle(frame)
		if err := stream.Send(&brokerv1.PublishStreamResponse{Sequence: frame.GetSequence()}); err != nil {
			return err
		}
	}
}

// Consume delivers as many responses as it has credits.
func (b *bareBroker) Consume(_ context.Context, stream *connect.BidiStream[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	for range first.GetStart().GetCredits() {
		if err := stream.Send(b.response); err != nil {
			return err
		}
	}
	return nil
}

// wire serves a bare broker on a real socket, and returns a client of it.
func wire(b *testing.B, network string, bare *bareBroker) brokerv1connect.BrokerServiceClient {
	b.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(b.TempDir(), "mq.sock")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	mux := http.NewServeMux()
	mux.Handle(brokerv1connect.NewBrokerServiceHandler(bare, options(log)))
	s := HTTPServer(boundBodies(mux), log)
	go func() { _ = s.Serve(l) }()
	b.Cleanup(func() { _ = s.Close() })
	transport := h2c.NewTransport(func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, l.Addr().String())
	})
	b.Cleanup(transport.CloseIdleConnections)
	return brokerv1connect.NewBrokerServiceClient(&http.Client{Transport: transport}, "http://sidecar", connect.WithReadMaxBytes(16<<20), connect.WithAcceptCompression("gzip", nil, nil))
}

// records is a set of n records of 256 bytes.
func records(n int) []byte {
	var set []byte
	record := protowire.AppendTag(nil, 1, protowire.BytesType)
	record = protowire.AppendBytes(record, []byte("key-0123"))
	record = protowire.AppendTag(record, 2, protowire.BytesType)
	record = protowire.AppendBytes(record, bytes.Repeat([]byte("p"), 256))
	for range n {
		set = protowire.AppendTag(set, 1, protowire.BytesType)
		set = protowire.AppendBytes(set, record)
	}
	return set
}

// usage is what this process has used so far: time of all processors, in the kernel too, and pages that the kernel had to map.
func usage() (processor time.Duration, faults int64) {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for no process but another
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), u.Minflt
}

// perRecord reports the processor time of client and server together for each record of an operation.
func perRecord(b *testing.B, records int, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before, faults := usage()
	f()
	b.StopTimer()
	after, more := usage()
	b.ReportMetric(float64((after-before).Nanoseconds())/float64(b.N)/float64(records), "cpu-ns/record")
	b.ReportMetric(float64(more-faults)/float64(b.N), "faults/op")
	b.ReportMetric(float64(b.N)*float64(records)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkWirePublish sends frames over a stream, one after the other, to a broker that does nothing with them.
func BenchmarkWirePublish(b *testing.B) {
	for _, network := range []string{"unix", "tcp"} {
		for _, n := range []int{16, 256, 2048, 8192} {
			b.Run(fmt.Sprintf("%s/records=%d", network, n), func(b *testing.B) {
				client := wire(b, network, &bareBroker{})
				stream := client.PublishStream(b.Context())
				request := &brokerv1.PublishStreamRequest{ProducerId: make([]byte, 16), Batches: []*brokerv1.TopicRecords{{Topic: "bench", Records: records(n)}}}
				exchange := func() {
					if err := stream.Send(request); err != nil {
						b.Fatal(err)
					}
					if _, err := stream.Receive(); err != nil {
						b.Fatal(err)
					}
				}
				exchange()
				perRecord(b, n, func() {
					for range b.N {
						exchange()
					}
				})
				_ = stream.CloseRequest()
				_ = stream.CloseResponse()
			})
		}
	}
}

// BenchmarkWireConsume receives deliveries in frames of about that many bytes.
func BenchmarkWireConsume(b *testing.B) {
	for _, network := range []string{"unix", "tcp"} {
		for _, size := range []int{64 << 10, 256 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/bytes=%d", network, size), func(b *testing.B) {
				n := size / (256 + 16 + 32 + 4)
				slice := &brokerv1.Slice{Offsets: make([]int64, n), Tokens: make([]byte, n*32), Records: records(n)}
				for i := range slice.Offsets {
					slice.Offsets[i] = int64(1_000_000 + i)
				}
				response := &brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Deliveries_{Deliveries: &brokerv1.ConsumeResponse_Deliveries{Slices: []*brokerv1.Slice{slice}}}}
				client := wire(b, network, &bareBroker{response: response})
				perRecord(b, n, func() {
					for left := b.N; left > 0; left -= 1 << 30 {
						stream := client.Consume(b.Context())
						if err := stream.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Start_{Start: &brokerv1.ConsumeRequest_Start{Credits: uint32(left)}}}); err != nil {
							b.Fatal(err)
						}
						for range left {
							r, err := stream.Receive()
							if err != nil {
								b.Fatal(err)
							}
							if len(r.GetDeliveries().GetSlices()) != 1 {
								b.Fatal("no deliveries")
							}
						}
						_ = stream.CloseRequest()
						_ = stream.CloseResponse()
					}
				})
			})
		}
	}
}
