package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// recording is the ledger while it owns its shard. It belongs to the ledger's goroutine. After a commit whose outcome is not known it is thrown away,
// and another one begins at a new epoch with what is durable.
type recording struct {
	*ledger
	store     engine.Shard
	topics    map[engine.TopicID]*idIndex
	ids       int // in the tables of all topics
	segments  segments
	numbers   *numbers
	latest    int64 // when the last segment was written, in milliseconds since 1970
	expireAt  int64 // nothing expires before
	lookAt    int64 // for idle producers, not before
	timerAt   int64 // the timer that stopTimer stops
	stopTimer func() bool
	flying    []*flight // commits under way, the oldest first
	flights   int       // so far
}

// loadWindow stands for the windows of topics while they are not known.
const loadWindow = 80 * time.Second

// load reads what has to be in memory: the ids of all segments.
func (l *ledger) load(ctx context.Context, store engine.Shard) (*recording, error) {
	rc := &recording{
		ledger: l, store: store, topics: make(map[engine.TopicID]*idIndex), numbers: newNumbers(store),
		segments: segments{store: store, read: make(map[segmentName]*segment)},
	}
	if mutant.On(mutant.DedupeForgotten) {
		return rc, nil
	}
	for pair, err := range store.Scan(ctx, []byte{keySegment}, nil) {
		if err != nil {
			return nil, err
		}
		t, number, err := segmentOf(pair.Key)
		if err != nil {
			return nil, err
		}
		x := rc.topics[t]
		if x == nil {
			x = newIDIndex(t)
			x.first, x.next = number, number
			rc.topics[t] = x
		}
		timeMS, n, err := scanSegment(pair.Value, func(id uint64) { x.add(id, number) })
		if err != nil {
			return nil, err
		}
		rc.ids += n
		x.wrote(number, timeMS, loadWindow)
		rc.latest = max(rc.latest, timeMS)
	}
	return rc, nil
}

// now is the time of day, which does not go back behind what was written.
func (rc *recording) now() int64 { return max(rc.latest, rc.broker.wall().UnixMilli()) }

// serve works until ctx is done or what is durable is not known any longer.
func (rc *recording) serve(ctx context.Context) error {
	defer rc.setTimer(false)
	rc.signal()
	work := context.WithoutCancel(ctx) // what was begun is finished, so that callers know what became of it
	for {
		select { // of both any may be taken: what is done is chosen below
		case <-ctx.Done():
		case <-rc.wake:
		}
		rc.broker.turn(rc.ledger)
		if ctx.Err() != nil {
			return rc.finish(work)
		}
		select {
		case <-rc.wake: // what it tells of is done in this turn
		default:
		}
		asked := rc.work.asked.Load()
		if err := rc.turn(work); err != nil {
			return err
		}
		if len(rc.flying) == 0 {
			rc.work.ended.Store(asked)
		}
		rc.broker.stir()
	}
}

// turn ends the commits that are made, and begins one of each kind that there is work for. When more is left it signals, so that the end is seen in between.
func (rc *recording) turn(ctx context.Context) error {
	if err := rc.numbers.failed(); err != nil {
		return rc.abandon(ctx, err)
	}
	if err := rc.land(ctx, false); err != nil {
		return err
	}
	more := false
	if len(rc.flying) < mostFlying { // the end of one signals
		var calls []*ledgerCall
		calls, more = rc.take()
		if err := rc.commit(ctx, calls); err != nil {
			return err
		}
		more = more && len(rc.flying) < mostFlying
	}
	left, err := rc.expire(ctx)
	if err != nil {
		return rc.abandon(ctx, err)
	}
	if more || left {
		rc.signal()
	}
	rc.setTimer(true)
	return nil
}

// finish does the calls that are waiting.
func (rc *recording) finish(ctx context.Context) error {
	for more := true; more; {
		var calls []*ledgerCall
		calls, more = rc.take()
		if err := rc.commit(ctx, calls); err != nil {
			return err
		}
		if err := rc.land(ctx, true); err != nil {
			return err
		}
	}
	return nil
}

// nothingWritten tells whether an error of a commit says that nothing was written and that another one may succeed.
func nothingWritten(err error) bool {
	var own *Error
	return refused(err) || errors.As(err, &own) || errors.Is(err, errAborted) || errors.Is(err, errNotServing) && !errors.Is(err, engine.ErrUnknownOutcome)
}

// mostFlying bounds the commits that are under way: while one is synced, the next is made ready and handed to the engine.
const mostFlying = 2

