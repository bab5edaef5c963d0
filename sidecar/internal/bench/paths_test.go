//go:build ratios

package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

const (
	ratioKeys  = 10_000
	ratioFrame = 256 // records
)

// paths are the hot paths of a message on its way, without sockets and disks, whose costs change with the machine's load.
func paths() []path {
	return []path{{"encode", encodePath}, {"publish", publishPath}, {"store", storePath}, {"dispatch", dispatchPath}, {"deliver", deliverPath}}
}

func ratioKey(i int) string { return fmt.Sprintf("key%07d", i%ratioKeys) }

// encodePath is a record as the SDK makes it of a message, beside its payload encoded and copied behind its key.
func encodePath(*testing.T) sides {
	const n = 40_000
	body := make([]byte, 256)
	jobs := make([]*benchv1.Job, 1000)
	for i := range jobs {
		jobs[i] = &benchv1.Job{Key: ratioKey(i * 7), Body: body}
	}
	encoder := &encoder{}
	pub := benchv1mq.NewStreamQueue(encoder)
	ctx := context.Background()
	var payload, frame []byte
	return sides{
		hot: func() (int, float64) {
			return n, spend(func() {
				for i := range n {
					if _, err := pub.Publish(ctx, jobs[i%len(jobs)]); err != nil {
						panic(err)
					}
				}
			})
		},
		raw: func() (int, float64) {
			return n, spend(func() {
				for i := range n {
					job := jobs[i%len(jobs)]
					var err error
					if payload, err = proto.Marshal(job); err != nil {
						panic(err)
					}
					if i%ratioFrame == 0 {
						frame = frame[:0]
					}
					frame = append(append(frame, job.GetKey()...), payload...)
				}
			})
		},
	}
}

// encoder takes messages as their records.
type encoder struct{ frame []byte }

func (e *encoder) Send(_ context.Context, p *mq.Publication) (mq.Receipt, error) {
	record, err := p.MarshalRecord()
	if len(e.frame) > ratioFrame*300 {
		e.frame = e.frame[:0]
	}
	e.frame = engine.AppendRecord(e.frame, record)
	return mq.Receipt{}, err
}

// ratioFrames are frames of jobs, as they reach the sidecar.
func ratioFrames(n int) [][]byte {
	noise := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise)
	frames := make([][]byte, n)
	for i := range frames {
		for j := range ratioFrame {
			k := i*ratioFrame + j
			at := k * 40_503 * 16 % (1<<20 - 256)
			payload, err := proto.Marshal(&benchv1.Job{Key: ratioKey(k), Body: noise[at : at+256]})
			if err != nil {
				panic(err)
			}
			frames[i] = engine.AppendRecord(frames[i], broker.NewRecord([]byte(ratioKey(k)), payload, nil, ""))
		}
	}
	return frames
}

