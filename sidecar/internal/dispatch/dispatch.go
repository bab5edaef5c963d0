// Package dispatch decides which message goes to whom, and when, for one group in one partition of a topic.
//
// A Partition is a state machine: a function of its state, an event and the time. It has no clock, goroutine, lock, I/O, randomness or
// log, so whatever happens in production can be replayed in a test. The shell around it (package broker) feeds events to Step,
// takes the resulting work from Ready, makes Ready.Save durable, and only then sends Ready.Deliver and answers its callers. If saving
// fails the shell throws the Partition away and makes a new one from what is durable.
//
//	(unseen) ─Fetched─▶ READY ─Grant─▶ LEASED ─Ack──────────────────────▶ SETTLED
//	                     │ ▲             │ ├──Reject, attempts spent─────▶ SETTLED + Burial
//	            key busy ▼ │ key free    │ ├──Nack, lease over───┐
//	                    PARKED           │ └──Snooze─────────────┴▶ WAITING ─time─▶ READY
//	                                     └──Release, Leave─▶ READY
//
// What is remembered per message lives in pages of 256 offsets, freed when all of their messages are settled, so the cost of a
// message is some array accesses and, where keys are ordered, one entry in a map.
package dispatch

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Instant is a point in time on the caller's monotonic clock, in nanoseconds from an origin of the caller's choice.
type Instant int64

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Offset is the place of a message in the partition.
type Offset int64

// none is no message's offset.
const none Offset = -1

// maxWindow bounds how far the position may trail what was fetched, in offsets: what is settled in between is remembered in blocks.
const maxWindow = 1 << 26

// suspicious is how many sessions have to vanish with a message before it is leased on its own.
const suspicious = 2

// SessionID names a consumer's presence, unique for the life of the Partition. 0 is nobody.
type SessionID uint64

// Ordering says which messages wait for one another.
type Ordering uint8

// The orderings.
const (
	PerKey Ordering = iota
	PerPartition
	Unordered
)

// NoKey is the key of a message that waits for no other even where keys are ordered.
const NoKey uint64 = 0

// Message is what the machine has to know about a message of the log.
type Message struct {
	Offset Offset
	// Key is a hash of the message's key, or NoKey. Keys of equal hash are kept in one order, which is harmless.
	Key uint64
	// Size is what the message weighs against a session's credits in bytes.
	Size uint32
	// Expires is when the message is no longer worth a delivery, 0 for never. It is looked at when its turn comes.
	Expires Instant
	// Filtered says that the group does not want the message: it is settled at once.
	Filtered bool
}

// Retry is the policy after a counted attempt.
type Retry struct {
	MaxAttempts uint32        // ≥ 1
	Initial     time.Duration // > 0
	Max         time.Duration // ≥ Initial
	Coefficient float64       // ≥ 1
	Jitter      float64       // share of the wait added at most, 0 to 1
}

// Policy is what a subscription may change while messages are on their way.
type Policy struct {
	Retry Retry
	// DropDead settles a message that would become a dead letter without burying it.
	DropDead bool
	// HoldKey lets the later messages of a dead letter's key wait until it is redriven or discarded.
	HoldKey bool
	// BuryExpired makes a dead letter of a message that expires.
	BuryExpired bool
}

// Config is the policy of the subscription and the bounds of the machine.
type Config struct {
	Epoch    uint64 // of the owner, part of every token
	Ordering Ordering
	Policy
	// MaxLosses bounds how many sessions may vanish with a message before it becomes a dead letter, 0 for no bound.
	MaxLosses uint32
	// Lookahead bounds the messages that are fetched and were never leased, ≥ 1.
	Lookahead int
	// MaxUnsettled bounds the messages that are known and not settled, ≥ Lookahead.
	MaxUnsettled int
	// MaxParked bounds the messages that wait behind another of their key, 0 for no bound: with so many nothing more is fetched.
	MaxParked int
	// JitterSeed varies the jitter between partitions and owners.
	JitterSeed uint64
}

