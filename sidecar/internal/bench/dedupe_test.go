// Package bench measures whole sidecars without a wire: what a promise costs, against the same without it, in one run.
package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

const (
	windowIDs  = 1_000_000 // within the window when it is measured
	publishers = 8
	recordSize = 256
)

// BenchmarkDedupe publishes unique ids of records of 256 bytes to a topic with a dedupe window of 10 minutes that knows a million already, and the same records to a topic without,
// in turns: "ratio" is the median, over the turns, of the one time by the other, "cpu-ratio" the processor time of all by that of all others.
func BenchmarkDedupe(b *testing.B) {
	for _, frame := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("frame=%d", frame), func(b *testing.B) { benchmarkDedupe(b, frame) })
	}
}

func benchmarkDedupe(b *testing.B, frame int) {
	names := [2]string{"plain", "deduped"}
	var sidecars [2]*sidecar // of their own, so that each compacts its own files
	g := generator{rng: rand.New(rand.NewPCG(1, 2))}
	for i := range sidecars {
		sidecars[i] = open(b, b.TempDir())
		defer sidecars[i].close()
		sidecars[i].declare()
	}
	for range windowIDs / 50_000 {
		frames := g.frames(50_000/1000, 1000)
		for i, s := range sidecars {
			s.publish(names[i], frames, 4)
		}
	}
	turn := map[int]int{1: 4_000, 16: 32_000, 256: 128_000}[frame]
	callers := map[int]int{1: 64, 16: 32, 256: publishers}[frame]
	var (
		ratios, plain, deduped []float64
		sum                    [2]float64
	)
	for b.Loop() {
		frames := g.frames(turn/frame, frame)
		times, cpu := [2]float64{}, [2]float64{}
		order := []int{0, 1}
		if len(ratios)%2 == 1 {
			order = []int{1, 0}
		}
		for _, i := range order {
			runtime.GC()
			began, used := time.Now(), cpuTime()
			sidecars[i].publish(names[i], frames, callers)
			times[i], cpu[i] = time.Since(began).Seconds(), (cpuTime() - used).Seconds()
		}
		for i := range sum {
			sum[i] += cpu[i]
		}
		ratios = append(ratios, times[1]/times[0])
		plain, deduped = append(plain, float64(turn)/times[0]), append(deduped, float64(turn)/times[1])
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(sum[1]/sum[0], "cpu-ratio")
	b.ReportMetric(median(plain), "plain-msgs/s")
	b.ReportMetric(median(deduped), "dedupe-msgs/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDedupeRestart opens a sidecar whose window has a million ids, published in frames: how long that takes, and what the ids add to its memory.
func BenchmarkDedupeRestart(b *testing.B) {
	for _, frame := range []int{1, 1000} {
		b.Run(fmt.Sprintf("frame=%d", frame), func(b *testing.B) {
			dir := b.TempDir()
			s := open(b, dir)
			s.declare()
			empty := s.restart(dir)
			g := generator{rng: rand.New(rand.NewPCG(1, 2))}
			for range 20 {
				s.publish("deduped", g.frames(windowIDs/20/frame, frame), 256)
			}
			var took []float64
			var heap float64
			for b.Loop() {
				full := s.restart(dir)
				took = append(took, (full.took-empty.took).Seconds()*1000)
				heap = (full.heap - empty.heap) / windowIDs
			}
			s.close()
			b.ReportMetric(median(took), "ms/restart")
			b.ReportMetric(heap, "bytes/id")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// sidecar is a broker on the embedded engine.
type sidecar struct {
	*broker.Broker
	b      *testing.B
	engine *pebbleengine.Engine
}

type clock struct{}

func (clock) Now() time.Time                                  { return time.Now() }
func (clock) Wall() time.Time                                 { return time.Now() }
func (clock) AfterFunc(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }

func open(b *testing.B, dir string) *sidecar {
	b.Helper()
	s := &sidecar{b: b}
	s.open(dir)
	return s
}

func (s *sidecar) open(dir string) {
	s.b.Helper()
	var err error
	if s.engine, err = pebbleengine.Open(dir, pebbleengine.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}); err != nil {
		s.b.Fatal(err)
	}
	s.openBroker()
}

func (s *sidecar) openBroker() {
	s.b.Helper()
	var err error
	if s.Broker, err = broker.New(context.Background(), broker.Options{
		Engine: s.engine, Cluster: memcluster.New().Join(time.Hour, nil), Clock: clock{}, Logger: slog.New(slog.DiscardHandler), Limits: broker.DefaultLimits(),
	}); err != nil {
		s.b.Fatal(err)
	}
}

func (s *sidecar) close() {
	s.b.Helper()
	if err := s.Close(context.Background()); err != nil {
		s.b.Fatal(err)
	}
	if err := s.engine.Close(); err != nil {
		s.b.Fatal(err)
	}
}

// start is how long a broker took to begin, on an engine that was open, and the memory that it added.
type start struct {
	took time.Duration
	heap float64
}

func (s *sidecar) restart(dir string) start {
	s.b.Helper()
	s.close()
	var err error
	if s.engine, err = pebbleengine.Open(dir, pebbleengine.Options{}); err != nil {
		s.b.Fatal(err)
	}
	before := heap()
	began := time.Now()
	s.openBroker()
	took := time.Since(began)
	return start{took, heap() - before}
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// declare registers two topics of 16 partitions, one of which deduplicates.
func (s *sidecar) declare() {
	s.b.Helper()
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("bench/v1/bench.proto"), Package: proto.String("bench.v1"), Syntax: proto.String("proto3"), Dependency: []string{"mq/v1/options.proto"},
	}
	for _, name := range []string{"Plain", "Deduped"} {
		o := &mqv1.TopicOptions{Name: proto.String(map[string]string{"Plain": "plain", "Deduped": "deduped"}[name]), Partitions: proto.Uint32(16)}
		if name == "Deduped" {
			o.Dedupe = &mqv1.Dedupe{Window: durationpb.New(10 * time.Minute)}
		}
		options, key := &descriptorpb.MessageOptions{}, &descriptorpb.FieldOptions{}
		proto.SetExtension(options, mqv1.E_Topic, o)
		proto.SetExtension(key, mqv1.E_Field, &mqv1.FieldOptions{Key: proto.Bool(true)})
		field := func(name string, n int32, typ descriptorpb.FieldDescriptorProto_Type, o *descriptorpb.FieldOptions) *descriptorpb.FieldDescriptorProto {
			return &descriptorpb.FieldDescriptorProto{
				Name: proto.String(name), JsonName: proto.String(name), Number: proto.Int32(n), Type: typ.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Options: o,
			}
		}
		file.MessageType = append(file.MessageType, &descriptorpb.DescriptorProto{Name: proto.String(name), Options: options, Field: []*descriptorpb.FieldDescriptorProto{
			field("key", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, key), field("body", 2, descriptorpb.FieldDescriptorProto_TYPE_BYTES, nil),
		}})
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
	set.File = append(set.File, file)
	if _, err := s.Declare(context.Background(), broker.Declaration{Descriptors: set, Topics: []string{"bench.v1.Plain", "bench.v1.Deduped"}}); err != nil {
		s.b.Fatal(err)
	}
}

// publish sends frames from so many callers, each of which waits for its answers.
func (s *sidecar) publish(topic string, frames [][]byte, callers int) {
	s.b.Helper()
	var work sync.WaitGroup
	next := make(chan []byte, len(frames))
	for _, f := range frames {
		next <- f
	}
	close(next)
	for range callers {
		work.Go(func() {
			for f := range next {
				placed, err := s.Publish(context.Background(), []broker.Batch{{Topic: topic, Records: f}})
				if err != nil || placed[0].Refused != nil || len(placed[0].Duplicates) > 0 {
					s.b.Error(err, placed)
					return
				}
			}
		})
	}
	work.Wait()
}

// generator makes records that do not compress well, each with an id of its own.
type generator struct {
	rng  *rand.Rand
	next uint64
}

func (g *generator) frames(n, size int) [][]byte {
	frames := make([][]byte, n)
	for i := range frames {
		for range size {
			frames[i] = engine.AppendRecord(frames[i], g.record())
		}
	}
	return frames
}

func (g *generator) record() []byte {
	key := fmt.Sprintf("key%05d", g.rng.IntN(50_000))
	payload := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
	var body []byte
	for len(body) < recordSize-60 {
		body = binary.BigEndian.AppendUint64(body, g.rng.Uint64())
	}
	payload = protowire.AppendBytes(protowire.AppendTag(payload, 2, protowire.BytesType), body)
	g.next++
	return broker.NewRecord([]byte(key), payload, nil, fmt.Sprintf("order-%016x", g.next))
}
