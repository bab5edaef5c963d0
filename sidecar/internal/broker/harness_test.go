package broker_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	baggagev1 "github.com/typedmq/typedmq/examples/flights/gen/air/baggage/v1"
	boardv1 "github.com/typedmq/typedmq/examples/flights/gen/air/board/v1"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
)

// world is a broker on memory, in a bubble of fake time.
type world struct {
	t        *testing.T
	engine   *faulty
	member   *memcluster.Member
	topics   func(name string, o *mqv1.TopicOptions) // may edit the topics that are declared
	log      lines
	priority uint32 // of what publish sends
	clock    broker.Clock
	limits   broker.Limits // zero: the defaults
	turn     func(fmt.Stringer)
	*broker.Broker
}

// faulty is an engine whose commits can be made to fail.
type faulty struct {
	engine.Engine
	failCommits atomic.Int32  // how many of the next ones
	failAfter   atomic.Bool   // the next one, after it was made
	stall       atomic.Int64  // how long each one takes, in nanoseconds
	logs        sync.Map      // that were appended to
	epochs      atomic.Uint64 // added to those that the cluster gives
	onEmptyRead atomic.Pointer[func()]
	onCommit    atomic.Pointer[func(engine.Batch)] // before each one
	letterScans atomic.Int64                       // of dead letters
	reads       atomic.Int64                       // of logs
	late        atomic.Bool                        // the next one is reported as unknown, and made a moment later if it still may be
	full        atomic.Bool                        // commits find no room
	space       atomic.Int64                       // what the gauge says
	broken      atomic.Pointer[engine.LogID]       // commits that append to it are refused
	fullFence   atomic.Bool                        // there is no room for a claim
}

func (f *faulty) Read(ctx context.Context, log engine.LogID, from engine.Offset, maxBytes int) ([]engine.Chunk, error) {
	f.reads.Add(1)
	chunks, err := f.Engine.Read(ctx, log, from, maxBytes)
	if hook := f.onEmptyRead.Load(); hook != nil && err == nil && len(chunks) == 0 {
		f.onEmptyRead.Store(nil)
		(*hook)()
	}
	return chunks, err
}

func (f *faulty) Append(ctx context.Context, appends []engine.Append) ([]engine.Offset, error) {
	for i := range appends {
		f.logs.Store(appends[i].Log, true)
	}
	return f.Engine.Append(ctx, appends)
}

// Space implements engine.Gauge.
func (f *faulty) Space() (engine.Space, error) {
	if level := engine.Space(f.space.Load()); level != engine.Roomy {
		return level, fmt.Errorf("%w: 3 MiB are free", engine.ErrFull)
	}
	return engine.Roomy, nil
}

// trimAll deletes all records, unnoticed by the broker.
func (f *faulty) trimAll(ctx context.Context) (err error) {
	for log := range f.logs.Range {
		bounds, boundsErr := f.Bounds(ctx, log.(engine.LogID))
		err = errors.Join(err, boundsErr, f.Trim(ctx, log.(engine.LogID), bounds.End))
	}
	return err
}

func (f *faulty) Fence(ctx context.Context, id engine.ShardID, epoch engine.Epoch) (engine.Shard, error) {
	if f.fullFence.Load() {
		return nil, engine.ErrFull
	}
	s, err := f.Engine.Fence(ctx, id, epoch+engine.Epoch(f.epochs.Load()))
	return faultyShard{s, f}, err
}

type faultyShard struct {
	engine.Shard
	f *faulty
}

func (s faultyShard) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[engine.Pair, error] {
	if string(prefix) == "d" {
		s.f.letterScans.Add(1)
	}
	return s.Shard.Scan(ctx, prefix, from)
}

func (s faultyShard) Commit(ctx context.Context, b engine.Batch) ([]engine.Offset, error) {
	return s.f.Commit(ctx, []engine.Part{{Shard: s, Writes: b.Writes}}, b.Appends)
}