// flight is a commit that is under way.
type flight struct {
	*entry
	number int
	done   chan struct{} // closed when what follows is set
	firsts []engine.Offset
	err    error
}

// String names the goroutine of a commit.
func (f *flight) String() string { return fmt.Sprintf("ledger's commit %d", f.number) }

// errBusy says that what becomes of a commit under way has to be known first.
var errBusy = errors.New("broker: the ledger waits for a commit")

// commit looks at calls and begins to store them in one commit. It answers those that it does not store. An error says that what is durable is not known
// any longer; all calls are answered then.
func (rc *recording) commit(ctx context.Context, calls []*ledgerCall) error {
	if len(calls) == 0 {
		return nil
	}
	if calls[0].lent != nil {
		if err := rc.land(ctx, true); err != nil {
			rc.refuse(calls)
			return err
		}
	}
	e := rc.begin()
	for i, c := range calls {
		err := e.add(ctx, c)
		if err == nil {
			continue
		}
		e.undo()
		if errors.Is(err, errBusy) {
			if err := rc.land(ctx, true); err != nil {
				rc.refuse(calls)
				return err
			}
			return rc.commit(ctx, calls)
		}
		if errors.Is(err, errNumbersOver) {
			rc.refuse(calls)
			return rc.abandon(ctx, rc.numbers.failed())
		}
		c.answer <- err
		if err := rc.commit(ctx, calls[:i]); err != nil {
			rc.refuse(calls[i+1:])
			return err
		}
		return rc.commit(ctx, calls[i+1:])
	}
	appends, scheduled := e.gather()
	writes := e.writes(appends)
	f := &flight{entry: e, done: make(chan struct{})}
	parts := []engine.Part{{Shard: rc.store, Writes: writes, Yields: true}}
	switch c := calls[0]; {
	case c.lent != nil:
		c.pub.parts = parts
		c.answer <- nil
		f.err = <-c.lent
		rc.broker.turn(rc.ledger)
		return rc.landed(ctx, f)
	case len(writes)+len(appends)+len(scheduled) == 0:
		f.place()
		f.tell(nil)
		return rc.landed(ctx, f)
	}
	rc.flights++
	f.number = rc.flights
	rc.flying = append(rc.flying, f)
	go func() { // land waits for it
		rc.broker.turn(f)
		f.firsts, f.err = rc.broker.store(ctx, parts, appends, scheduled)
		if f.err == nil {
			f.place()
		}
		close(f.done) // first: what a caller sends next finds the commit ended
		if f.err == nil {
			f.tell(nil)
		}
		rc.signal()
	}()
	return nil
}

