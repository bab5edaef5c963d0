package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Violation is something that must never happen and did.
type Violation struct {
	Invariant int
	Event     int // index in the history, -1 if it is about the whole
	Text      string
}

// Verdict is what the checker thinks of a history.
type Verdict struct {
	Violations []Violation
	Duplicates map[string]int // by cause
}

// Invariants names what is checked, by number.
var Invariants = map[int]string{
	1: "no acknowledged loss", 2: "no phantom, corruption or misroute", 10: "delay", 3: "no aborted read", 4: "every duplicate has a cause", 5: "order", 6: "exclusive lease",
	7: "fencing", 8: "attempts and backoff", 9: "dead letters", 12: "filter", 13: "transactions", 14: "liveness", 15: "positions", 16: "conservation", 17: "bounded memory", 18: "disk",
}

// Check goes through a history once, telling models what happened and asking them whether it was allowed. It costs O(n log n).
func Check(h *History) Verdict {
	c := &checker{
		plan: &h.Plan, models: map[groupName]*model{}, published: map[uint64]*publication{}, at: map[logPlace]uint64{}, keyEnd: map[keyName]int64{},
		claimants: map[uint64]claimant{}, expired: map[string]expiry{}, settling: map[settlement]judgement{}, inLog: map[uint64]bool{}, dead: map[groupName]map[place]Event{}, shards: map[shardName]Event{},
		txs: map[int]*transacted{}, seen: map[uint64]bool{},
	}
	c.verdict.Duplicates = map[string]int{}
	for i := range h.Plan.Groups {
		g := &h.Plan.Groups[i]
		c.models[groupName{g.Name, g.Topic}] = newModel(g, h.Plan.topic(g.Topic))
	}
	c.learn(h.Events)
	for i := range h.Events {
		c.index = i
		if h.Events[i].Kind == Detected { // what follows is on a store that told of its damage
			return c.verdict
		}
		c.event(&h.Events[i])
	}
	c.index = -1
	if c.healed && !c.stopped {
		c.end()
	}
	return c.verdict
}

type groupName struct{ group, topic string }

type keyName struct{ topic, key string }

type logPlace struct {
	topic string
	place
}

type shardName struct {
	groupName
	partition uint32
}

// publication is what is known of a published record.
type publication struct {
	Event
	result   Result
	cancels  int   // calls that may have taken it back
	canceled bool  // one did
	after    int64 // the greatest offset of its key that was confirmed when it was invoked
	settled  bool
}

type settlement struct {
	op    int
	group groupName
	place
	epoch uint64
	lease uint32
}

// judgement is what was thought of a settlement when it was invoked.
type judgement struct {
	stale string // why it must not succeed, empty if it may
	at    time.Duration
}

// claimant is who claimed a partition, and when it began to.
type claimant struct {
	client string
	at     time.Duration
}

// expiry is the end of a sidecar's lease: until is when it must have noticed.
type expiry struct{ at, until time.Duration }

type checker struct {
	plan    *Plan
	verdict Verdict
	index   int

	models    map[groupName]*model
	published map[uint64]*publication
	at        map[logPlace]uint64
	keyEnd    map[keyName]int64
	settling  map[settlement]judgement
	pauseEnd  time.Duration
	jumped    bool
	ahead     bool          // the clock was set forward since a sidecar started
	trusted   time.Duration // when a sidecar started with a clock that had been set forward, last
	healed    bool
	stopped   bool // by an anomaly after which the end was not looked at

	claimants map[uint64]claimant // by epoch
	expired   map[string]expiry   // by sidecar

	txs  map[int]*transacted
	seen map[uint64]bool // uids that were delivered or are in a log

	placeOf map[uint64]place // made at the end

	inLog  map[uint64]bool
	dead   map[groupName]map[place]Event
	shards map[shardName]Event
}

func (c *checker) violate(invariant int, format string, args ...any) {
	if len(c.verdict.Violations) < 50 {
		c.verdict.Violations = append(c.verdict.Violations, Violation{invariant, c.index, fmt.Sprintf(format, args...)})
	}
}