func (f *faulty) Commit(ctx context.Context, parts []engine.Part, appends []engine.Append) ([]engine.Offset, error) {
	b := engine.Batch{Appends: appends}
	inner := make([]engine.Part, len(parts))
	for i, p := range parts {
		b.Writes = append(b.Writes, p.Writes...)
		p.Shard = p.Shard.(faultyShard).Shard
		inner[i] = p
	}
	if hook := f.onCommit.Load(); hook != nil {
		(*hook)(b)
	}
	time.Sleep(time.Duration(f.stall.Load()))
	if f.full.Load() {
		return nil, engine.ErrFull
	}
	if log := f.broken.Load(); log != nil && slices.ContainsFunc(appends, func(a engine.Append) bool { return a.Log == *log }) {
		return nil, &engine.CorruptError{Log: *log, Offset: 0, Detail: "test"}
	}
	if f.failCommits.Add(-1) >= 0 {
		return nil, engine.ErrUnknownOutcome
	}
	if f.late.Swap(false) {
		go func() {
			time.Sleep(time.Second)
			_, _ = f.Engine.Commit(ctx, inner, appends)
		}()
		return nil, engine.ErrUnknownOutcome
	}
	offsets, err := f.Engine.Commit(ctx, inner, appends)
	if f.failAfter.Swap(false) {
		return nil, engine.ErrUnknownOutcome
	}
	return offsets, err
}

type wall struct{}

func (wall) Wall() time.Time                                 { return time.Now() }
func (wall) Now() time.Time                                  { return time.Now() }
func (wall) AfterFunc(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }

// lines is what was logged.
type lines struct {
	sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.text.Write(p)
}

func (w *world) logged() string {
	w.log.Lock()
	defer w.log.Unlock()
	return w.log.text.String()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, engine: &faulty{Engine: memengine.New()}, member: memcluster.New().Join(time.Minute, nil), clock: wall{}}
	w.engine.failCommits.Store(-1 << 30)
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	if w.limits.MessageBytes == 0 {
		w.limits = broker.DefaultLimits()
	}
	b, err := broker.New(w.t.Context(), broker.Options{
		Engine: w.engine, Cluster: w.member, Clock: w.clock, Logger: slog.New(slog.NewTextHandler(&w.log, nil)), Limits: w.limits, Turn: w.turn,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Broker = b
}

func (w *world) close() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.Broker.Close(ctx); err != nil {
		w.t.Error(err)
	}
}

const (
	bags       = "bags.checked"
	departed   = "flights.departed"
	baggageRPC = "air.baggage.v1.Baggage/OnBagsChecked"
	boardRPC   = "air.board.v1.Board/OnDeparted"
)

// declare registers both topics with their consumers. change may edit the policy of an rpc's service.
func (w *world) declare(change func(service string, o *mqv1.SubscribeOptions)) {
	w.t.Helper()
	if err := w.tryDeclare(change); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryDeclare(change func(service string, o *mqv1.SubscribeOptions)) error {
	_, err := w.Declare(w.t.Context(), broker.Declaration{
		Descriptors: w.files(change), Topics: []string{"air.flights.v1.FlightDeparted", "air.flights.v1.BagsChecked"}, Subscriptions: []string{baggageRPC, boardRPC},
	})
	return err
}

func (w *world) tryDeclareTopic(message string) error {
	_, err := w.Declare(w.t.Context(), broker.Declaration{Descriptors: w.files(nil), Topics: []string{message}})
	return err
}

func (w *world) declareTopics() {
	w.t.Helper()
	for _, message := range []string{"air.flights.v1.FlightDeparted", "air.flights.v1.BagsChecked"} {
		if err := w.tryDeclareTopic(message); err != nil {
			w.t.Fatal(err)
		}
	}
}

// files are the descriptors of the example.
func (w *world) files(change func(service string, o *mqv1.SubscribeOptions)) *descriptorpb.FileDescriptorSet {
	fds := &descriptorpb.FileDescriptorSet{}
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
		fds.File = append(fds.File, protodesc.ToFileDescriptorProto(f))
	}
	add(baggagev1.File_air_baggage_v1_baggage_proto)
	add(boardv1.File_air_board_v1_board_proto)
	for _, f := range fds.File {
		for _, m := range f.GetMessageType() {
			if proto.HasExtension(m.GetOptions(), mqv1.E_Topic) && w.topics != nil {
				o := proto.GetExtension(m.GetOptions(), mqv1.E_Topic).(*mqv1.TopicOptions)
				w.topics(o.GetName(), o)
				proto.SetExtension(m.Options, mqv1.E_Topic, o)
			}
		}
		for _, s := range f.GetService() {
			if proto.HasExtension(s.GetOptions(), mqv1.E_Consumer) && change != nil {
				o := proto.GetExtension(s.GetOptions(), mqv1.E_Consumer).(*mqv1.ConsumerOptions)
				change(s.GetName(), o.Defaults)
				proto.SetExtension(s.Options, mqv1.E_Consumer, o)
			}
		}
	}
	return fds
}