// land ends the commits that are made, in their order, or with all waits for those under way.
func (rc *recording) land(ctx context.Context, all bool) error {
	for len(rc.flying) > 0 {
		f := rc.flying[0]
		if !all && !over(f.done) {
			return nil
		}
		<-f.done
		rc.broker.turn(rc.ledger)
		rc.flying = rc.flying[1:]
		if err := rc.landed(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// landed ends a commit: what is durable is noted. If it was refused, each of its calls is tried alone, so that one does not stand for another.
func (rc *recording) landed(ctx context.Context, f *flight) error {
	switch {
	case f.err == nil: // its callers know
		f.keep()
		f.free()
		return nil
	case !nothingWritten(f.err):
		f.tell(f.err)
		return rc.abandon(ctx, f.err)
	}
	f.undo()
	if len(f.calls) == 1 {
		f.tell(f.err)
		return nil
	}
	for i := range f.calls {
		err := rc.commit(ctx, f.calls[i:i+1])
		if err == nil {
			err = rc.land(ctx, true)
		}
		if err != nil {
			rc.refuse(f.calls[i+1:])
			return err
		}
	}
	return nil
}

// abandon waits for the commits under way after an error, and tells their callers what became of them. What the recording knows is of no use any more.
func (rc *recording) abandon(ctx context.Context, err error) error {
	for _, f := range rc.flying {
		<-f.done
		rc.broker.turn(rc.ledger)
		if f.err != nil {
			f.tell(f.err)
		}
	}
	rc.flying = nil
	return err
}

// refuse answers calls that were not tried.
func (rc *recording) refuse(calls []*ledgerCall) {
	for _, c := range calls {
		c.answer <- errNotServing
	}
}

// place gives the publications of a commit their places.
func (f *flight) place() {
	firsts := f.firsts
	for _, c := range f.calls {
		n := len(c.pub.appends)
		c.pub.place(firsts[:n])
		firsts = firsts[n:]
	}
}

// tell tells the callers of a commit how it ended.
func (f *flight) tell(err error) {
	for _, c := range f.calls {
		if c.lent == nil { // who made it himself knows
			c.answer <- err
		}
	}
}

// entry is what one commit adds to the ledger.
type entry struct {
	*recording
	timeMS   int64
	calls    []*ledgerCall
	added    map[engine.TopicID]*addition
	numbered map[[16]byte]*numbering
	order    [][16]byte // of them
}

// addition is the segment that a commit adds to a topic.
type addition struct {
	number uint64
	ids    []newID
}

func (rc *recording) begin() *entry {
	return &entry{recording: rc, timeMS: rc.now(), added: make(map[engine.TopicID]*addition), numbered: make(map[[16]byte]*numbering)}
}

// undo forgets what was noted of ids, and frees the producers.
func (e *entry) undo() {
	for t, a := range e.added {
		e.take(e.topics[t], a, 0)
	}
	clear(e.added)
	e.free()
}

// free gives the producers of the entry to whoever else wants them.
func (e *entry) free() {
	for _, id := range e.order {
		e.numbers.free(id)
	}
	clear(e.numbered)
	e.order = nil
}

// add looks at a publication and takes out what is known. An error is about the whole of it, and the entry is of no use then.
func (e *entry) add(ctx context.Context, c *ledgerCall) error {
	pub := c.pub
	pub.restore()
	left := make([]*routed, 0, len(pub.routes))
	for _, r := range pub.routes {
		known, err := e.number(ctx, pub, r)
		if err == nil && !known {
			err = e.identify(ctx, r)
		}
		var refused *Error
		switch {
		case errors.As(err, &refused):
			r.out.Refused = refused
		case err != nil:
			return err
		case !known:
			if r.number != 0 {
				n := e.numbered[pub.from.ID]
				n.added = append(n.added, r)
			}
			left = append(left, r)
		}
	}
	pub.routes = left
	pub.gather()
	e.calls = append(e.calls, c)
	return nil
}

// number looks a batch up by its number. If it is known, it has its answer, or will have it when the batch has that it repeats.
func (e *entry) number(ctx context.Context, pub *publication, r *routed) (known bool, err error) {
	if r.number == 0 {
		return false, nil
	}
	n := e.numbered[pub.from.ID]
	if n == nil {
		if e.isNumbering(pub.from.ID) {
			return false, errBusy
		}
		waited, err := e.numbers.hold(ctx, pub.from.ID) // whoever else holds it needs nothing of this goroutine
		if waited {
			e.broker.turn(e.ledger)
		}
		if err != nil {
			return false, err
		}
		n = &numbering{}
		e.numbered[pub.from.ID] = n
		e.order = append(e.order, pub.from.ID)
		if n.producer, err = e.numbers.get(ctx, pub.from.ID); err != nil {
			return false, err
		}
	}
	n.producer = n.since(pub.from.AnsweredBelow)
	known, refused := n.look(pub, r)
	if refused != nil {
		return false, refused
	}
	return known, nil
}

// identify looks the records of a batch up by their ids.
func (e *entry) identify(ctx context.Context, r *routed) error {
	if len(r.ids) == 0 {
		return nil
	}
	t := r.topic.id
	x := e.topics[t]
	if x == nil {
		x = newIDIndex(t)
		e.topics[t] = x
	}
	if e.ids+len(r.ids) > e.broker.limits.DedupeIDs {
		return fail(DedupeFull, "topic", "topic %q: more than %d ids of all topics are within their windows: a shorter window, or a greater bound, lets more in",
			r.topic.decl.Name, e.broker.limits.DedupeIDs).with("bound", e.broker.limits.DedupeIDs)
	}
	a := e.added[t]
	if a == nil {
		a = &addition{number: x.next}
		e.added[t] = a
	}
	before := len(a.ids)
	since := e.timeMS - r.topic.decl.Dedupe.Window.Milliseconds()
	counts := make([]uint32, len(r.parts))
	next := 0
	for i, p := range r.order {
		if next < len(r.ids) && r.ids[next].index == i {
			id := r.ids[next]
			next++
			known, err := e.find(ctx, x, a, r, id, since)
			if err != nil {
				e.take(x, a, before)
				return err
			}
			if known {
				continue
			}
			x.add(id.id, a.number)
			e.ids++
			n := newID{idOf: id, route: r}
			if p&isScheduled == 0 {
				n.ordinal = counts[p]
			}
			a.ids = append(a.ids, n)
		}
		if p&isScheduled == 0 {
			counts[p]++
		}
	}
	if len(r.duplicates) > 0 {
		r.drop()
	}
	return nil
}

// take forgets the ids of a topic that were noted from one on.
func (e *entry) take(x *idIndex, a *addition, from int) {
	for _, id := range a.ids[from:] {
		if x.remove(id.id, a.number) { // else it was forgotten, long after
			e.ids--
		}
	}
	a.ids = a.ids[:from]
}

// isFlying tells whether an id is in a segment that is being written.
func (rc *recording) isFlying(t engine.TopicID, number, id uint64) bool {
	for _, f := range rc.flying {
		if a := f.added[t]; a != nil && a.number == number {
			return slices.ContainsFunc(a.ids, func(n newID) bool { return n.id == id })
		}
	}
	return false
}

// isNumbering tells whether a commit under way has a batch of a producer.
func (rc *recording) isNumbering(id [16]byte) bool {
	return slices.ContainsFunc(rc.flying, func(f *flight) bool { return f.numbered[id] != nil })
}

// find looks for the id of a record. It is an error if another record has it.
func (e *entry) find(ctx context.Context, x *idIndex, a *addition, r *routed, id idOf, since int64) (known bool, err error) {
	var content uint64
	for number := range func(yield func(uint64) bool) { x.candidates(id.id, yield) } {
		if e.isFlying(x.topic, number, id.id) {
			return false, errBusy
		}
		if number == a.number {
			for _, first := range a.ids {
				if first.id == id.id {
					known, content = true, first.content
					r.duplicates = append(r.duplicates, duplicate{index: id.index, of: first.route, at: first.index})
					break
				}
			}
		} else {
			s, err := e.segments.get(ctx, x.topic, number)
			if err != nil {
				return false, err
			}
			if s == nil || s.timeMS <= since {
				continue
			}
			var first placedID
			if first, known = s.find(id.id); known {
				content = first.content
				r.duplicates = append(r.duplicates, duplicate{index: id.index, partition: first.partition, offset: first.offset})
			}
		}
		if known {
			break
		}
	}
	if known && content != id.content {
		text := r.id(id.index)
		return false, fail(DedupeConflict, "id", "record %d: another message was published under the id %q", id.index, clip(text)).with("index", id.index).with("id", clip(text))
	}
	return known, nil
}

// gather is what the publications of the commit store, whose parts now know which append they are.
func (e *entry) gather() (appends []engine.Append, scheduled []scheduledRecord) {
	for _, c := range e.calls {
		for i, owner := range c.pub.owners {
			owner.at = len(appends) + i
		}
		appends = append(appends, c.pub.appends...)
		scheduled = append(scheduled, c.pub.scheduled...)
	}
	return appends, scheduled
}

// writes is what the commit adds to the ledger. The segments are numbered with it.
func (e *entry) writes(appends []engine.Append) (writes []engine.Write) {
	for _, t := range slices.Sorted(maps.Keys(e.added)) {
		a := e.added[t]
		if len(a.ids) == 0 {
			continue
		}
		writes = append(writes, segmentWrite(t, a.number, e.timeMS, a.ids, appends))
		x, window := e.topics[t], a.ids[0].route.topic.decl.Dedupe.Window
		x.wrote(a.number, e.timeMS, window)
		e.latest = max(e.latest, e.timeMS)
		e.expireAt = min(e.expireAt, x.expiresAt(window))
	}
	for _, id := range e.order {
		n := e.numbered[id]
		if len(n.added) == 0 {
			continue
		}
		writes = n.writes(writes, id, e.timeMS, appends)
	}
	return writes
}

// keep notes what is durable now.
func (e *entry) keep() {
	for _, id := range e.order {
		n := e.numbered[id]
		switch {
		case len(n.added) == 0:
		case e.calls[0].lent != nil: // which does not have its places here
			e.numbers.drop(id)
		default:
			e.numbers.set(id, n.with(n.added))
		}
	}
}

// expiring is the segments of a topic that are older than its window.
type expiring struct {
	*idIndex
	until uint64
	marks int
}

// expire deletes what is too old to matter. It tells whether there is more.
func (rc *recording) expire(ctx context.Context) (more bool, err error) {
	now := rc.now()
	if now < min(rc.expireAt, rc.lookAt) {
		return false, nil
	}
	var (
		writes []engine.Write
		gone   []expiring
	)
	windows := rc.broker.dedupeWindows()
	for _, t := range slices.Sorted(maps.Keys(rc.topics)) {
		x := rc.topics[t]
		if until, marks := x.over(now, windows[t]); marks > 0 {
			writes = append(writes, engine.Write{Key: segmentKey(t, x.first), Until: segmentKey(t, until), Delete: true})
			gone = append(gone, expiring{x, until, marks})
		}
	}
	forgotten, writes, more, err := rc.idleProducers(ctx, now, writes)
	defer func() {
		for _, id := range forgotten {
			rc.numbers.free(id)
		}
	}()
	if err != nil {
		return false, err
	}
	if !more {
		rc.lookAt = now + seenEvery.Milliseconds()
	}
	notBefore := now + 1
	defer func() {
		rc.expireAt = never
		for t, x := range rc.topics {
			rc.expireAt = min(rc.expireAt, max(notBefore, x.expiresAt(windows[t])))
		}
	}()
	if len(writes) == 0 {
		return false, nil
	}
	_, err = rc.broker.engine.Commit(ctx, []engine.Part{{Shard: rc.store, Writes: writes}}, nil)
	if nothingWritten(err) {
		notBefore = now + markEvery.Milliseconds()
		rc.lookAt = notBefore
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, g := range gone {
		rc.ids -= g.used
		g.idIndex.marks = slices.Clone(g.idIndex.marks[g.marks:])
		g.forget(g.until)
		rc.ids += g.used
	}
	for _, id := range forgotten {
		rc.numbers.drop(id)
	}
	return more, nil
}

// idlePage bounds the producers that are looked at in one commit.
const idlePage = 1000

// idleProducers adds the deletion of producers that were not heard of for long. Those that are gone then are held, and are for the caller to free, also after an error.
func (rc *recording) idleProducers(ctx context.Context, now int64, writes []engine.Write) (gone [][16]byte, _ []engine.Write, more bool, err error) {
	before := now - (ProducerIdle + seenEvery).Milliseconds()
	if before < 0 {
		return nil, writes, false, nil
	}
	looked := 0
	for pair, err := range rc.store.Scan(ctx, []byte{keySeen}, nil) {
		if err != nil {
			return gone, nil, false, err
		}
		if len(pair.Key) != 1+8+16 {
			return gone, nil, false, errLedgerValue
		}
		at := int64(binary.BigEndian.Uint64(pair.Key[1:]))
		if at > before {
			break
		}
		if looked++; looked > idlePage {
			return gone, writes, true, nil
		}
		id := [16]byte(pair.Key[9:])
		if slices.Contains(gone, id) || rc.isNumbering(id) { // a commit under way has it, so it is not idle: the next look finds what else is
			break
		}
		waited, err := rc.numbers.hold(ctx, id)
		if waited {
			rc.broker.turn(rc.ledger)
		}
		if err != nil {
			return gone, nil, false, err
		}
		p, err := rc.numbers.get(ctx, id)
		if err != nil {
			rc.numbers.free(id)
			return gone, nil, false, err
		}
		if p.seenMS <= at {
			gone = append(gone, id)
			writes = append(writes, engine.Write{Key: producerKey(id), Delete: true})
		} else {
			rc.numbers.free(id)
		}
		writes = append(writes, engine.Write{Key: slices.Clone(pair.Key), Delete: true})
	}
	return gone, writes, false, nil
}

// dedupeWindows are the windows of the topics that have one.
func (b *Broker) dedupeWindows() map[engine.TopicID]time.Duration {
	b.mu.RLock()
	defer b.mu.RUnlock()
	windows := make(map[engine.TopicID]time.Duration)
	for _, t := range b.mu.topics {
		windows[t.id] = t.decl.Dedupe.Window
	}
	return windows
}

// setTimer arranges for the next thing to expire, or for none.
func (rc *recording) setTimer(on bool) {
	if rc.stopTimer != nil && (!on || rc.timerAt != rc.expireAt) {
		rc.stopTimer()
		rc.stopTimer = nil
	}
	if !on || rc.stopTimer != nil {
		return
	}
	if rc.expireAt == never {
		return
	}
	rc.timerAt = rc.expireAt
	wait := time.Duration(rc.expireAt-rc.broker.wall().UnixMilli()) * time.Millisecond
	rc.stopTimer = rc.broker.clock.AfterFunc(max(time.Millisecond, wait), rc.signal)
}