// learn finds out which messages there are and where, so that order can be judged as the history goes.
func (c *checker) learn(events []Event) {
	ttls := map[uint64]time.Duration{}
	for i := range events {
		e := &events[i]
		if e.Kind == Publish && e.TTL > 0 {
			ttls[e.UID] = e.TTL
		}
		if e.Tx != 0 {
			c.takePart(e)
		}
		if (e.Kind == Receive || e.Kind == InLog) && e.Result == OK {
			c.seen[e.UID] = true
		}
		known := e.Kind == Published && e.Result == OK || e.Kind == Receive && e.Result == OK || e.Kind == InLog && e.Result == OK
		if known && e.Offset >= 0 && e.UID != 0 {
			for g, m := range c.models {
				if g.topic == e.Topic {
					m.exists(place{e.Partition, e.Offset}, e.UID, e.Key)
				}
			}
		}
		if e.Kind == InDead || e.Kind == Redrive || e.Kind == Discard {
			if m := c.models[groupName{e.Group, e.Topic}]; m != nil {
				m.fate(place{e.Partition, e.Offset}).everDead = true
			}
		}
	}
	whole := slices.ContainsFunc(events, func(e Event) bool { return e.Kind == InShard })
	for _, m := range c.models {
		for _, f := range m.fates {
			if p, ok := ttls[f.uid]; ok {
				f.ttl = p
			}
		}
		m.sortLines()
		m.blind, m.jumpy = !whole, c.plan.Faults.Clock
	}
}

func (c *checker) event(e *Event) {
	m := c.models[groupName{e.Group, e.Topic}]
	switch e.Kind {
	case Publish:
		c.published[e.UID] = &publication{Event: *e, result: Unknown, after: c.confirmed(e.Topic, e.Key)}
	case Published:
		c.confirm(e)
	case Join:
		m.sessions[e.Session] = &stay{lease: e.After, until: e.At + e.After}
	case Beat:
		if s := m.sessions[e.Session]; e.At >= s.until {
			s.expired = true
		} else {
			s.until = e.At + s.lease
		}
	case Leave:
		m.sessions[e.Session].left = true
	case Receive:
		c.receive(m, e)
	case Settle:
		c.settle(m, e)
	case Settled:
		c.settled(m, e)
	case Redrive:
		f := m.fate(place{e.Partition, e.Offset})
		f.redrive, f.redriven = true, len(f.leases)
	case Redriven:
		f := m.fate(place{e.Partition, e.Offset})
		if e.Result == OK && len(f.leases) == f.redriven {
			f.reset()
		}
	case Cancel:
		c.published[e.UID].cancels++
	case Canceled:
		p := c.published[e.UID]
		p.canceled = p.canceled || e.Result == OK
		if e.Result == Fail {
			p.cancels--
		}
	case Discard:
		m.fate(place{e.Partition, e.Offset}).discard++
	case Discarded:
		f := m.fate(place{e.Partition, e.Offset})
		switch e.Result {
		case OK:
			f.discarded = true
		case Fail:
			f.discard--
		}
	case Fence, Fenced, Commit:
		c.ownership(m, e)
	case Expire:
		if x := c.expired[e.Client]; e.At >= x.until {
			c.expired[e.Client] = expiry{e.At, e.At + e.After}
		}
	case Pause:
		c.pauseEnd = max(c.pauseEnd, e.At+e.After)
		for _, m := range c.models { // what was asked for may take effect after it
			for _, o := range m.shards {
				for i := range o.extended {
					o.extended[i] += e.After
				}
			}
		}
	case Clock:
		c.jumped = true
		c.ahead = c.ahead || e.After > 0
	case Start:
		if c.ahead { // a sidecar that starts takes the clock at its word
			c.ahead, c.trusted = false, e.At
		}
	case Heal:
		c.healed = true
	case Position:
		c.position(m, e)
	case Weight:
		c.weigh(m, e)
	case Unservable:
		c.stopped = true
		c.violate(cmp.Or(int(e.Bound), 14), "%s", e.Detail)
	case InLog:
		c.logged(e)
	case InDead:
		g := groupName{e.Group, e.Topic}
		if c.dead[g] == nil {
			c.dead[g] = map[place]Event{}
		}
		if _, twice := c.dead[g][place{e.Partition, e.Offset}]; twice {
			c.violate(9, "a dead letter is listed twice")
		}
		c.dead[g][place{e.Partition, e.Offset}] = *e
	case InShard:
		c.shards[shardName{groupName{e.Group, e.Topic}, e.Partition}] = *e
	}
}