// Partition is the machine. It is for one goroutine.
type Partition struct {
	cfg Config

	floor  Offset // every offset below is settled
	fresh  Offset // offsets from here to cursor were never considered for a lease
	cursor Offset // offsets from here on were not fetched
	end    Offset // of the log, as far as known
	begin  Offset // of the log, as far as known: what is below it does not come any more

	pages          pages
	held           map[Offset]uint64 // dead letters that hold their key
	heldKeys       map[uint64]int    // how many dead letters hold a key
	redriven       map[Offset]*entry // dead letters given back, whatever the floor
	failures       map[Offset]*failure
	gates          gates
	again          queue // ready for another time: retries, released, unparked
	suspects       queue // the same, of messages that several sessions vanished with
	timers         timers
	extended       map[Offset]extension // leases that were extended on their own
	redrivenLeases uint32               // leases of redriven messages so far
	leaseBase      uint32               // leases before the last seek had numbers up to this
	leaseMax       uint32               // the greatest number of a lease so far
	tally          Tally
	sessions       []*session
	byID           map[SessionID]*session
	texts          int              // bytes of the errors that failures keep
	restored       map[int64]Bitmap // settled blocks of the snapshot that were not fetched yet

	count   Stats
	pending Ready
	dirty   bool // something changed that Save would tell
	urgent  bool // and somebody waits for it to be durable
	moved   bool // the floor moved since the last Save
}

// New returns a machine in the state that the snapshot tells. The zero Snapshot is a group's beginning at offset 0.
func New(cfg Config, snap Snapshot, now Instant) *Partition {
	p := &Partition{
		cfg:      cfg,
		floor:    snap.Floor,
		fresh:    snap.Floor,
		cursor:   snap.Floor,
		end:      snap.Floor,
		begin:    snap.Begin,
		pages:    newPages(snap.Floor, packAbove),
		held:     make(map[Offset]uint64, len(snap.Held)),
		heldKeys: make(map[uint64]int, len(snap.Held)),
		redriven: make(map[Offset]*entry),
		failures: make(map[Offset]*failure, len(snap.Failures)),
		extended: make(map[Offset]extension),
		byID:     make(map[SessionID]*session),
		restored: make(map[int64]Bitmap, len(snap.Blocks)),
	}
	for _, b := range snap.Blocks {
		p.restored[b.Index] = b.Settled
	}
	for _, f := range snap.Failures {
		p.failures[f.Offset] = &failure{attempts: f.Attempts, losses: f.Losses, first: p.text(f.FirstError), last: p.text(f.LastError), due: f.Due, wait: f.Wait}
	}
	for _, m := range snap.Held {
		p.hold(m.Offset, p.gateKey(m.Key))
	}
	for _, m := range slices.SortedFunc(slices.Values(snap.Redriven), func(a, b Message) int { return cmp.Compare(a.Offset, b.Offset) }) {
		p.redrive(m)
	}
	p.urgent, p.moved = false, false
	p.dirty = len(p.pending.Save.DropRedriven) > 0
	return p
}

// Step applies an event. The error is about the event alone; the machine is always consistent after it.
// Errors: ErrLeaseLost, ErrUnknownSession.
func (p *Partition) Step(now Instant, ev Event) error {
	err := p.apply(now, ev)
	if _, ok := ev.(Heartbeat); !ok { // the heartbeat of another session may be the next event
		p.fire(now)
	}
	return err
}

