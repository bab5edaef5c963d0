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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// BenchmarkDeliver publishes records of 256 bytes with 10,000 keys and consumes them at the same time: "cpu-ns/delivery" is the processor time of all by the deliveries,
// "publish-cpu-ns" what publishing the same without a group took per message.
func BenchmarkDeliver(b *testing.B) {
	for _, c := range []struct {
		topic  string
		groups int
	}{{"queue", 1}, {"pubsub", 1}, {"pubsub", 4}} {
		b.Run(fmt.Sprintf("%s/groups=%d", c.topic, c.groups), func(b *testing.B) {
			s := open(b, b.TempDir())
			defer s.close()
			s.declareConsumed()
			frames := keyedFrames(64, 1024, 10_000)
			began := cpuTime()
			plain := 0
			s.publishFor(500*time.Millisecond, "plain", frames, func(n int) { plain += n })
			alone := float64((cpuTime() - began).Nanoseconds()) / float64(plain)
			var delivered atomic.Int64
			var all sync.WaitGroup
			ctx, stop := context.WithCancel(context.Background())
			for g := range c.groups {
				all.Go(func() { s.consume(ctx, fmt.Sprintf("%s%d", c.topic, g+1), c.topic, &delivered) })
			}
			runtime.GC()
			b.ReportAllocs()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began = cpuTime()
			start := time.Now()
			deliveries := 0
			for b.Loop() {
				published := 0
				from := delivered.Load()
				s.publishFor(time.Second, c.topic, frames, func(n int) {
					published += n
					for int64(published*c.groups)-(delivered.Load()-from) > 400_000 { // consumers are not far behind
						time.Sleep(time.Millisecond)
					}
				})
				for delivered.Load()-from < int64(published*c.groups) {
					time.Sleep(time.Millisecond)
				}
				deliveries += published * c.groups
			}
			spent := cpuTime() - began
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(spent.Nanoseconds())/float64(deliveries), "cpu-ns/delivery")
			b.ReportMetric(alone, "publish-cpu-ns")
			b.ReportMetric(float64(deliveries)/time.Since(start).Seconds(), "deliveries/s")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(deliveries), "B/delivery")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(deliveries), "allocs/delivery")
			stop()
			all.Wait()
		})
	}
}

// publishFor publishes frames, each from its turn, for a time, with two callers; told, which is called by one at a time, gets how many records were published.
func (s *sidecar) publishFor(d time.Duration, topic string, frames [][]byte, told func(n int)) {
	var mu sync.Mutex
	var work sync.WaitGroup
	var turn atomic.Int64
	end := time.Now().Add(d)
	for range 2 {
		work.Go(func() {
			for time.Now().Before(end) {
				f := frames[int(turn.Add(1))%len(frames)]
				placed, err := s.Publish(context.Background(), []broker.Batch{{Topic: topic, Records: f}})
				if err != nil || placed[0].Refused != nil {
					s.b.Error(err, placed)
					return
				}
				mu.Lock()
				told(len(placed[0].Offsets))
				mu.Unlock()
			}
		})
	}
	work.Wait()
}

// consume acknowledges all that a group gets until ctx is done.
func (s *sidecar) consume(ctx context.Context, group, topic string, delivered *atomic.Int64) {
	session, err := s.Join(group, topic, "bench", 16384, 0)
	if err != nil {
		s.b.Error(err)
		return
	}
	defer session.Close(false)
	got := make(chan []byte, 1024)
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			for tokens := range got {
				for more := true; more && len(tokens) < 4096*broker.TokenSize; {
					select {
					case next, ok := <-got:
						tokens = append(tokens, next...)
						more = ok
					default:
						more = false
					}
				}
				refused, err := s.Settle(context.Background(), group, topic, tokens, nil)
				if err != nil || len(refused) > 0 {
					s.b.Error(err, len(refused))
				}
				delivered.Add(int64(len(tokens) / broker.TokenSize))
			}
		})
	}
	beat := time.Now()
	var runs []broker.Run
	var frame []byte
	for {
		runs, _, err = session.Take(ctx, runs[:0], 1<<20)
		if err != nil {
			break
		}
		if time.Since(beat) > time.Second {
			session.Heartbeat()
			beat = time.Now()
		}
		n := 0
		for i := range runs {
			n += runs[i].Len()
		}
		tokens := make([]byte, 0, n*broker.TokenSize)
		frame = frame[:0]
		for i := range runs {
			tokens = runs[i].AppendTokens(tokens)
			frame = runs[i].AppendRecords(frame)
		}
		if len(tokens) > 0 {
			got <- tokens
		}
	}
	close(got)
	work.Wait()
}