func (f *fate) reset() {
	f.lo, f.hi, f.buried, f.burials, f.notBefore = 0, 0, false, 0, 0
}

// confirmed is the greatest confirmed offset of a key, or -1.
func (c *checker) confirmed(topic, key string) int64 {
	if end, ok := c.keyEnd[keyName{topic, key}]; ok {
		return end
	}
	return noOffset
}

// confirm takes the answer to a publish.
func (c *checker) confirm(e *Event) {
	p := c.published[e.UID]
	p.result = e.Result
	if e.Result != OK {
		if e.Offset != noOffset {
			c.violate(15, "a publish that did not succeed has offset %d", e.Offset)
		}
		return
	}
	if p.After > 0 && e.Offset == noOffset {
		return // it has its place when it is due
	}
	if e.Offset < 0 {
		c.violate(15, "a publish succeeded with offset %d", e.Offset)
		return
	}
	p.Partition, p.Offset, p.settled = e.Partition, e.Offset, true
	at := logPlace{e.Topic, place{e.Partition, e.Offset}}
	if other, taken := c.at[at]; taken && other != e.UID {
		c.violate(15, "offset %d of %s/%d belongs to uid %d and to uid %d", e.Offset, e.Topic, e.Partition, other, e.UID)
	}
	c.at[at] = e.UID
	if e.Offset <= p.after {
		c.violate(5, "uid %d of key %q has offset %d, after one that was confirmed before it at %d", e.UID, e.Key, e.Offset, p.after)
	}
	k := keyName{e.Topic, e.Key}
	c.keyEnd[k] = max(e.Offset, c.confirmed(e.Topic, e.Key))
}

// receive judges a delivery: whether it may be, now, to this consumer.
func (c *checker) receive(m *model, e *Event) {
	f := m.fate(place{e.Partition, e.Offset})
	p := c.published[e.UID]
	at := logPlace{e.Topic, place{e.Partition, e.Offset}}
	switch {
	case e.Result != OK:
		c.violate(2, "content of uid %d is not what was published", e.UID)
		return
	case p == nil:
		c.violate(2, "uid %d was never published", e.UID)
		return
	case p.Topic != e.Topic || p.Key != e.Key:
		c.violate(2, "uid %d was published to %s with key %q", e.UID, p.Topic, p.Key)
	case p.result == Fail:
		c.violate(3, "uid %d was refused", e.UID)
	case p.settled && (p.Partition != e.Partition || p.Offset != e.Offset):
		c.violate(2, "uid %d was published to partition %d at offset %d", e.UID, p.Partition, p.Offset)
	}
	if other, taken := c.at[at]; taken && other != e.UID {
		c.violate(15, "offset %d of %s/%d belongs to uid %d and to uid %d", e.Offset, e.Topic, e.Partition, other, e.UID)
	}
	c.at[at] = e.UID
	if !m.group.Filter.Wants(e.UID) {
		c.violate(12, "uid %d is not what the filter wants", e.UID)
	}
	if due := p.At + p.After; p.After > 0 && e.At < due-time.Millisecond && !c.movedOn(p.At) {
		c.violate(10, "uid %d comes %v before it is due", e.UID, due-e.At)
	}
	if p.canceled {
		c.violate(10, "uid %d was canceled", e.UID)
	}
	c.fenceDelivery(m, e)
	if e.Epoch < m.owner(e.Partition).claiming && f.succeeded(e.Epoch) {
		c.verdict.Duplicates["from an owner that was succeeded"]++
		return // it is nobody's lease any more
	}
	if now := f.current(); now != nil && now.epoch == e.Epoch && e.Lease < now.lease && m.mayBeGone(e.Session, e.At) {
		c.verdict.Duplicates["overtaken on its way"]++
		return
	}
	if f.redrive {
		f.lo = 0
		if e.Attempt == 1 {
			f.reset()
			f.redrive = false
		}
	}
	if now := f.current(); now != nil {
		c.again(m, f, now, e)
	}
	c.attempts(m, f, e)
	c.order(m, f, e)
	f.leases = append(f.leases, tenure{epoch: e.Epoch, lease: e.Lease, session: e.Session})
	f.at, f.hi = e.At, int(e.Attempt)-1
	f.lo = max(f.lo, int(e.Attempt)-1)
	f.notBefore = 0
}

