// Package broker is the shell around dispatch: it owns the clock, the goroutines and the storage that the pure core does without.
//
// Each (group, topic, partition) that this sidecar owns has one goroutine, a shard. Everything that concerns the partition reaches it as
// a call; it takes all there is, steps the machine, makes the resulting state durable in one commit, and only then sends deliveries and
// answers callers. Publishing goes past the shards straight to the log; a shard learns of new messages from the engine.
//
// The package knows topics, groups and sessions. It does not know the wire (package server) nor any concrete engine or cluster.
package broker

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// Clock is where the time comes from.
type Clock interface {
	// Now is a point in time that only differences and comparisons are made of: no step of the wall clock moves it. It has a monotonic
	// reading unless the clock is a test's.
	Now() time.Time
	// Wall is the time of day. It may jump.
	Wall() time.Time
	// AfterFunc calls f in its own goroutine after d. stop prevents that if it is not too late.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// Options are the parts and bounds of a Broker. Engine, Cluster, Clock and Logger are required.
type Options struct {
	Engine  engine.Engine
	Cluster cluster.Cluster
	Clock   Clock
	Logger  *slog.Logger
	Limits  Limits
	// Random is where chance comes from: the partition of a batch without keys, the secret of a new store. It is safe for concurrent
	// use. Default: math/rand/v2.Uint64, which is seeded by the operating system.
	Random func() uint64
	// Turn, if set, is called by each goroutine of the broker before it does its next piece of work, and returns when it may. A simulation lets
	// one go at a time. Nil in production.
	Turn func(who fmt.Stringer)
	// Parse gives uploaded descriptors their meaning. Default: schema.Parse.
	Parse func(*descriptorpb.FileDescriptorSet) (*schema.Set, error)
	// OnActivity, if set, is called each time that something was begun or ended that Idle looks at. It must neither block nor call the broker.
	OnActivity func()
}

// Limits bound what the broker takes and holds.
type Limits struct {
	// MessageBytes bounds a payload, whatever its topic allows.
	MessageBytes int
	// KeyBytes bounds a key.
	KeyBytes int
	// Headers and HeaderBytes bound the headers of a message, names and values together.
	Headers, HeaderBytes int
	// Lookahead bounds the messages of a partition that are read ahead for a group.
	Lookahead int
	// Unsettled bounds the messages of a partition that are known and not settled in a group.
	Unsettled int
	// DedupeIDs bounds the ids, of all topics together, that are within their windows; 0 is DefaultDedupeIDs. Each costs 11 to 22 bytes.
	DedupeIDs int
}

// DefaultDedupeIDs is the bound of Limits.DedupeIDs for who does not set it.
const DefaultDedupeIDs = 4 << 20

// DefaultLimits are the limits of a sidecar that was not told otherwise.
func DefaultLimits() Limits {
	return Limits{MessageBytes: 1 << 20, KeyBytes: 1 << 10, Headers: 64, HeaderBytes: 32 << 10, Lookahead: 1024, Unsettled: 200_000, DedupeIDs: DefaultDedupeIDs}
}

// Broker is a sidecar's topics, groups and consumers. It is safe for concurrent use.
type Broker struct {
	engine  engine.Engine
	cluster cluster.Cluster
	clock   Clock
	log     *slog.Logger
	limits  Limits
	random  func() uint64
	turn    func(who fmt.Stringer)
	buffers buffers
	places  places
	parse   func(*descriptorpb.FileDescriptorSet) (*schema.Set, error)
	origin  time.Time // of the monotonic clock that dispatch sees
	wall0   time.Time // the time of day at the origin, or the latest that the store has seen if that is later
	seed    maphash.Seed
	chunks  *chunks
	fetches sync.Pool // of *dispatch.Fetched

	onActivity func() // may be nil

	gauge  engine.Gauge  // nil if the engine's room has no end
	tailer engine.Tailer // nil if what is written has to be read

	catalogue    *catalogue
	schedule     *schedule
	ledger       *ledger
	transactions *transactions
	postboxes    postboxes
	claims       *claims
	lastID       atomic.Uint64 // of sessions
	lastWaiter   atomic.Uint64
	draining     atomic.Bool

	declared chan struct{} // holds a token when topics were declared since retain looked

	running context.Context // of the shards; ends with stop. Kept because groups are born long after New.
	stop    context.CancelFunc
	work    sync.WaitGroup

	mu struct {
		sync.RWMutex
		topics map[string]*topicState // by name and alias
		groups map[groupKey]*group
		closed bool
	}
}

// New loads the catalogue and owns the schedule; groups own their partitions when they are needed. It returns when publishing and consuming can begin.
func New(ctx context.Context, o Options) (*Broker, error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	if o.Random == nil {
		o.Random = rand.Uint64
	}
	if o.Parse == nil {
		o.Parse = schema.Parse
	}
	if o.Limits.DedupeIDs == 0 {
		o.Limits.DedupeIDs = DefaultDedupeIDs
	}
	if o.Turn == nil {
		o.Turn = func(fmt.Stringer) {}
	}
	b := &Broker{
		engine: o.Engine, cluster: o.Cluster, clock: o.Clock, log: o.Logger, limits: o.Limits, random: o.Random, turn: o.Turn, parse: o.Parse,
		origin: o.Clock.Now(), wall0: o.Clock.Wall().Round(0), seed: maphash.MakeSeed(), running: running, stop: stop,
		declared: make(chan struct{}, 1), onActivity: o.OnActivity,
	}
	b.chunks = newChunks(chunkBytes, b.seed)
	b.fetches.New = func() any { return new(dispatch.Fetched) }
	b.gauge, _ = o.Engine.(engine.Gauge)
	b.tailer, _ = o.Engine.(engine.Tailer)
	b.mu.topics = make(map[string]*topicState)
	b.mu.groups = make(map[groupKey]*group)
	b.claims = newClaims(o.Cluster, o.Turn)
	b.schedule = newSchedule(b)
	b.postboxes.open(b)
	b.transactions = newTransactions(b)
	scheduling, err := b.openSchedule(ctx)
	if err != nil {
		stop()
		return nil, fmt.Errorf("open the schedule: %w", err)
	}
	b.ledger = newLedger(b)
	recording, err := b.openLedger(ctx)
	if err != nil {
		stop()
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	b.catalogue = newCatalogue(o.Engine, b.claims, o.Clock, o.Random)
	if err := b.catalogue.open(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("open the catalogue: %w", err)
	}
	if err := b.adopt(b.catalogue.all()); err != nil {
		stop()
		b.work.Wait()
		return nil, err
	}
	for _, g := range b.allGroups() {
		g.await(ctx)
	}
	b.work.Go(func() { b.schedule.run(running, scheduling) })
	b.work.Go(func() { b.ledger.run(running, recording) })
	b.work.Go(func() { b.retain(running) })
	return b, nil
}

// openSchedule claims the schedule, and with it the time of day: before anything is served, since that time never goes back.
func (b *Broker) openSchedule(ctx context.Context) (*scheduling, error) {
	owned, err := b.schedule.own(ctx)
	if err != nil {
		return nil, err
	}
	b.schedule.open(owned.store)
	seen, err := b.transactions.loadClock(ctx)
	if err != nil {
		return nil, err
	}
	b.notBefore(time.UnixMilli(max(owned.mark, seen)))
	return owned, nil
}

// openLedger claims the ledger, and with it the time of its last entry.
func (b *Broker) openLedger(ctx context.Context) (*recording, error) {
	owned, err := b.ledger.own(ctx)
	if err != nil {
		return nil, err
	}
	b.ledger.open()
	b.notBefore(time.UnixMilli(owned.latest))
	return owned, nil
}

// notBefore sets the time of day to what the store has seen, if that is later.
func (b *Broker) notBefore(mark time.Time) {
	if !mark.After(b.wall0) {
		return
	}
	b.log.Warn("the clock was set back: the time of day goes on from the latest that the store has seen",
		"clock", b.wall0.UTC(), "seen", mark.UTC(), "ahead", mark.Sub(b.wall0))
	b.wall0 = mark
}

// Drain tells every consumer that nothing more will be leased, and waits until they have settled what they hold or ctx is done.
// Publishing goes on.
func (b *Broker) Drain(ctx context.Context) {
	b.draining.Store(true)
	for _, g := range b.allGroups() {
		for _, s := range g.allSessions() {
			s.drain()
		}
	}
	for _, g := range b.allGroups() {
		for _, s := range g.allSessions() {
			select {
			case <-s.gone:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Draining tells whether Drain or Close was called.
func (b *Broker) Draining() bool { return b.draining.Load() }

// Close stops all work: leases that are left are released without using an attempt, state is saved, ownership is given up. The engine and
// the cluster stay open: they are their opener's.
func (b *Broker) Close(ctx context.Context) error {
	b.draining.Store(true)
	b.mu.Lock()
	if b.mu.closed {
		b.mu.Unlock()
		return nil
	}
	b.mu.closed = true
	b.mu.Unlock()
	for _, g := range b.allGroups() {
		for _, s := range g.allSessions() {
			s.end(fail(Draining, "", "the sidecar is shutting down"))
		}
	}
	b.stop()
	done := make(chan struct{})
	go func() { b.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("close the broker: %w", ctx.Err())
	}
	return errors.Join(b.claims.releaseAll(ctx))
}

// now is the clock as dispatch sees it. It is never 0, so that what is due before the start is due.
func (b *Broker) now() dispatch.Instant {
	if mutant.On(mutant.LeaseOnWallClock) {
		return max(1, dispatch.Instant(b.clock.Wall().Sub(b.wall0)))
	}
	return max(1, dispatch.Instant(b.clock.Now().Sub(b.origin)))
}

// wall is the time of day as it was at the start plus what has passed since: a jump of the wall clock moves nothing that is on its way. From start to start
// it never goes back, but for the last minute before a crash.
func (b *Broker) wall() time.Time {
	if mutant.On(mutant.DelayOnWallClock) {
		return b.clock.Wall()
	}
	return b.wall0.Add(b.clock.Now().Sub(b.origin))
}

func (b *Broker) topic(name string) (*topicState, *Error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	t := b.mu.topics[name]
	if err := topic.CheckName(name); t == nil && err != nil {
		return nil, badName("topic", err)
	}
	if t == nil {
		return nil, fail(TopicUnknown, "topic", "topic %q is unknown: declare it first", clip(name)).with("topic", clip(name))
	}
	return t, nil
}

func (b *Broker) group(name, topicName string) (*group, *Error) {
	t, err := b.topic(topicName)
	if err != nil {
		return nil, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	g := b.mu.groups[groupKey{name, t.decl.Name}]
	if err := topic.CheckName(name); g == nil && err != nil {
		return nil, badName("group", err)
	}
	if g == nil {
		return nil, fail(GroupUnknown, "group", "group %q has no subscription to topic %q: declare it first", clip(name), t.decl.Name).
			with("group", clip(name)).with("topic", t.decl.Name)
	}
	return g, nil
}

func (b *Broker) allGroups() []*group {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*group, 0, len(b.mu.groups))
	for _, key := range slices.SortedFunc(maps.Keys(b.mu.groups), compareGroups) {
		all = append(all, b.mu.groups[key])
	}
	return all
}

// badName refuses a name that no topic or group can have.
func badName(field string, err error) *Error {
	e := Refusal(err)
	e.Field = field
	return e
}

// clip bounds a name that came from outside before it is printed.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