// publish sends n flights, numbered from first, from one origin each of origins.
func (w *world) publish(topic string, first, n, origins int) {
	w.t.Helper()
	var records []byte
	for i := first; i < first+n; i++ {
		s := new(structpb.Struct)
		if err := protojson.Unmarshal(fmt.Appendf(nil, `{"flightId":"F%d","origin":"O%d"}`, i, i%origins), s); err != nil {
			w.t.Fatal(err)
		}
		raw, err := w.Compose(topic, broker.Draft{JSON: s, Priority: w.priority})
		if err != nil {
			w.t.Fatal(err)
		}
		records = engine.AppendRecord(records, raw)
	}
	placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: topic, Records: records}})
	if err != nil || placed[0].Refused != nil {
		w.t.Fatal(err, placed)
	}
}

// publishSized sends n flights of different origins, each of about size bytes.
func (w *world) publishSized(topic string, n, size int) {
	w.t.Helper()
	var records []byte
	for i := range n {
		s, err := structpb.NewStruct(map[string]any{"flightId": strings.Repeat("x", size), "origin": fmt.Sprint(i)})
		if err != nil {
			w.t.Fatal(err)
		}
		raw, err := w.Compose(topic, broker.Draft{JSON: s})
		if err != nil {
			w.t.Fatal(err)
		}
		records = engine.AppendRecord(records, raw)
	}
	placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: topic, Records: records}})
	if err != nil || placed[0].Refused != nil {
		w.t.Fatal(err, placed)
	}
}

// publishWithID sends one message.
func (w *world) publishWithID(topic, id string) error {
	raw, err := w.Compose(topic, broker.Draft{JSON: new(structpb.Struct), ID: id})
	if err != nil {
		return err
	}
	placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: topic, Records: engine.AppendRecord(nil, raw)}})
	if err == nil && placed[0].Refused != nil {
		return placed[0].Refused
	}
	return err
}

// delivery is one message as a consumer got it.
type delivery struct {
	id        string
	token     []byte
	attempt   uint32
	partition uint32
	priority  uint32
	offset    int64
}

func deliveries(t *testing.T, slices []broker.Slice) (out []delivery) {
	t.Helper()
	for _, s := range slices {
		for i, raw := range s.Each() {
			r, err := broker.ParseRecord(raw)
			if err != nil {
				t.Fatal(err)
			}
			d := delivery{id: string(r.Payload), token: s.Tokens[i*broker.TokenSize : (i+1)*broker.TokenSize], attempt: 1, partition: s.Partition,
				priority: s.Priority, offset: s.Offsets[i]}
			if s.Attempts != nil {
				d.attempt = s.Attempts[i]
			}
			out = append(out, d)
		}
	}
	return out
}

func (w *world) join(group, topic string, credits int) *broker.Session {
	w.t.Helper()
	s, err := w.Join(group, topic, "test", credits, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// next waits for deliveries.
func (w *world) next(s *broker.Session) []delivery {
	w.t.Helper()
	for {
		news, err := s.Next(w.t.Context(), 1<<20)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(news.Slices) > 0 {
			return deliveries(w.t, news.Slices)
		}
	}
}

func (w *world) settle(group, topic string, o broker.Outcome, ds ...delivery) []broker.SettleRefusal {
	w.t.Helper()
	var all []broker.Settlement
	for _, d := range ds {
		all = append(all, broker.Settlement{Token: d.token, Outcome: o, Error: "test"})
	}
	refused, err := w.Settle(w.t.Context(), group, topic, nil, all)
	if err != nil {
		w.t.Fatal(err)
	}
	return refused
}

// total adds up where a group stands.
func (w *world) total(group, topic string) (sum broker.ShardStatus) {
	w.t.Helper()
	groups, err := w.Groups(w.t.Context(), group, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range groups[0].Partitions {
		if p.Fault != nil {
			w.t.Fatalf("partition %d: %v", p.Partition, p.Fault)
		}
		sum.Position += p.Position
		sum.End += p.End
		sum.Lag += p.Lag
		sum.Stats.Parked += p.Stats.Parked
		sum.Stats.Held += p.Stats.Held
		sum.Stats.Leased += p.Stats.Leased
		sum.Stats.Waiting += p.Stats.Waiting
		sum.DeadLetters += p.DeadLetters
		sum.Counters.Acknowledged += p.Counters.Acknowledged
		sum.Counters.Delivered += p.Counters.Delivered
		sum.Counters.Expired += p.Counters.Expired
		sum.Counters.Lost += p.Counters.Lost
		sum.Counters.RetentionLost += p.Counters.RetentionLost
	}
	return sum
}