// movedOn tells whether a sidecar started, after an instant, with a clock that had been set forward: then it is later than it was.
func (c *checker) movedOn(since time.Duration) bool { return c.trusted > since }

// again judges a delivery of a message that was delivered before.
func (c *checker) again(m *model, f *fate, before *tenure, e *Event) {
	switch {
	case f.acked:
		c.violate(4, "uid %d is delivered after its acknowledgement was confirmed", e.UID)
		return
	case f.discarded:
		c.violate(9, "uid %d is delivered after it was discarded", e.UID)
		return
	case f.buried && !f.redrive:
		c.violate(9, "uid %d is delivered after it became a dead letter", e.UID)
		return
	case before.epoch == e.Epoch && before.lease == e.Lease:
		c.violate(6, "lease %d of epoch %d of uid %d is given twice", e.Lease, e.Epoch, e.UID)
		return
	}
	why, over := m.mayBeOver(f, before, e.At)
	switch {
	case over && why == "settled":
		c.verdict.Duplicates["settled for another time"]++
	case over:
		c.verdict.Duplicates[why]++
	case f.redrive:
		c.verdict.Duplicates["redriven"]++
	default:
		c.violate(6, "uid %d is delivered while session %d holds it under lease %d of epoch %d", e.UID, before.session, before.lease, before.epoch)
	}
}

// attempts judges the number of a delivery, and its time.
func (c *checker) attempts(m *model, f *fate, e *Event) {
	counted := int(e.Attempt) - 1
	switch {
	case counted >= int(m.group.MaxAttempts):
		c.violate(8, "attempt %d of uid %d: at most %d are made", e.Attempt, e.UID, m.group.MaxAttempts)
	case counted < f.lo:
		c.violate(8, "attempt %d of uid %d after %d were counted", e.Attempt, e.UID, f.lo)
	case counted > m.most(f):
		c.violate(8, "attempt %d of uid %d after at most %d were counted", e.Attempt, e.UID, m.most(f))
	case e.At < f.notBefore && !c.jumped:
		c.violate(8, "uid %d comes %v before its wait is over", e.UID, f.notBefore-e.At)
	}
}

// order judges whether a message's turn has come.
func (c *checker) order(m *model, f *fate, e *Event) {
	l, ordered := m.lineOf(f)
	if !ordered || m.lines[l] == nil {
		return
	}
	q := m.lines[l]
	if h := q.holder; h != nil && h != f && !h.acked {
		if _, over := m.mayBeOver(h, h.current(), e.At); !over {
			c.violate(5, "uid %d of key %q is delivered while session %d holds uid %d of that key", e.UID, e.Key, h.current().session, h.uid)
		}
	}
	q.holder = f
	if first := m.ahead(f); first != nil {
		c.violate(5, "uid %d of key %q at offset %d is delivered before uid %d at offset %d is settled", e.UID, e.Key, e.Offset, first.uid, first.offset)
	}
}

// patience is how long an owner may work without knowing that it was succeeded: for as long as its lease would have lasted, and for what was on its way then.
func (c *checker) patience(o *owner) time.Duration {
	limit := o.at + leaseTTL
	if o.by == o.before {
		limit = o.at // it knows itself
	}
	return max(limit, c.pauseEnd) + slack
}

// slack is how long a delivery may be on its way: a consumer polls, a network delays.
const slack = 3 * time.Second

