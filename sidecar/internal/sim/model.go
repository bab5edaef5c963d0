package sim

import (
	"cmp"
	"slices"
	"time"
)

// model is the naive twin of a group: maps and lists of what its clients know, from which it tells what a consumer may be given next. It knows nothing of
// how the broker works, only what docs/semantics.md promises. Where the clients cannot know, it allows both.
type model struct {
	group *Group
	topic *Topic
	fates map[place]*fate
	lines map[line]*queue // what waits for one another, by offset

	sessions map[int]*stay
	shards   map[uint32]*owner
	jumpy    bool // the wall clock jumps
	blind    bool // the dead letters were not looked at in the end
}

type place struct {
	partition uint32
	offset    int64
}

// line is a key in a partition, or the partition where all of it is in order.
type line struct {
	partition uint32
	key       string
}

// queue is the messages of a line, and how far all of them could be settled.
type queue struct {
	offsets []int64
	settled int
	holder  *fate // the message of it that was received last
}

// stay is a consumer's session.
type stay struct {
	lease   time.Duration
	until   time.Duration // it cannot have run out before
	left    bool
	expired bool // it may have run out
}

// owner is what is known of who owns a partition.
type owner struct {
	claiming uint64 // the highest epoch that a claim was begun at
	fenced   uint64 // and that was claimed for certain
	at       time.Duration
	step     int
	by       string // the sidecar that claimed it
	before   string // and the one before
	position int64
	extended []time.Duration // until when timers may be left of extended leases and of waits
}

// tenure is one lease of a message.
type tenure struct {
	epoch   uint64
	lease   uint32
	session int
	ended   bool          // its holder may have settled it
	ext     time.Duration // the end that an extension gave it, 0 for none
	done    Outcome       // with what it was settled for certain
	settled bool
	acked   bool // somebody tried to acknowledge it
}

// fate is what is known of one message in the group.
type fate struct {
	place
	uid    uint64
	key    string
	ttl    time.Duration
	leases []tenure // in the order in which they were received

	acks, burials int // settlements that may have taken effect
	acked, buried bool
	lo, hi        int           // attempts that were counted: at least, at most
	at            time.Duration // when it was received last
	notBefore     time.Duration
	redrive       bool // it may have been given back
	redriven      int  // leases at that time
	discard       int
	discarded     bool
	everDead      bool // it was a dead letter at some time
}

func newModel(g *Group, t *Topic) *model {
	return &model{
		group: g, topic: t, fates: map[place]*fate{}, lines: map[line]*queue{}, sessions: map[int]*stay{}, shards: map[uint32]*owner{},
	}
}

func (m *model) fate(p place) *fate {
	f := m.fates[p]
	if f == nil {
		f = &fate{place: p}
		m.fates[p] = f
	}
	return f
}

func (m *model) owner(partition uint32) *owner {
	o := m.shards[partition]
	if o == nil {
		o = &owner{}
		m.shards[partition] = o
	}
	return o
}

// lineOf is what a message waits in, and whether it waits at all.
func (m *model) lineOf(f *fate) (line, bool) {
	switch m.topic.Ordering {
	case PerKey:
		return line{f.partition, f.key}, true
	case PerPartition:
		return line{f.partition, ""}, true
	}
	return line{}, false
}

// exists notes a message of the topic's log before the history is gone through.
func (m *model) exists(p place, uid uint64, key string) {
	f := m.fate(p)
	if f.uid != 0 {
		return
	}
	f.uid, f.key = uid, key
	if l, ok := m.lineOf(f); ok {
		q := m.lines[l]
		if q == nil {
			q = &queue{}
			m.lines[l] = q
		}
		q.offsets = append(q.offsets, p.offset)
	}
}

func (m *model) sortLines() {
	for _, q := range m.lines {
		slices.SortFunc(q.offsets, func(a, b int64) int { return cmp.Compare(a, b) })
	}
}

// most is how many attempts may have been counted: one for the lease that was received last, and one for each session that may have had the message since
// and did not live to see it.
func (m *model) most(f *fate) int {
	n := f.hi
	if len(f.leases) > 0 {
		n++
	}
	for _, s := range m.sessions {
		if s.until >= f.at {
			n++
		}
	}
	return n
}

// couldBeSettled tells whether later messages of its line may go.
func (m *model) couldBeSettled(f *fate) bool {
	return f.acked || f.acks > 0 || f.buried || f.burials > 0 || f.everDead || f.discard > 0 || !m.group.Filter.Wants(f.uid) ||
		m.mayExpire(f.ttl) || (m.group.DropDead || m.blind) && m.most(f) >= int(m.group.MaxAttempts)
}

// mayExpire tells whether a message may have expired before it was settled.
func (m *model) mayExpire(ttl time.Duration) bool {
	return ttl > 0 && (ttl < time.Minute || m.jumpy)
}

// ahead is a message of the line of f that must be settled before f goes, or nil.
func (m *model) ahead(f *fate) *fate {
	l, ordered := m.lineOf(f)
	if !ordered {
		return nil
	}
	q := m.lines[l]
	if q == nil {
		return nil
	}
	for q.settled < len(q.offsets) {
		first := m.fates[place{f.partition, q.offsets[q.settled]}]
		if first.offset >= f.offset {
			return nil
		}
		if !m.couldBeSettled(first) {
			return first
		}
		q.settled++
	}
	return nil
}

// current is the lease that was received last, or nil.
func (f *fate) current() *tenure {
	if len(f.leases) == 0 {
		return nil
	}
	return &f.leases[len(f.leases)-1]
}

// succeeded tells whether a later owner has given the message out.
func (f *fate) succeeded(epoch uint64) bool {
	now := f.current()
	return now != nil && now.epoch > epoch
}

// find returns a lease and whether it is the last one.
func (f *fate) find(epoch uint64, lease uint32) (t *tenure, last bool) {
	for i := len(f.leases) - 1; i >= 0; i-- {
		if f.leases[i].epoch == epoch && f.leases[i].lease == lease {
			return &f.leases[i], i == len(f.leases)-1
		}
	}
	return nil, false
}

// mayBeOver tells whether a lease may have ended, and why.
func (m *model) mayBeOver(f *fate, t *tenure, now time.Duration) (why string, over bool) {
	if t.ended {
		return "settled", true
	}
	return m.mayBeTaken(f, t, now)
}

// mayBeTaken tells whether a lease may have ended without its holder's doing.
func (m *model) mayBeTaken(f *fate, t *tenure, now time.Duration) (why string, over bool) {
	s := m.sessions[t.session]
	switch {
	case m.owner(f.partition).claiming > t.epoch:
		return "owner changed", true
	case s == nil || s.left:
		return "consumer gone", true
	case s.expired || now >= s.until:
		return "lease ended", true
	case t.ext != 0 && now >= t.ext:
		return "extension ended", true
	}
	return "", false
}

// mayBeGone tells whether the broker may have given a session up.
func (m *model) mayBeGone(session int, now time.Duration) bool {
	s := m.sessions[session]
	return s == nil || s.left || s.expired || now >= s.until
}

// backoff is the least wait after so many attempts.
func (g *Group) backoff(attempts int) time.Duration {
	wait := g.Initial
	for range attempts - 1 {
		wait = min(2*wait, g.Max)
	}
	return wait
}