// ratioBroker is a broker that knows the topic of jobs, and its group if that is wanted.
func ratioBroker(t *testing.T, e engine.Engine, group bool) *broker.Broker {
	b, err := broker.New(context.Background(), broker.Options{
		Engine: e, Cluster: memcluster.New().Join(time.Hour, nil), Clock: clock{}, Logger: slog.New(slog.DiscardHandler), Limits: broker.DefaultLimits(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
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
	add(benchv1.File_bench_v1_bench_proto)
	d := broker.Declaration{Descriptors: set, Topics: []string{"bench.v1.Job"}}
	if group {
		d.Subscriptions = []string{"bench.v1.Workers/Work"}
	}
	if _, err := b.Declare(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	return b
}

// eachFrame hands frames to 4 callers, of which each waits for its answers.
func eachFrame(frames [][]byte, do func([]byte) error) {
	var work sync.WaitGroup
	next := make(chan []byte, len(frames))
	for _, f := range frames {
		next <- f
	}
	close(next)
	for range 4 {
		work.Go(func() {
			for f := range next {
				if err := do(f); err != nil {
					panic(err)
				}
			}
		})
	}
	work.Wait()
}

// forgetful is an engine that says that it stored what it was given.
type forgetful struct{ engine.Engine }

func (forgetful) Append(_ context.Context, appends []engine.Append) ([]engine.Offset, error) {
	return make([]engine.Offset, len(appends)), nil
}

// publishPath is the broker's publishing on an engine that stores nothing, beside a walk over the records that hashes their keys and copies them.
func publishPath(t *testing.T) sides {
	frames := ratioFrames(128)
	const n = 128 * ratioFrame
	b := ratioBroker(t, forgetful{memengine.New()}, false)
	var sum atomic.Uint64
	return sides{
		hot: func() (int, float64) {
			return n, spend(func() {
				eachFrame(frames, func(f []byte) error {
					placed, err := b.Publish(context.Background(), []broker.Batch{{Topic: "jobs", Records: f}})
					if err == nil && placed[0].Refused != nil {
						err = placed[0].Refused
					}
					return err
				})
			})
		},
		raw: func() (int, float64) {
			return n, spend(func() {
				eachFrame(frames, func(f []byte) error {
					copied, keys := make([]byte, 0, len(f)), uint64(0)
					walk(f, func(record []byte, key uint64) {
						keys += key
						copied = append(copied, record...)
					})
					sum.Add(keys)
					return nil
				})
			})
		},
	}
}

// walk calls each for the encoding of each record of a frame, with a sum over the beginnings of its fields, of which the key is one.
func walk(frame []byte, each func(record []byte, sum uint64)) {
	for len(frame) > 0 {
		record, size := protowire.ConsumeBytes(frame[1:]) // behind the tag of field 1
		whole := frame[:1+size]
		frame = frame[1+size:]
		sum := uint64(14695981039346656037)
		for len(record) > 0 {
			_, _, n := protowire.ConsumeField(record)
			for _, c := range record[:min(n, 12)] {
				sum = (sum ^ uint64(c)) * 1099511628211
			}
			record = record[n:]
		}
		each(whole, sum)
	}
}

// storePath is the engine's append, beside Pebble that takes the same bytes in one batch. Both write to memory, since what a disk takes is no code that could get slower,
// and have memtables so small that each turn has as many flushes.
func storePath(t *testing.T) sides {
	const frames, memtable, partitions = 48, 512 << 10, 16
	const n = frames * ratioFrame
	e, err := pebbleengine.Open("data", pebbleengine.Options{FS: vfs.NewMem(), MinFreeBytes: -1, MemTableBytes: memtable})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	options := &pebble.Options{FS: vfs.NewMem(), FormatMajorVersion: pebble.FormatNewest, MemTableSize: memtable, Logger: quiet{}}
	options.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{Enabled: true, MinimumSize: 1 << 10, MaxBlobReferenceDepth: 64, RewriteMinimumAge: time.Minute, TargetGarbageRatio: 0.5}
	}
	bare, err := pebble.Open("bare", options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bare.Close() })
	// One frame, as its records go to their partitions.
	var appends []engine.Append
	for i := range partitions {
		appends = append(appends, engine.Append{Log: engine.LogID{Topic: 1, Partition: uint32(i)}})
	}
	i := 0
	walk(ratioFrames(1)[0], func(record []byte, _ uint64) {
		a := &appends[i%partitions]
		a.Records, a.Count = append(a.Records, record...), a.Count+1
		i++
	})
	var at atomic.Uint64
	list := make([][]byte, frames)
	return sides{
		hot: func() (int, float64) {
			return n, spend(func() {
				eachFrame(list, func([]byte) error {
					_, err := e.Append(context.Background(), slices.Clone(appends))
					return err
				})
			})
		},
		raw: func() (int, float64) {
			return n, spend(func() {
				eachFrame(list, func([]byte) error {
					batch, first := bare.NewBatch(), at.Add(1)
					defer batch.Close()
					for _, a := range appends {
						key := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32([]byte("log/"), a.Log.Partition), first)
						if err := batch.Set(key, a.Records, nil); err != nil {
							return err
						}
					}
					return batch.Commit(pebble.Sync)
				})
			})
		},
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// dispatchPath is the core's work for a message from fetch to ack, beside a map of lines of keys and a slice.
func dispatchPath(t *testing.T) sides {
	const n, batch = 128 * 1024, 256
	p := dispatch.New(dispatch.Config{
		Epoch: 1, Ordering: dispatch.PerKey, Lookahead: 1024, MaxUnsettled: 1 << 20,
		Policy: dispatch.Policy{Retry: dispatch.Retry{MaxAttempts: 8, Initial: time.Second, Max: time.Minute, Coefficient: 2}},
	}, dispatch.Snapshot{}, 0)
	if err := p.Step(0, dispatch.Join{Session: 1}); err != nil {
		t.Fatal(err)
	}
	keys := make([]uint64, ratioKeys)
	for i := range keys {
		keys[i] = rand.Uint64() | 1
	}
	messages := make([]dispatch.Message, batch)
	fetched, grant, ack := &dispatch.Fetched{}, &dispatch.Grant{Session: 1}, &dispatch.Ack{}
	var at dispatch.Offset
	step := func(e dispatch.Event) {
		if err := p.Step(0, e); err != nil {
			panic(err)
		}
	}
	lines := map[uint64][]int64{}
	queue := make([]int64, 0, batch)
	var last int64
	return sides{
		hot: func() (int, float64) {
			return n, spend(func() {
				for range n / batch {
					for j := range messages {
						messages[j] = dispatch.Message{Offset: at, Key: keys[at%ratioKeys]}
						at++
					}
					step(dispatch.Grown{End: at})
					fetched.Messages, fetched.Next = messages, at
					step(fetched)
					for s := p.Stats(); s.Ready+s.Leased > 0; s = p.Stats() {
						grant.Messages, grant.Used = batch, 0
						step(grant)
						ready := p.Ready(false)
						ack.Tokens = ack.Tokens[:0]
						for _, d := range ready.Deliver {
							ack.Tokens = append(ack.Tokens, dispatch.Token{Epoch: 1, Offset: d.Offset, Lease: d.Lease})
						}
						step(ack)
						p.Ready(false)
					}
				}
				if p.Position() != at {
					panic(fmt.Sprintf("position %d of %d", p.Position(), at))
				}
			})
		},
		raw: func() (int, float64) {
			return n, spend(func() {
				for range n / batch {
					queue = queue[:0]
					for range batch {
						key := keys[last%ratioKeys]
						line := append(lines[key], last)
						if lines[key] = line; len(line) == 1 {
							queue = append(queue, last)
						}
						last++
					}
					for _, offset := range queue {
						key := keys[offset%ratioKeys]
						if line := lines[key][1:]; len(line) == 0 {
							delete(lines, key)
						} else {
							lines[key] = line
						}
					}
				}
			})
		},
	}
}

// deliverPath is a group's work from the log to its consumer and back, for messages that wait, beside a walk over the same records that hashes keys and copies them.
func deliverPath(t *testing.T) sides {
	const rounds = 48
	frames := ratioFrames(rounds)
	const n = rounds * ratioFrame
	b := ratioBroker(t, memengine.New(), true)
	session, err := b.Join("workers", "jobs", "ratios", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(false) })
	ctx := context.Background()
	var sum uint64
	return sides{
		hot: func() (int, float64) {
			eachFrame(frames, func(f []byte) error {
				_, err := b.Publish(ctx, []broker.Batch{{Topic: "jobs", Records: f}})
				return err
			})
			return n, spend(func() {
				if err := session.SetCredits(16_384, 64<<20); err != nil {
					panic(err)
				}
				for got := 0; got < n; {
					news, err := session.Next(ctx, 1<<20)
					if err != nil {
						panic(err)
					}
					var acks []byte
					for _, s := range news.Slices {
						got += len(s.Offsets)
						acks = append(acks, s.Tokens...)
					}
					if refused, err := b.Settle(ctx, "workers", "jobs", acks, nil); err != nil || len(refused) > 0 {
						panic(fmt.Sprint(err, refused))
					}
				}
				if err := session.SetCredits(0, 0); err != nil {
					panic(err)
				}
			})
		},
		raw: func() (int, float64) {
			return n, spend(func() {
				for _, f := range frames {
					out := make([]byte, 0, len(f))
					walk(f, func(record []byte, key uint64) {
						sum += key
						out = append(out, record...)
					})
				}
			})
		},
	}
}