// fenceDelivery judges a delivery by an owner that was succeeded, or whose lease is over.
func (c *checker) fenceDelivery(m *model, e *Event) {
	o := m.owner(e.Partition)
	if e.Epoch < o.fenced && e.At > c.patience(o) {
		c.violate(7, "uid %d is delivered under epoch %d, %v after epoch %d claimed the partition", e.UID, e.Epoch, e.At-o.at, o.fenced)
	}
	by := c.claimants[e.Epoch]
	if x, ended := c.expired[by.client]; ended && by.at < x.at && e.At > max(x.until, c.pauseEnd)+slack {
		c.violate(7, "uid %d is delivered under epoch %d, %v after its owner's lease was over", e.UID, e.Epoch, e.At-x.until)
	}
}

// settle notes what a consumer is about to do, and judges whether it can succeed.
func (c *checker) settle(m *model, e *Event) {
	f := m.fate(place{e.Partition, e.Offset})
	j := judgement{at: e.At}
	t, last := f.find(e.Epoch, e.Lease)
	o := m.owner(e.Partition)
	repeat := e.Outcome == Acked || e.Outcome == Skipped
	// An owner that does not know yet that it was succeeded answers what it has nothing to write for.
	free := e.Outcome == Released || e.Outcome == Extended || repeat && t != nil && t.acked
	if e.Tx != 0 { // a transaction repeats itself by its id, and always has something to write
		repeat, free = false, false
	}
	switch {
	case e.Epoch < o.fenced && (!free || e.At > c.patience(o)):
		j.stale = fmt.Sprintf("epoch %d claimed the partition before", o.fenced)
	case t == nil || free && e.Epoch < o.fenced:
	case !last && !(repeat && t.settled):
		j.stale = "the message was leased anew before"
	case t.settled && t.done != Extended && !(repeat && (t.done == Acked || t.done == Skipped)):
		j.stale = "it was settled before with " + t.done.String()
	case !repeat && m.sessions[t.session] != nil && m.sessions[t.session].left:
		j.stale = "its consumer had left"
	}
	c.settling[settlement{e.Op, groupName{e.Group, e.Topic}, f.place, e.Epoch, e.Lease}] = j
	if t == nil {
		return
	}
	switch e.Outcome {
	case Retried, Snoozed: // a wait that is over in another way leaves its timer for as long as it would have lasted
		o.extended = append(o.extended, e.At+max(e.After, 2*m.group.Max)+c.late())
	}
	switch e.Outcome {
	case Acked, Skipped:
		f.acks++
		t.acked = true
	case Rejected, Undecodable:
		f.burials++
	case Retried:
		if m.most(f) >= int(m.group.MaxAttempts) {
			f.burials++
		}
	case Extended:
		if end := e.At + e.After; t.ext == 0 || end < t.ext {
			t.ext = end
		}
		o.extended = append(o.extended, e.At+e.After+c.late())
		return
	}
	t.ended = true
}

// late is how long after it was made a call may take effect, but for pauses.
func (c *checker) late() time.Duration {
	if c.plan.Faults.Stall > 0 {
		return callTimeout*4 + longestStall
	}
	return callTimeout * 4
}

// settled takes the answer.
func (c *checker) settled(m *model, e *Event) {
	f := m.fate(place{e.Partition, e.Offset})
	key := settlement{e.Op, groupName{e.Group, e.Topic}, f.place, e.Epoch, e.Lease}
	j := c.settling[key]
	t, last := f.find(e.Epoch, e.Lease)
	if t == nil {
		if e.Result == OK && j.stale != "" {
			c.violate(7, "%s of uid %d under lease %d of epoch %d succeeded: %s", e.Outcome, e.UID, e.Lease, e.Epoch, j.stale)
		}
		return
	}
	if e.Result == Fail {
		switch e.Outcome {
		case Acked, Skipped:
			f.acks--
		case Rejected, Undecodable:
			f.burials--
		}
		return
	}
	if e.Result != OK {
		return
	}
	if j.stale != "" {
		c.violate(7, "%s of uid %d under lease %d of epoch %d succeeded: %s", e.Outcome, e.UID, e.Lease, e.Epoch, j.stale)
		return
	}
	t.settled, t.done = true, e.Outcome
	switch e.Outcome {
	case Acked, Skipped:
		f.acked = true
		if !last {
			c.violate(4, "uid %d was delivered again while its acknowledgement succeeded", e.UID)
		}
	case Retried:
		if !last {
			break // it came again before the answer did
		}
		f.lo++
		wait := e.After
		if wait < 0 {
			wait = m.group.backoff(f.lo)
		}
		f.notBefore = j.at + wait
		if f.lo >= int(m.group.MaxAttempts) {
			f.buried = true
		}
	case Snoozed:
		if last {
			f.notBefore = j.at + e.After
		}
	case Rejected, Undecodable:
		f.buried = last
	}
}

