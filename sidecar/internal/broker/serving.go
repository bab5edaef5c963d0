package broker

import (
	"context"
	"hash/maphash"
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	// flushAfter is how long changes that nobody waits for stay unsaved.
	flushAfter = time.Second
	// roundsPerTurn bounds how long a shard works before it looks at its calls again.
	roundsPerTurn = 16
)

// serving is a shard while it owns its partition: the machine and what the shell keeps beside it. It belongs to the shard's goroutine.
type serving struct {
	*shard
	broker  *Broker
	claim   claimed
	store   engine.Shard
	machine *dispatch.Partition
	chunks  chunkCache

	sessions map[dispatch.SessionID]*joined
	order    []*joined // the sessions in the order in which this partition prefers them

	extra   []engine.Write // written with the next commit
	moved   map[int64]bool // offsets of dead letters that extra redrives or discards
	buried  int64          // dead letters that the commit under way stores
	pending []task         // whose effects are not durable yet
	counted Counters
	dead    int64 // dead letters that are stored

	trimmed   engine.Offset
	flushAt   dispatch.Instant // when unsaved changes are saved, 0 if there are none
	stopTimer func() bool
	unwatch   func()
}

// joined is a session as one partition knows it.
type joined struct {
	*Session
	leases int   // that its outstanding count includes for this partition
	heard  int64 // the end of its leases that the machine knows from heartbeats
	rank   uint64
}

// Counters count what happened since the partition was claimed.
type Counters struct {
	Delivered, Acknowledged, Skipped, Filtered, Retried, DeadLettered, ExpiredLeases, Redriven, Discarded int64
	FilterErrors                                                                                          int64
}

func newServing(ctx context.Context, s *shard, got claimed, store engine.Shard) (*serving, error) {
	sv := &serving{shard: s, broker: s.group.broker, claim: got, store: store, sessions: make(map[dispatch.SessionID]*joined), moved: make(map[int64]bool)}
	now := sv.broker.now()
	snap, dead, err := loadState(ctx, store, sv.broker.wall(), now, sv.keyHash)
	if err != nil {
		return nil, err
	}
	sv.dead = dead
	// The head is saved when the floor moves: until then the group stands where it began.
	snap.Floor = max(snap.Floor, dispatch.Offset(s.group.policy.Load().starts[s.partition]))
	bounds, err := sv.broker.engine.Bounds(ctx, s.log)
	if err != nil {
		return nil, err
	}
	sv.trimmed = bounds.Begin
	s.end.Store(int64(bounds.End))
	sv.machine = dispatch.New(s.group.machineConfig(got.claim.Epoch, s.partition), snap, now)
	sv.unwatch = sv.broker.engine.Watch(s.log, func(end engine.Offset) {
		s.end.Store(int64(end))
		s.signal()
	})
	return sv, nil
}

// serve works until ctx is done or the partition cannot be owned any longer.
func (sv *serving) serve(ctx context.Context) error {
	for _, s := range sv.group.allSessions() { // those that came before calls were let in
		sv.join(s)
	}
	decl := sv.group.policy.Load().decl // it may have been replaced before calls were let in
	sv.machine.Reconfigure(policyOf(decl))
	sv.signal()
	for {
		select {
		case <-ctx.Done():
			return sv.finish()
		case <-sv.claim.lost:
			return errLeaseOver
		case <-sv.wake:
		}
		if err := sv.turn(ctx); err != nil {
			return err
		}
	}
}

// stop ends what serve left running.
func (sv *serving) stop() {
	sv.unwatch()
	if sv.stopTimer != nil {
		sv.stopTimer()
	}
	for _, j := range sv.sessions {
		j.give(j.leases)
	}
}

// finish releases all leases, saves what is unsaved, and answers who waits.
func (sv *serving) finish() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	sv.step(sv.takeCalls())
	for _, j := range sv.sessions {
		_ = sv.machine.Step(sv.broker.now(), dispatch.Leave{Session: j.ID})
	}
	if err := sv.commit(ctx, sv.machine.Ready(true).Save); err != nil {
		return err
	}
	sv.answer()
	return nil
}

// failPending answers those whose effects will never be durable as far as this claim goes.
func (sv *serving) failPending(err error) {
	for _, t := range sv.pending {
		t.finish(err)
	}
	sv.pending = nil
}

// turn does all there is to do now.
func (sv *serving) turn(ctx context.Context) error {
	sv.hear()
	sv.step(sv.takeCalls())
	now := sv.broker.now()
	_ = sv.machine.Step(now, dispatch.Grown{End: dispatch.Offset(sv.end.Load())})
	_ = sv.machine.Step(now, dispatch.Tick{})
	for round := 0; ; round++ {
		fetched, err := sv.fetch(ctx)
		if err != nil {
			return err
		}
		granted := sv.grant()
		if !sv.broker.clock.Now().Before(sv.broker.cluster.Deadline()) {
			return errLeaseOver
		}
		ready := sv.machine.Ready(sv.flushDue())
		if err := sv.commit(ctx, ready.Save); err != nil {
			return err
		}
		if err := sv.deliver(ctx, ready.Deliver); err != nil {
			return err
		}
		sv.answer()
		if !fetched && !granted {
			break
		}
		if round == roundsPerTurn {
			sv.signal() // others first
			break
		}
	}
	sv.settleAccounts()
	sv.trim(ctx)
	sv.setTimer()
	return nil
}