func (p *Partition) apply(now Instant, ev Event) error {
	switch ev := ev.(type) {
	case Grown:
		p.end = max(p.end, ev.End)
	case *Fetched:
		p.fetched(ev)
	case Join:
		p.join(ev)
	case Leave:
		return p.leave(ev)
	case Heartbeat:
		return p.heartbeat(ev)
	case *Grant:
		return p.grant(now, ev)
	case *Ack:
		p.ack(ev)
	case Nack:
		return p.nack(now, ev)
	case Reject:
		return p.reject(ev)
	case Snooze:
		return p.snooze(now, ev)
	case Release:
		return p.release(ev)
	case Extend:
		return p.extend(ev)
	case Redrive:
		for _, m := range ev.Messages {
			p.redrive(m)
		}
	case Discard:
		for _, o := range ev.Offsets {
			p.discard(o)
		}
	case *Trimmed:
		p.trimmed(ev)
	case Seek:
		p.seek(now, ev.To)
	case Tick:
	default:
		panic(fmt.Sprintf("dispatch: unknown event %T", ev))
	}
	return nil
}

// Want tells which messages the machine can use next: those from an offset on, at most n. n is 0 when it needs none.
func (p *Partition) Want() (from Offset, n int) {
	if p.cursor >= p.end || len(p.sessions) == 0 {
		return p.cursor, 0
	}
	if p.cfg.MaxParked > 0 && p.count.Parked >= p.cfg.MaxParked || p.cursor-p.floor >= maxWindow {
		return p.cursor, 0
	}
	ahead := int(p.cursor - p.fresh)
	if ahead > p.cfg.Lookahead/2 { // by halves, so that a consumer of one message at a time does not cost a read for each
		return p.cursor, 0
	}
	n = min(p.cfg.Lookahead-ahead, p.cfg.MaxUnsettled-p.count.unsettled(), int(maxWindow-(p.cursor-p.floor)))
	return p.cursor, max(0, n)
}

// Backlog is how many messages a Grant could lease, at most: some of them may prove to be held back by their key.
func (p *Partition) Backlog() int { return p.again.len() + p.suspects.len() + int(p.cursor-p.fresh) }

// Suspects is how many of the backlog need a Grant with Suspect.
func (p *Partition) Suspects() int { return p.suspects.len() }

// Wake is the earliest instant at which a Tick can matter, if there is one.
func (p *Partition) Wake() (Instant, bool) {
	at, ok := p.timers.earliest()
	for _, s := range p.sessions {
		if s.until != 0 && (!ok || s.until < at) {
			at, ok = s.until, true
		}
	}
	return at, ok
}

// Position is the floor: every offset below is settled.
func (p *Partition) Position() Offset { return p.floor }

// Leases is how many messages a session has leased, what they weigh, and whether the machine knows the session.
func (p *Partition) Leases(id SessionID) (n int, size int64, known bool) {
	s, err := p.session(id)
	if err != nil {
		return 0, 0, false
	}
	return s.leases, s.size, true
}

// Suspect tells whether a session has leased a message that needed a Grant with Suspect.
func (p *Partition) Suspect(id SessionID) bool {
	s, err := p.session(id)
	return err == nil && s.suspects > 0
}

// Reconfigure replaces the policy. It holds for what happens from now on: keys that are held stay so.
func (p *Partition) Reconfigure(policy Policy) { p.cfg.Policy = policy }

// Stats counts the messages that the machine knows and has not settled, by state.
type Stats struct {
	Ready, Leased, Waiting, Parked int
	// SettledAbove counts what is settled at or above the position.
	SettledAbove int
	// Held counts the dead letters that hold their key.
	Held int
}

// Tally counts what happened since New.
type Tally struct {
	// LeasesExpired counts leases that ended because their time was over.
	LeasesExpired int64
	// Losses counts leases whose session vanished.
	Losses int64
	// Expired counts messages that were not worth a delivery any more.
	Expired int64
}

// Tally tells what happened since New.
func (p *Partition) Tally() Tally { return p.tally }

func (s Stats) unsettled() int { return s.Ready + s.Leased + s.Waiting + s.Parked }

// Stats counts messages by state.
func (p *Partition) Stats() Stats { return p.count }

// Lag is how many messages below the log's end are not settled, redriven ones included.
func (p *Partition) Lag() int64 { return int64(p.end-p.cursor) + int64(p.count.unsettled()) }