// keyedFrames are n frames of size records of 256 bytes, which do not compress well.
func keyedFrames(n, size, keys int) [][]byte {
	rng := rand.New(rand.NewPCG(3, 4))
	frames := make([][]byte, n)
	for i := range frames {
		for range size {
			key := fmt.Sprintf("key-%05d", rng.IntN(keys))
			payload := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
			var body []byte
			for len(body) < recordSize {
				body = binary.BigEndian.AppendUint64(body, rng.Uint64())
			}
			payload = protowire.AppendBytes(protowire.AppendTag(payload, 2, protowire.BytesType), body)
			frames[i] = engine.AppendRecord(frames[i], broker.NewRecord([]byte(key), payload, nil, ""))
		}
	}
	return frames
}

// declareConsumed registers three topics of 16 partitions: one without groups, a queue with one, one with four.
func (s *sidecar) declareConsumed() {
	s.b.Helper()
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("bench/v1/consumed.proto"), Package: proto.String("bench.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"mq/v1/options.proto", "google/protobuf/empty.proto"},
	}
	groups := map[string]int{"plain": 0, "queue": 1, "pubsub": 4}
	var topics, rpcs []string
	for _, name := range []string{"plain", "queue", "pubsub"} {
		o := &mqv1.TopicOptions{Name: proto.String(name), Partitions: proto.Uint32(16)}
		if name == "queue" {
			o.Delivery = mqv1.Delivery_DELIVERY_QUEUE.Enum()
		}
		options, key := &descriptorpb.MessageOptions{}, &descriptorpb.FieldOptions{}
		proto.SetExtension(options, mqv1.E_Topic, o)
		proto.SetExtension(key, mqv1.E_Field, &mqv1.FieldOptions{Key: proto.Bool(true)})
		field := func(name string, n int32, typ descriptorpb.FieldDescriptorProto_Type, o *descriptorpb.FieldOptions) *descriptorpb.FieldDescriptorProto {
			return &descriptorpb.FieldDescriptorProto{
				Name: proto.String(name), JsonName: proto.String(name), Number: proto.Int32(n), Type: typ.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Options: o,
			}
		}
		message := "M" + name
		topics = append(topics, "bench.v1."+message)
		file.MessageType = append(file.MessageType, &descriptorpb.DescriptorProto{Name: proto.String(message), Options: options, Field: []*descriptorpb.FieldDescriptorProto{
			field("key", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, key), field("body", 2, descriptorpb.FieldDescriptorProto_TYPE_BYTES, nil),
		}})
		for g := range groups[name] {
			group := fmt.Sprintf("%s%d", name, g+1)
			options := &descriptorpb.ServiceOptions{}
			proto.SetExtension(options, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: proto.String(group), Defaults: &mqv1.SubscribeOptions{MaxInFlight: proto.Uint32(16384)}})
			file.Service = append(file.Service, &descriptorpb.ServiceDescriptorProto{Name: proto.String("S" + group), Options: options, Method: []*descriptorpb.MethodDescriptorProto{
				{Name: proto.String("On"), InputType: proto.String(".bench.v1." + message), OutputType: proto.String(".google.protobuf.Empty")},
			}})
			rpcs = append(rpcs, fmt.Sprintf("bench.v1.S%s/On", group))
		}
	}
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(mqv1.File_mq_v1_options_proto)
	add(emptypb.File_google_protobuf_empty_proto)
	set.File = append(set.File, file)
	if _, err := s.Declare(context.Background(), broker.Declaration{Descriptors: set, Topics: topics, Subscriptions: rpcs}); err != nil {
		s.b.Fatal(err)
	}
}
