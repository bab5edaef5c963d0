// Package sim runs whole sidecars in simulated worlds: the real broker on a real engine, clients that misbehave, a disk, a coordinator and clocks that fail, all in virtual time
// and all decided by one number, the seed. What the clients saw is the history; the checker holds it against what must never happen.
//
// A world is a testing/synctest bubble. Every goroutine passes the gate before it does anything that another could notice, and the scheduler lets
// one through at a time. So the same seed gives the same history, which is what makes a fault that was found a fault that can be mended.
package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// leaseTTL is how long the coordinator waits for a sidecar that went silent.
const leaseTTL = 10 * time.Second

// maxSteps bounds a world. One that needs more is going round in circles.
const maxSteps = 50_000

// World is one run.
type World struct {
	plan  Plan
	gate  *gate
	rng   *rand.Rand // the scheduler's alone
	began time.Time
	log   *slog.Logger

	coordinator *memcluster.Coordinator
	store       *store
	skew        atomic.Int64 // of the wall clock, in nanoseconds

	// What follows is changed by whoever has the turn.
	events   []Event
	lastOp   int
	lastTx   int
	lastUID  uint64
	lastSess int
	live     []*process // by sidecar; nil while it is down
	up       []*process // the same, and those that boot
	calm     bool       // no more faults
	stopping bool       // clients of the chaos end
	retired  bool       // only the first sidecar is to run any more
	ending   bool
	detected string // why the world ended early, rightly: damage was found
	booted   int
	topicIDs map[engine.TopicID]string
	stats    Stats

	over       chan struct{}
	background sync.WaitGroup // what is left of dead processes and abandoned calls
	clients    sync.WaitGroup
}

// Stats count what a world did.
type Stats struct {
	Steps, Operations, Deliveries int
	Simulated                     time.Duration
	Transactions                  map[string]int // by what became of them
	Faults                        map[string]int
	Duplicates                    map[string]int
}

// Run runs the world of a plan. It must be called in a bubble.
func Run(plan Plan) (*History, Stats) {
	w := &World{
		plan: plan, gate: newGate(), rng: rand.New(rand.NewPCG(plan.Seed, 0x776f726c64)), began: time.Now(), log: slog.New(slog.DiscardHandler),
		coordinator: memcluster.New(), live: make([]*process, plan.Sidecars), up: make([]*process, plan.Sidecars), over: make(chan struct{}), topicIDs: map[engine.TopicID]string{},
	}
	w.stats.Faults, w.stats.Transactions = map[string]int{}, map[string]int{}
	if plan.Large {
		w.lastUID = largeUID
	}
	w.store = newStore(w)
	if plan.Log != nil {
		w.log = slog.New(slog.NewTextHandler(plan.Log, nil))
	}
	var names []string
	for _, t := range plan.Topics {
		names = append(names, t.Name)
	}
	slices.Sort(names) // which is how the broker numbers them
	for i, n := range names {
		w.topicIDs[engine.TopicID(i+1)] = n
	}
	for id := range plan.Sidecars {
		w.background.Go(func() { w.supervise(id) })
	}
	w.background.Go(w.direct)
	w.schedule()
	w.stats.Steps, w.stats.Simulated = w.gate.step(), time.Since(w.began)
	for _, p := range w.up {
		if p != nil {
			p.die()
		}
	}
	w.store.close()
	w.gate.end()
	w.background.Wait()
	w.checkStore()
	return &History{Plan: plan, Events: w.events}, w.stats
}

// schedule lets one goroutine go after the other until the world is over.
func (w *World) schedule() {
	for {
		synctest.Wait()
		select {
		case <-w.over:
			return
		default:
		}
		ok, wake := w.gate.next(time.Now(), w.rng.IntN)
		if ok {
			if w.gate.step() > maxSteps {
				w.record(Event{Kind: Unservable, Detail: "the world does not come to rest: " + strings.Join(w.gate.recent(), ", ")})
				return
			}
			continue
		}
		var paused <-chan time.Time
		if !wake.IsZero() {
			paused = time.After(time.Until(wake))
		}
		select {
		case <-w.gate.arrived:
		case <-paused:
		case <-w.over:
			return
		}
	}
}

// direct is the story: chaos, healing, draining, looking.
func (w *World) direct() {
	defer close(w.over)
	w.pass("director")
	w.clients.Go(w.nemesis)
	w.clients.Go(w.observe)
	w.clients.Go(w.operate)
	for i := range w.plan.Publishers {
		w.clients.Go(func() { w.publisher(i) })
	}
	for g := range w.plan.Groups {
		for i := range w.plan.Consumers {
			w.clients.Go(func() { w.consumer(g, i) })
		}
		w.clients.Go(func() { w.puller(g) })
	}
	w.sleep(w.plan.Chaos, "director")
	w.stopping = true
	done := make(chan struct{})
	w.background.Go(func() { w.clients.Wait(); close(done) })
	<-done
	w.pass("director")
	w.heal()
	if w.detected == "" {
		w.inspect()
	}
}

func (w *World) pass(name string) { w.gate.pass(nil, name) }

func (w *World) sleep(d time.Duration, name string) {
	time.Sleep(d)
	w.pass(name)
}

// rest sleeps in pieces, until the chaos is over or d has passed. It returns false if it is over.
func (w *World) rest(d time.Duration, name string) bool {
	for d > 0 && !w.stopping {
		piece := min(d, 2*time.Second)
		w.sleep(piece, name)
		d -= piece
	}
	return !w.stopping
}