// step runs calls. What they change is made durable, and they are answered, by the next commit.
func (sv *serving) step(calls []task) {
	for _, t := range calls {
		t.do(sv)
		if t.done != nil {
			sv.pending = append(sv.pending, t)
		}
	}
}

// flushDue tells whether changes that nobody waits for were unsaved for long enough.
func (sv *serving) flushDue() bool {
	if !sv.machine.Dirty() {
		sv.flushAt = 0
		return false
	}
	now := sv.broker.now()
	if sv.flushAt == 0 {
		sv.flushAt = now.Add(flushAfter)
	}
	return now >= sv.flushAt
}

// setTimer arranges for the next instant at which something is due.
func (sv *serving) setTimer() {
	at, ok := sv.machine.Wake()
	if sv.machine.Dirty() {
		if sv.flushAt == 0 {
			sv.flushAt = sv.broker.now().Add(flushAfter)
		}
		if !ok || sv.flushAt < at {
			at, ok = sv.flushAt, true
		}
	}
	if sv.stopTimer != nil {
		sv.stopTimer()
		sv.stopTimer = nil
	}
	if ok {
		sv.stopTimer = sv.broker.clock.AfterFunc(max(0, at.Sub(sv.broker.now())), sv.signal)
	}
}

// commit makes a save durable, with whatever calls want to be written beside it.
func (sv *serving) commit(ctx context.Context, save dispatch.Save) error {
	if save.Needed || len(sv.extra) > 0 {
		sv.buried = 0
		writes, err := sv.encode(ctx, save)
		if err != nil {
			return err
		}
		if _, err := sv.store.Commit(ctx, engine.Batch{Writes: append(writes, sv.extra...)}); err != nil {
			return err
		}
		sv.flushAt = 0
		sv.extra = sv.extra[:0]
		sv.dead += sv.buried
		sv.counted.DeadLettered += sv.buried
		clear(sv.moved)
	}
	return nil
}

// answer tells callers that what they asked for is durable and what followed from it is on its way.
func (sv *serving) answer() {
	for _, t := range sv.pending {
		t.finish(nil)
	}
	sv.pending = sv.pending[:0]
}

// trim deletes from a queue's log what its group has settled.
func (sv *serving) trim(ctx context.Context) {
	const every = 1024
	floor := engine.Offset(sv.machine.Position())
	if sv.group.topic.decl.Delivery != topic.Queue || floor-sv.trimmed < every || sv.machine.Dirty() {
		return
	}
	if err := sv.broker.engine.Trim(ctx, sv.log, floor); err != nil {
		sv.broker.log.Warn("trim a queue", "log", sv.log, "before", floor, "error", err)
		return
	}
	sv.trimmed = floor
}

// keyHash is the gate that a key goes through.
func (sv *serving) keyHash(key []byte) uint64 {
	if len(key) == 0 {
		return dispatch.NoKey
	}
	return max(1, maphash.Bytes(sv.broker.seed, key))
}

// join adds a session, once.
func (sv *serving) join(s *Session) {
	select {
	case <-s.gone:
		return
	default:
	}
	if sv.sessions[s.ID] != nil {
		return
	}
	j := &joined{Session: s, rank: scramble(uint64(s.ID)<<20 ^ uint64(sv.partition))}
	sv.sessions[s.ID] = j
	at := 0
	for at < len(sv.order) && sv.order[at].rank > j.rank {
		at++
	}
	sv.order = append(sv.order, nil)
	copy(sv.order[at+1:], sv.order[at:])
	sv.order[at] = j
	now := sv.broker.now()
	_ = sv.machine.Step(now, dispatch.Join{Session: s.ID, Until: now.Add(s.Lease)})
}

// hear tells the machine of heartbeats, before anything that could end a session for want of one: the shard may have been busy for
// longer than a lease.
func (sv *serving) hear() {
	now := sv.broker.now()
	for id, j := range sv.sessions {
		if until := j.until.Load(); until > j.heard {
			j.heard = until
			_ = sv.machine.Step(now, dispatch.Heartbeat{Session: id, Until: dispatch.Instant(until)})
		}
	}
}

func (sv *serving) leave(s *Session, crashed bool) {
	now := sv.broker.now()
	for _, slice := range s.unsent(sv.partition) {
		for raw := slice.Tokens; len(raw) > 0; raw = raw[TokenSize:] {
			if t, ok := sv.group.tokens.read(raw[:TokenSize]); ok {
				_ = sv.machine.Step(now, dispatch.Release{Token: t.Token})
			}
		}
	}
	_ = sv.machine.Step(now, dispatch.Leave{Session: s.ID, Crashed: crashed})
	sv.forget(s.ID)
}

// forget drops a session that the machine does not know any more.
func (sv *serving) forget(id dispatch.SessionID) {
	j := sv.sessions[id]
	if j == nil {
		return
	}
	delete(sv.sessions, id)
	for i, o := range sv.order {
		if o == j {
			sv.order = append(sv.order[:i], sv.order[i+1:]...)
			break
		}
	}
	j.give(j.leases)
}

// settleAccounts returns the credits of leases that are over, and ends sessions that were not heard of.
func (sv *serving) settleAccounts() {
	for id, j := range sv.sessions {
		leases, _, known := sv.machine.Leases(id)
		if !known {
			sv.forget(id)
			j.end(fail(SessionLost, "", "nothing was heard of the consumer for %v", j.Lease))
			continue
		}
		if over := j.leases - leases; over > 0 {
			j.leases = leases
			j.give(over)
		}
	}
}