// ownership judges claims and commits: epochs grow, and what was succeeded writes no more.
func (c *checker) ownership(m *model, e *Event) {
	if m == nil { // the catalogue's
		m = c.models[groupName{e.Group, e.Topic}]
		if m == nil {
			m = newModel(&Group{}, &Topic{})
			c.models[groupName{e.Group, e.Topic}] = m
		}
	}
	o := m.owner(e.Partition)
	switch e.Kind {
	case Fence:
		o.claiming = max(o.claiming, e.Epoch)
		if _, known := c.claimants[e.Epoch]; !known {
			c.claimants[e.Epoch] = claimant{e.Client, e.At}
		}
	case Fenced:
		if e.Epoch < o.fenced && e.Bound >= int64(o.step) {
			c.violate(7, "epoch %d claims the partition after epoch %d", e.Epoch, o.fenced)
		}
		if e.Epoch > o.fenced {
			o.fenced, o.at, o.step, o.before, o.by = e.Epoch, e.At, e.Step, o.by, e.Client
		}
	case Commit:
		if e.Epoch < o.fenced && e.Bound > int64(o.step) {
			c.violate(7, "the store took a commit of epoch %d after epoch %d claimed the partition", e.Epoch, o.fenced)
		}
	}
}

// position judges where a group was seen: it moves back over nothing but what is filtered, which is settled again at no cost.
func (c *checker) position(m *model, e *Event) {
	o := m.owner(e.Partition)
	if e.Epoch < o.fenced {
		return // seen by one who does not know yet that it was succeeded
	}
	for at := e.Offset; at < o.position; at++ {
		if f := m.fates[place{e.Partition, at}]; f != nil && m.group.Filter.Wants(f.uid) {
			c.violate(15, "the position went back from %d to %d", o.position, e.Offset)
			break
		}
	}
	o.position = max(o.position, e.Offset)
}

func (c *checker) weigh(m *model, e *Event) {
	bound := e.Bound
	switch e.Detail {
	case "timers":
		o := m.owner(e.Partition)
		o.extended = slices.DeleteFunc(o.extended, func(end time.Duration) bool { return end < e.At })
		bound += int64(len(o.extended))
	case "messages known":
	default:
		if e.Count != 0 {
			c.violate(16, "%d %s (session %d)", e.Count, e.Detail, e.Session)
		}
		return
	}
	if e.Count > bound {
		c.violate(17, "%d %s: at most %d", e.Count, e.Detail, bound)
	}
}

// logged judges a record of a log as it is read at the end.
func (c *checker) logged(e *Event) {
	p := c.published[e.UID]
	at := logPlace{e.Topic, place{e.Partition, e.Offset}}
	switch {
	case e.Result != OK || p == nil || p.Topic != e.Topic || p.Key != e.Key:
		c.violate(2, "the log holds a record of uid %d that was not published so", e.UID)
		return
	case p.result == Fail:
		c.violate(3, "the log holds uid %d, which was refused", e.UID)
	case c.inLog[e.UID]:
		c.violate(4, "the log holds uid %d twice", e.UID)
	}
	if other, taken := c.at[at]; taken && other != e.UID {
		c.violate(18, "offset %d of %s/%d holds uid %d and held uid %d", e.Offset, e.Topic, e.Partition, e.UID, other)
	}
	c.at[at] = e.UID
	c.inLog[e.UID] = true
}