func (w *World) record(e Event) {
	e.Step, e.At = w.gate.step(), time.Since(w.began)
	w.events = append(w.events, e)
}

func (w *World) op() int {
	w.lastOp++
	w.stats.Operations++
	return w.lastOp
}

// roll draws a number from 0 to 1 that belongs to this step and name.
func (w *World) roll(name string) float64 {
	return float64(hash64(w.plan.Seed, w.gate.step(), name)>>11) / (1 << 53)
}

func (w *World) chance(p float64, name string) bool { return !w.calm && p > 0 && w.roll(name) < p }

func (w *World) fault(kind string) { w.stats.Faults[kind]++ }

// random is what the broker draws from: which goroutine draws at which step is the seed's.
func (w *World) random(p *process) func() uint64 {
	var n atomic.Uint64
	return func() uint64 {
		return hash64(w.plan.Seed^uint64(p.number), int(n.Add(1)), "random")
	}
}

// process is one life of a sidecar, or of the storage under it.
type process struct {
	world       *World
	id, number  int
	dead        chan struct{}
	gone        atomic.Bool
	pausedUntil time.Time
	broker      *broker.Broker
	cluster     *coordination
}

func (w *World) newProcess(id int) *process {
	w.booted++
	return &process{world: w, id: id, number: w.booted, dead: make(chan struct{})}
}

func (p *process) isDead() bool { return p.gone.Load() }

// die ends the process: nothing that it still does has an effect.
func (p *process) die() {
	if p.gone.Swap(true) {
		return
	}
	close(p.dead)
	p.world.gate.let(p)
	if b := p.broker; b != nil {
		p.world.background.Go(func() { _ = b.Close(context.Background()) })
	}
}

// enter waits for a turn at a process. It returns false if the process is dead, in a turn of the world's.
func (w *World) enter(p *process, name string) bool {
	w.gate.pass(p, name)
	if p.isDead() {
		w.pass(name + " (dead)")
		return false
	}
	return true
}

// clock is a process's: the wall clock jumps, the other does not.
type clock struct{ w *World }

func (c clock) Now() time.Time                                  { return time.Now() }
func (c clock) Wall() time.Time                                 { return time.Now().Add(time.Duration(c.w.skew.Load())) }
func (c clock) AfterFunc(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }

// supervise keeps a sidecar running.
func (w *World) supervise(id int) {
	for {
		w.pass(fmt.Sprintf("supervisor %d", id))
		if w.ended() || w.retired && id > 0 {
			return
		}
		p := w.newProcess(id)
		w.up[id] = p
		if w.boot(p) {
			select {
			case <-p.dead:
			case <-w.over:
				return
			}
		}
		wait := time.Duration(200+hash64(w.plan.Seed, p.number, "restart")%2000) * time.Millisecond
		select {
		case <-time.After(wait):
		case <-w.over:
			return
		}
	}
}

func (w *World) ended() bool {
	select {
	case <-w.over:
		return true
	default:
		return w.ending || w.detected != ""
	}
}

// boot starts a sidecar and declares what the world needs. It returns false if that did not work.
func (w *World) boot(p *process) bool {
	name := fmt.Sprintf("boot %d.%d", p.id, p.number)
	eng, err := w.store.open(p)
	w.pass(name + " opened")
	if err != nil {
		w.bootFailed(p, err)
		return false
	}
	p.cluster = w.join(p)
	b, err := broker.New(context.Background(), broker.Options{
		Engine: eng, Cluster: p.cluster, Clock: clock{w}, Logger: w.log, Random: w.random(p), Turn: func(who fmt.Stringer) { w.gate.pass(p, who.String()) },
		Limits: broker.Limits{MessageBytes: maxPayload, KeyBytes: 1 << 10, Headers: 8, HeaderBytes: 1 << 10, Lookahead: 64, Unsettled: maxUnsettled},
	})
	w.pass(name)
	if err != nil {
		w.bootFailed(p, err)
		return false
	}
	p.broker = b
	if p.isDead() {
		w.background.Go(func() { _ = b.Close(context.Background()) })
		return false
	}
	_, err = b.Declare(context.Background(), w.plan.declaration())
	w.pass(name + " declared")
	if err != nil || p.isDead() {
		w.bootFailed(p, err)
		return false
	}
	w.live[p.id] = p
	w.record(Event{Kind: Start, Client: fmt.Sprintf("sidecar-%d.%d", p.id, p.number)})
	return true
}

// maxUnsettled bounds what a partition of a group may know in these worlds.
const maxUnsettled = 400

func (w *World) bootFailed(p *process, err error) {
	if !p.isDead() {
		w.store.damaged(err)
	}
	w.down(p, "boot failed: "+fmt.Sprint(err))
}

// down ends a process as kill -9 does, and its storage with it if that is its own.
func (w *World) down(p *process, how string) {
	if w.end(p, how) && w.plan.Sidecars == 1 {
		w.store.crash(100)
	}
}

// end ends a process alone.
func (w *World) end(p *process, how string) bool {
	if p.isDead() {
		return false
	}
	w.record(Event{Kind: Down, Client: fmt.Sprintf("sidecar-%d.%d", p.id, p.number), Detail: how})
	w.live[p.id], w.up[p.id] = nil, nil
	p.die()
	if p.cluster != nil {
		p.cluster.abandon()
	}
	return true
}
