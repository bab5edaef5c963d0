package broker

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

const (
	// flushAfter is how long changes that nobody waits for stay unsaved.
	flushAfter = time.Second
	// roundsPerTurn bounds how long a shard works before it looks at its calls again.
	roundsPerTurn = 16
)

// serving is a shard while it owns its partition: the machines of its lanes and what the shell keeps beside them. It belongs to the shard's
// goroutine.
type serving struct {
	*shard
	broker  *Broker
	claim   claimed
	store   engine.Shard
	lanes   []*lane // the lowest priority first
	machine *dispatch.Lanes
	readies []dispatch.Ready // by lane, of this round
	grants  dispatch.Grant   // the present one, kept for reuse

	sessions map[dispatch.SessionID]*joined
	order    []*joined          // the sessions in the order of candidates
	owner    dispatch.SessionID // the session that the partition belongs to, as order knows it

	extra   []engine.Write // written with the next commit
	replies []Reply        // appended with the next commit
	moved   map[int64]bool // numbers of dead letters (laneNumber) that extra redrives or discards
	buried  int64          // dead letters that the commit under way stores
	renewed int64          // those among them that replace an older one of the same message
	pending []task         // whose effects are not durable yet
	loans   []task         // transactions that wait for the shard to stand still
	counted Counters
	dead    int64 // dead letters that are stored

	flushAt   dispatch.Instant // when unsaved changes are saved, 0 if there are none
	roomAt    dispatch.Instant // when it is looked again for room to lease, 0 if there is, or nothing to lease
	stopTimer func() bool
}

// joined is a session as one partition knows it.
type joined struct {
	*Session
	leases  int    // that its budget counts as unsettled for this partition
	bytes   int64  // of them
	suspect bool   // the one that its budget counts is of this partition
	freed   uint64 // the budget's, when this partition leased last
	heard   int64  // the end of its leases that the machine knows from heartbeats
	rank    uint64
}

func newServing(ctx context.Context, s *shard, got claimed, store engine.Shard) (*serving, error) {
	sv := &serving{shard: s, broker: s.group.broker, claim: got, store: store, sessions: make(map[dispatch.SessionID]*joined), moved: make(map[int64]bool)}
	now := sv.broker.now()
	saved, dead, err := sv.loadState(ctx, now)
	if err != nil {
		return nil, err
	}
	sv.dead = dead
	if mutant.On(mutant.CachedAfterLoss) {
		if s.cached == nil {
			s.cached = saved
		}
		saved = s.cached
	}
	machines := make([]*dispatch.Partition, len(saved))
	for i := range saved {
		l, err := sv.openLane(ctx, uint8(i), saved[i], now)
		if err != nil {
			sv.stop()
			return nil, err
		}
		sv.lanes = append(sv.lanes, l)
		machines[i] = l.machine
	}
	sv.machine = dispatch.NewLanes(machines...)
	sv.readies = make([]dispatch.Ready, len(machines))
	return sv, nil
}

// serve works until ctx is done or the partition cannot be owned any longer.
func (sv *serving) serve(ctx context.Context) error {
	for _, s := range sv.group.allSessions() { // those that came before calls were let in
		sv.join(s)
	}
	decl := sv.group.policy.Load().decl // it may have been replaced before calls were let in
	sv.reconfigure(policyOf(decl))
	for _, l := range sv.lanes { // what retention deleted meanwhile
		sv.passTo(l, dispatch.Offset(l.trimmed))
	}
	sv.signal()
	for {
		select { // of several that are there any may be taken: what is done is chosen below
		case <-ctx.Done():
		case <-sv.claim.lost:
		case <-sv.wake:
		}
		runtime.Gosched() // others first, if there are any: more may have come by then for this turn
		sv.broker.turn(sv.shard)
		if ctx.Err() != nil {
			return sv.finish()
		}
		if over(sv.claim.lost) {
			return errLeaseOver
		}
		select {
		case <-sv.wake: // what it tells of is done in this turn
		default:
		}
		asked := sv.work.asked.Load()
		if err := sv.turn(ctx); err != nil {
			return err
		}
		sv.work.ended.Store(asked)
		sv.broker.stir()
	}
}

// stop ends what serve left running.
func (sv *serving) stop() {
	for _, l := range sv.lanes {
		l.unwatch()
	}
	if sv.stopTimer != nil {
		sv.stopTimer()
	}
	for _, j := range sv.order {
		j.unsent(sv.partition) // the next owner leases these anew, perhaps to another
		j.settled(0, 0, false)
	}
	sv.withdraw()
}