// end judges what is left when every group was drained.
func (c *checker) end() {
	c.placeOf = make(map[uint64]place, len(c.at))
	for at, uid := range c.at {
		c.placeOf[uid] = at.place
	}
	c.transactions()
	for _, uid := range slices.Sorted(maps.Keys(c.published)) {
		p := c.published[uid]
		t := c.plan.topic(p.Topic)
		gone := p.cancels > 0 || p.canceled
		if p.canceled && c.inLog[uid] {
			c.violate(10, "uid %d was canceled and is in the log", uid)
		}
		if gone && (!c.inLog[uid] || t.Queue) {
			continue
		}
		if p.result == OK && !t.Queue && !c.inLog[uid] {
			c.violate(18, "uid %d was confirmed at %s/%d@%d and is not in the log", uid, p.Topic, p.Partition, p.Offset)
		}
		if p.result != OK && !c.inLog[uid] {
			continue
		}
		for i := range c.plan.Groups {
			if g := &c.plan.Groups[i]; g.Topic == p.Topic {
				c.account(g, uid)
			}
		}
	}
	for i := range c.plan.Groups {
		c.books(&c.plan.Groups[i])
	}
}

// account asks what became of a message in a group.
func (c *checker) account(g *Group, uid uint64) {
	name := groupName{g.Name, g.Topic}
	m := c.models[name]
	f := m.fates[c.placeOf[uid]]
	if f == nil || f.uid != uid {
		c.violate(1, "uid %d has no place", uid)
		return
	}
	_, dead := c.dead[name][f.place]
	switch {
	case !g.Filter.Wants(uid):
		if dead {
			c.violate(12, "uid %d is a dead letter of %s, which does not want it", uid, g.Name)
		}
	case f.acked && dead:
		c.violate(9, "uid %d was acknowledged by %s and is a dead letter", uid, g.Name)
	case f.discarded && dead:
		c.violate(9, "uid %d was discarded by %s and is a dead letter", uid, g.Name)
	case f.buried && !dead && f.discard == 0 && !f.redrive && !g.DropDead && !f.acked:
		c.violate(9, "uid %d was given up by %s and is no dead letter", uid, g.Name)
	case f.acked || f.acks > 0 || dead || f.discard > 0:
	case m.mayExpire(c.published[uid].TTL):
	case g.DropDead && (f.buried || f.burials > 0 || m.most(f) >= int(g.MaxAttempts)):
	default:
		c.violate(1, "uid %d was published and %s has neither acknowledged nor buried it", uid, g.Name)
	}
}

// books compares what the broker counts with what there is.
func (c *checker) books(g *Group) {
	name := groupName{g.Name, g.Topic}
	m := c.models[name]
	count := map[uint32]int64{}
	for at, e := range c.dead[name] {
		count[at.partition]++
		f := m.fates[at]
		switch {
		case f == nil || f.uid != e.UID:
			c.violate(9, "dead letter %d@%d of %s has uid %d, which was not there", at.partition, at.offset, g.Name, e.UID)
		case e.Detail == "attempts_spent" && m.most(f) < int(g.MaxAttempts) && int(e.Attempt) < int(g.MaxAttempts):
			c.violate(9, "uid %d died of %d attempts: %d are made", e.UID, e.Attempt, g.MaxAttempts)
		case (e.Detail == "permanent" || e.Detail == "undecodable") && f.burials == 0 && !f.buried:
			c.violate(9, "uid %d is a dead letter as %s, which nobody said", e.UID, e.Detail)
		case int(e.Attempt) < f.lo:
			c.violate(8, "uid %d died with %d attempts after %d were counted", e.UID, e.Attempt, f.lo)
		}
	}
	for p := range m.topic.Partitions {
		s, ok := c.shards[shardName{name, p}]
		switch {
		case !ok:
			c.violate(14, "nobody serves partition %d of %s to %s", p, g.Topic, g.Name)
		case s.Dead != count[p]:
			c.violate(16, "partition %d of %s counts %d dead letters of %s: there are %d", p, g.Topic, s.Dead, g.Name, count[p])
		case s.Count != 0 || s.Offset != int64(s.Epoch):
			c.violate(16, "%s stands at %d of %d in partition %d of %s with %d to go", g.Name, s.Offset, s.Epoch, p, g.Topic, s.Count)
		}
	}
}