// finish releases all leases, saves what is unsaved, and answers who waits.
func (sv *serving) finish() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	sv.step(sv.takeCalls())
	for _, j := range sv.order {
		_ = sv.machine.Step(sv.broker.now(), dispatch.Leave{Session: j.ID})
	}
	if err := sv.commit(ctx, sv.ready(true)); err != nil {
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
	for _, t := range sv.loans {
		t.finish(errors.Join(errNotServing, err))
	}
	sv.loans = nil
}

// turn does all there is to do now.
func (sv *serving) turn(ctx context.Context) error {
	sv.hear()
	sv.step(sv.takeCalls())
	if err := sv.lendAll(ctx); err != nil {
		return err
	}
	now := sv.broker.now()
	sv.grow(now)
	_ = sv.machine.Step(now, dispatch.Tick{})
	for round := 0; ; round++ {
		sv.hear() // the last round may have taken longer than a lease
		fetched, err := sv.fetch(ctx)
		if err != nil {
			return err
		}
		granted := sv.grant()
		sv.passOn() // before the commit: others need not wait for it
		if sv.leaseOver() {
			return errLeaseOver
		}
		ready := sv.ready(sv.flushDue())
		if mutant.On(mutant.AckBeforeCommit) {
			sv.answer()
		}
		if err := sv.commit(ctx, ready); err != nil {
			return err
		}
		if err := sv.deliverAll(ctx, ready); err != nil {
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
	sv.letGo()
	sv.trim(ctx)
	sv.setTimer()
	return nil
}

// leaseOver tells whether somebody else may own the partition by now.
func (sv *serving) leaseOver() bool {
	return !mutant.On(mutant.WatchOnlyLoss) && !sv.broker.clock.Now().Before(sv.broker.cluster.Deadline()) || over(sv.claim.lost)
}

// deliverAll sends what was leased, what is urgent first, after the commit that goes before. That may have taken longer than the lease of the claim: then nothing is
// sent, and who waits for the commit is answered.
func (sv *serving) deliverAll(ctx context.Context, ready []dispatch.Ready) error {
	if sv.leaseOver() {
		sv.answer()
		return errLeaseOver
	}
	for i := len(ready) - 1; i >= 0; i-- {
		if err := sv.deliver(ctx, sv.lanes[i], ready[i].Deliver); err != nil {
			return err
		}
	}
	return nil
}

// grow tells the machines how far their logs go.
func (sv *serving) grow(now dispatch.Instant) {
	for _, l := range sv.lanes {
		_ = l.machine.Step(now, dispatch.Grown{End: dispatch.Offset(l.end.Load())})
	}
}

// reconfigure replaces the policy of the machines.
func (sv *serving) reconfigure(p dispatch.Policy) {
	for _, l := range sv.lanes {
		l.machine.Reconfigure(p)
	}
}

// ready takes the work of each lane. It is valid until the next step of its machine.
func (sv *serving) ready(flush bool) []dispatch.Ready {
	for i, l := range sv.lanes {
		sv.readies[i] = l.machine.Ready(flush)
	}
	return sv.readies
}

// step runs calls. What they change is made durable, and they are answered, by the next commit.
func (sv *serving) step(calls []task) {
	for _, t := range calls {
		if t.loan != nil {
			sv.loans = append(sv.loans, t)
			continue
		}
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
	for _, l := range sv.lanes {
		if l.trimAt != 0 && !l.machine.Dirty() && (!ok || l.trimAt < at) { // what is dirty is saved first
			at, ok = l.trimAt, true
		}
	}
	if sv.roomAt != 0 && (!ok || sv.roomAt < at) {
		at, ok = sv.roomAt, true
	}
	if sv.stopTimer != nil {
		sv.stopTimer()
		sv.stopTimer = nil
	}
	if ok {
		sv.stopTimer = sv.broker.clock.AfterFunc(max(0, at.Sub(sv.broker.now())), sv.signal)
	}
}

// commit makes the saves of all lanes durable at once, with whatever calls want to be written beside them.
func (sv *serving) commit(ctx context.Context, ready []dispatch.Ready) error {
	needed := len(sv.extra)+len(sv.replies) > 0
	for i := range ready {
		needed = needed || ready[i].Save.Needed
	}
	if !needed {
		return nil
	}
	writes, err := sv.writes(ctx, ready)
	if err != nil {
		return err
	}
	if mutant.On(mutant.DeadLetterInTwo) && sv.buried > 0 {
		if _, err := sv.store.Commit(ctx, engine.Batch{Writes: deadLetterWrites(writes)}); err != nil {
			return err
		}
	}
	err = sv.write(ctx, writes)
	if mutant.On(mutant.DeadLetterErrorLost) && sv.buried > 0 {
		err = nil
	}
	if err != nil {
		return err
	}
	sv.saved(writes)
	return nil
}

// write commits what the lanes save, and with it the replies of calls that are settled by that.
func (sv *serving) write(ctx context.Context, writes []engine.Write) error {
	_, err := sv.store.Commit(ctx, engine.Batch{Writes: writes, Appends: replyAppends(sv.replies, sv.broker.wall())})
	var corrupt *engine.CorruptError
	if errors.As(err, &corrupt) && corrupt.Log.Topic == repliesTopic && len(sv.replies) > 0 {
		// The callers meet their deadlines. That is better than a group that settles nothing any more.
		sv.broker.log.Error("replies are lost: their log is damaged", "group", sv.group.name, "topic", sv.group.topicName(), "count", len(sv.replies), "error", corrupt)
		sv.broker.postboxes.lost.Add(uint64(len(sv.replies)))
		_, err = sv.store.Commit(ctx, engine.Batch{Writes: writes})
	}
	clear(sv.replies)
	sv.replies = sv.replies[:0]
	return err
}

// writes is what has to be written of the saves of all lanes, and beside them. They are to be made durable, and then saved called, before anything else is
// done with the machines.
func (sv *serving) writes(ctx context.Context, ready []dispatch.Ready) (writes []engine.Write, err error) {
	sv.buried, sv.renewed = 0, 0
	writes = sv.extra // before the saves, which may go on from it: a redriven message can be settled already
	for i := range ready {
		if writes, err = sv.encode(ctx, writes, sv.lanes[i], &ready[i].Save); err != nil {
			return nil, err
		}
	}
	return writes, nil
}

// saved notes that writes are durable.
func (sv *serving) saved(writes []engine.Write) {
	if !sv.machine.Dirty() { // another lane's changes may still wait for their second
		sv.flushAt = 0
	}
	clear(writes)
	sv.extra = writes[:0]
	sv.dead += sv.buried - sv.renewed
	sv.counted.DeadLettered += sv.buried
	clear(sv.moved)
}

// deadLetterWrites are the writes that store dead letters.
func deadLetterWrites(all []engine.Write) (dead []engine.Write) {
	for _, w := range all {
		if w.Key[0] == keyDeadLetter {
			dead = append(dead, w)
		}
	}
	return dead
}

// answer tells callers that what they asked for is durable and what followed from it is on its way.
func (sv *serving) answer() {
	for _, t := range sv.pending {
		t.finish(nil)
	}
	sv.pending = sv.pending[:0]
}

// keyHash is the gate that a key goes through.
func (sv *serving) keyHash(key []byte) uint64 { return hashKey(sv.broker.seed, key) }

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
	sv.order = append(sv.order, j)
	sv.sortSessions()
	now := sv.broker.now()
	_ = sv.machine.Step(now, dispatch.Join{Session: s.ID, Until: now.Add(s.Lease)})
}

// hear tells the machine of heartbeats, before anything that could end a session for want of one: the shard may have been busy for
// longer than a lease.
func (sv *serving) hear() {
	now := sv.broker.now()
	for _, j := range sv.order {
		if until := j.until.Load(); until > j.heard {
			j.heard = until
			_ = sv.machine.Step(now, dispatch.Heartbeat{Session: j.ID, Until: dispatch.Instant(until)})
		}
	}
}

func (sv *serving) leave(s *Session, crashed bool) {
	now := sv.broker.now()
	for _, run := range s.unsent(sv.partition) {
		for i := range run.leases {
			_ = sv.lanes[run.lane].machine.Step(now, dispatch.Release{Token: run.token(i).Token})
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
	j.settled(0, 0, false)
}

// settleAccounts returns the credits of leases that are over, and ends sessions that were not heard of.
func (sv *serving) settleAccounts() {
	leased := 0 // extended leases outlive their sessions
	for _, l := range sv.lanes {
		leased += l.machine.Stats().Leased
	}
	sv.leases.Store(int64(leased))
	for i := len(sv.order) - 1; i >= 0; i-- { // from the end: forget closes the gap
		j := sv.order[i]
		leases, bytes, known := sv.machine.Leases(j.ID)
		if !known {
			j.unsent(sv.partition) // the leases of these are over
			sv.forget(j.ID)
			j.end(fail(SessionLost, "", "nothing was heard of the consumer for %v", j.Lease))
			continue
		}
		j.settled(leases, bytes, j.suspect && sv.machine.Suspect(j.ID))
	}
}
