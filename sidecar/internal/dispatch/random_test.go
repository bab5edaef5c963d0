package dispatch

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestRandomEvents runs random conversations, with owners that die at any moment, against a twin that knows only the promises and keeps them in
// plain maps: a message is leased to one at a time and in order of its key, attempts and losses are counted and bounded, a dead letter that
// holds its key is waited for, what has expired is not delivered, a seek forgets, and in the end each message is settled.
// SEEDS in the environment says how many conversations, 30 if it is not set.
func TestRandomEvents(t *testing.T) {
	seeds := uint64(30)
	if s, err := strconv.ParseUint(os.Getenv("SEEDS"), 10, 64); err == nil {
		seeds = s
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { newConversation(t, seed).run() })
	}
}

// twin is what must be true of a message whatever happens.
type twin struct {
	Message
	settled  bool // or passed over by a seek
	redriven bool
	dead     bool // there is a dead letter of it
	holds    bool // which holds its key
	attempts uint32
	losses   uint32
	lease    *Token
	session  SessionID
	// forgotten says that a seek or an expiry may have settled it, so that no outcome is known.
	forgotten bool
}

type conversation struct {
	*testing.T
	rng     *rand.Rand
	cfg     Config
	log     []*twin // by offset
	end     Offset
	store   store
	p       *Partition
	now     Instant
	live    []SessionID
	last    SessionID
	seeks   int
	begin   Offset // of the log
	granted Grant  // the last
	calm    bool
}

func newConversation(t *testing.T, seed uint64) *conversation {
	rng := rand.New(rand.NewPCG(seed, 1))
	c := &conversation{T: t, rng: rng, store: newStore()}
	c.cfg = Config{
		Epoch: 1, Ordering: Ordering(rng.IntN(3)), Lookahead: 1 + rng.IntN(600), JitterSeed: seed, MaxLosses: uint32(rng.IntN(5)), MaxParked: rng.IntN(3) * 50,
		Policy: Policy{
			Retry:    Retry{MaxAttempts: uint32(1 + rng.IntN(4)), Initial: time.Millisecond, Max: 5 * time.Millisecond, Coefficient: 2, Jitter: 0.5},
			HoldKey:  rng.IntN(2) == 0,
			DropDead: rng.IntN(6) == 0, BuryExpired: rng.IntN(2) == 0,
		},
	}
	c.cfg.MaxUnsettled = c.cfg.Lookahead + rng.IntN(2000)
	offset := Offset(rng.IntN(3) * 100)
	for range 700 {
		m := Message{Offset: offset, Filtered: rng.IntN(20) == 0, Size: uint32(rng.IntN(100))}
		if rng.IntN(10) > 0 {
			m.Key = uint64(1 + rng.IntN(30))
		}
		if rng.IntN(20) == 0 {
			m.Expires = Instant(1 + rng.IntN(int(2*time.Second)))
		}
		c.log = append(c.log, &twin{Message: m})
		offset++
		if rng.IntN(100) == 0 {
			offset += Offset(rng.IntN(600))
		}
	}
	c.end = offset
	c.store.keyOf = func(o Offset) uint64 { return c.at(o).Key }
	c.reopen()
	return c
}

func (c *conversation) at(o Offset) *twin {
	i, ok := slices.BinarySearchFunc(c.log, o, func(m *twin, o Offset) int { return int(m.Offset - o) })
	if !ok {
		c.Fatalf("offset %d was never in the log", o)
	}
	return c.log[i]
}

func (c *conversation) run() {
	for i := 0; !c.done(); i++ {
		if i > 400_000 {
			c.Fatalf("no end in sight: floor %d of %d, %+v", c.p.Position(), c.end, c.p.Stats())
		}
		c.calm = i > 20_000 // then only what brings things to an end
		c.event()
		for _, s := range c.p.sessions {
			s.until = max(s.until, c.now.Add(ms(10))) // heartbeats, so that leases end only by what the twin sees
		}
		c.work(c.rng.IntN(10) == 0)
	}
	c.work(true)
	for _, m := range c.log {
		if !m.forgotten && !m.Filtered && !m.settled && m.Expires == 0 {
			c.Fatalf("offset %d is not settled: %+v", m.Offset, m)
		}
	}
	if p, st := c.p, c.store; len(p.failures)+p.gates.count+len(p.extended)+len(p.held)+len(p.redriven) > 0 || len(st.failures)+len(st.redriven) > 0 || len(st.blocks) > 1 {
		c.Fatalf("left behind: %d failures, %d gates, %d held, %d redriven; stored %d failures, %d redriven, %d blocks",
			len(p.failures), p.gates.count, len(p.held), len(p.redriven), len(st.failures), len(st.redriven), len(st.blocks))
	}
}

func (c *conversation) done() bool {
	return c.p.Position() == c.end && len(c.p.redriven)+len(c.store.held) == 0
}

func (c *conversation) step(ev Event) error { return c.p.Step(c.now, ev) }

func (c *conversation) reopen() {
	c.cfg.Epoch++
	snap := c.store.snapshot()
	snap.Begin = c.begin
	c.p = New(c.cfg, snap, c.now)
	c.p.pages.packAbove = c.rng.IntN(3) // so that pages are packed
	c.live = nil
	for _, m := range c.log {
		m.lease = nil
		if m.Offset < c.begin && !m.redriven && !m.settled { // the log does not bring it again
			m.settled, m.forgotten = true, true
		}
	}
}

func (c *conversation) event() {
	switch n := c.rng.IntN(200); {
	case n < 3 && !c.calm:
		c.reopen()
	case n < 12 && len(c.live) < 4 || len(c.live) == 0:
		c.last++
		c.live = append(c.live, c.last)
		_ = c.step(Join{Session: c.last, Until: c.now.Add(ms(20 + c.rng.IntN(2000)))})
	case n < 16 && !c.calm:
		c.leave()
	case n < 17 && !c.calm && c.seeks < 5:
		c.seek()
	case n < 18 && !c.calm:
		c.trim()
	case n < 24:
		c.exhume()
	case n < 40:
		_ = c.step(Grown{End: c.end})
	case n < 70:
		if from, want := c.p.Want(); want > 0 {
			_ = c.step(c.fetch(from, want))
		}
	case n < 120:
		c.grant()
	case n < 170:
		c.ack()
	default:
		c.fail()
	}
}

func (c *conversation) leave() {
	at := c.rng.IntN(len(c.live))
	id := c.live[at]
	c.live = slices.Delete(c.live, at, at+1)
	crashed := c.rng.IntN(2) == 0
	if c.step(Leave{Session: id, Crashed: crashed}) != nil {
		return
	}
	for _, m := range c.log {
		if m.lease != nil && m.session == id {
			m.lease = nil
			if crashed {
				m.losses++
			}
		}
	}
}

func (c *conversation) seek() {
	c.seeks++
	to := max(c.begin, Offset(c.rng.IntN(int(c.end)+1)))
	_ = c.step(Seek{To: to})
	for _, m := range c.log {
		m.lease = nil
		if m.redriven && m.Offset < to {
			continue
		}
		m.settled, m.redriven, m.forgotten, m.attempts, m.losses = m.Offset < to, false, true, 0, 0
	}
}

// trim takes the oldest messages out of the log.
func (c *conversation) trim() {
	c.begin = max(c.begin, min(c.end, c.p.Position()+Offset(c.rng.IntN(60))))
	ev := &Trimmed{Begin: c.begin}
	_ = c.step(ev)
	var known int64
	for _, m := range c.log {
		if m.Offset >= c.begin || m.settled || m.redriven || m.lease != nil {
			continue
		}
		m.settled, m.forgotten = true, true
		known++
	}
	if ev.Lost > known {
		c.Fatalf("%d messages were lost of %d", ev.Lost, known)
	}
}

// exhume redrives or discards a dead letter.
func (c *conversation) exhume() {
	var dead []*twin
	for _, m := range c.log {
		if m.dead {
			dead = append(dead, m)
		}
	}
	if len(dead) == 0 {
		return
	}
	m := dead[c.rng.IntN(len(dead))]
	m.dead, m.holds = false, false
	if c.calm || c.rng.IntN(3) == 0 {
		delete(c.store.held, m.Offset)
		_ = c.step(Discard{Offsets: []Offset{m.Offset}})
		return
	}
	c.store.redrive(m.Message)
	_ = c.step(Redrive{Messages: []Message{m.Message}})
	if m.settled { // otherwise the log brings it
		m.settled, m.redriven, m.attempts, m.losses = false, true, 0, 0
	}
}

func (c *conversation) fetch(from Offset, n int) *Fetched {
	f := &Fetched{Next: c.end}
	for _, m := range c.log {
		if m.Offset < max(from, c.begin) {
			continue
		}
		if len(f.Messages) == n {
			f.Next = m.Offset
			break
		}
		f.Messages = append(f.Messages, m.Message)
	}
	return f
}

func (c *conversation) grant() {
	g := Grant{Session: c.live[c.rng.IntN(len(c.live))], Messages: c.rng.IntN(50), Oversize: c.rng.IntN(2) == 0}
	if c.rng.IntN(2) == 0 {
		g.Bytes = int64(1 + c.rng.IntN(1000))
	}
	g.Suspect = !c.p.Suspect(g.Session)
	_ = c.step(&g)
	if g.Bytes > 0 && g.UsedBytes > g.Bytes && !(g.Oversize && g.Used == 1) {
		c.Fatalf("grant of %d bytes gave %d in %d messages", g.Bytes, g.UsedBytes, g.Used)
	}
	c.granted = g
}

// leased returns a message that is leased.
func (c *conversation) leased() *twin {
	from := c.rng.IntN(len(c.log))
	for i := range c.log {
		if m := c.log[(from+i)%len(c.log)]; m.lease != nil {
			return m
		}
	}
	return nil
}

func (c *conversation) ack() {
	var a Ack
	for range c.rng.IntN(20) {
		if m := c.leased(); m != nil {
			a.Tokens = append(a.Tokens, *m.lease)
			m.settled, m.lease, m.redriven = true, nil, false
		}
	}
	if len(a.Tokens) == 0 {
		return
	}
	stale := a.Tokens[0]
	stale.Lease++
	a.Tokens = append(a.Tokens, stale)
	_ = c.step(&a)
	if len(a.Refused) != 1 || a.Refused[0] != stale || a.Settled != len(a.Tokens)-1 {
		c.Fatalf("refused %v, want only %v", a.Refused, stale)
	}
}

func (c *conversation) fail() {
	m := c.leased()
	if m == nil {
		c.now = c.now.Add(time.Millisecond)
		_ = c.step(Tick{})
		return
	}
	tok := *m.lease
	m.lease = nil
	var err error
	switch c.rng.IntN(4) {
	case 0:
		err = c.step(Nack{Token: tok, Error: "e", After: -1})
		m.attempts++
		m.losses = 0
	case 1:
		err = c.step(Snooze{Token: tok, Delay: ms(1)})
		m.losses = 0
	case 2:
		err = c.step(Release{Token: tok})
	case 3:
		if err = c.step(Reject{Token: tok, Error: "r", Reason: Permanent}); c.cfg.DropDead {
			m.settled, m.redriven = true, false
		}
	}
	if m.attempts == c.cfg.Retry.MaxAttempts && c.cfg.DropDead {
		m.settled, m.redriven = true, false
	}
	if err != nil {
		c.Fatalf("token %+v: %v", tok, err)
	}
}

// work takes the machine's work and holds it against the twin.
func (c *conversation) work(flush bool) {
	check(c.T, c.p)
	r := c.p.Ready(flush)
	for _, b := range r.Save.Burials {
		c.buried(b)
	}
	c.store.apply(r.Save)
	suspects := 0
	for _, d := range r.Deliver {
		m := c.at(d.Offset)
		if m.losses >= suspicious {
			suspects++
		}
		c.delivered(m, d)
	}
	if suspects > 1 || suspects == 1 && !c.granted.UsedSuspect {
		c.Fatalf("%d suspects in the grant %+v", suspects, c.granted)
	}
	if c.cfg.DropDead && c.cfg.MaxLosses > 0 {
		for _, m := range c.log {
			if m.losses >= c.cfg.MaxLosses && m.lease == nil && !m.settled {
				m.settled, m.redriven = true, false
			}
		}
	}
}

func (c *conversation) buried(b Burial) {
	m := c.at(b.Offset)
	switch {
	case m.settled:
		c.Fatalf("offset %d is buried after it was settled", b.Offset)
	case m.dead && !m.forgotten:
		c.Fatalf("offset %d is buried twice", b.Offset)
	case b.Reason == AttemptsSpent && (b.Attempts != c.cfg.Retry.MaxAttempts || m.attempts != b.Attempts):
		c.Fatalf("offset %d is buried after %d attempts of %d, the twin counts %d", b.Offset, b.Attempts, c.cfg.Retry.MaxAttempts, m.attempts)
	case b.Reason == ConsumersLost && m.losses != c.cfg.MaxLosses:
		c.Fatalf("offset %d is buried after %d losses of %d", b.Offset, m.losses, c.cfg.MaxLosses)
	case b.Reason == Expired && (m.Expires == 0 || m.Expires > c.now):
		c.Fatalf("offset %d has not expired", b.Offset)
	case b.Held != (c.cfg.HoldKey && (m.Key != NoKey && c.cfg.Ordering == PerKey || c.cfg.Ordering == PerPartition)):
		c.Fatalf("offset %d: held=%v", b.Offset, b.Held)
	}
	m.settled, m.dead, m.holds, m.redriven, m.lease = true, true, b.Held, false, nil
}

func (c *conversation) delivered(m *twin, d Delivery) {
	switch {
	case m.lease != nil || m.settled:
		c.Fatalf("offset %d is delivered while leased or settled", d.Offset)
	case d.Attempt != m.attempts+1 || d.Attempt > c.cfg.Retry.MaxAttempts:
		c.Fatalf("offset %d is delivered as attempt %d, want %d of %d", d.Offset, d.Attempt, m.attempts+1, c.cfg.Retry.MaxAttempts)
	case m.Expires != 0 && m.Expires <= c.now:
		c.Fatalf("offset %d is delivered though it has expired", d.Offset)
	case d.Redriven != m.redriven:
		c.Fatalf("offset %d is delivered with redriven=%v", d.Offset, d.Redriven)
	}
	m.lease, m.session = &Token{Epoch: c.cfg.Epoch, Offset: d.Offset, Lease: d.Lease}, d.Session
	for _, other := range c.log {
		if other == m || other.Filtered || !c.together(m, other) {
			continue
		}
		switch {
		case other.lease != nil:
			c.Fatalf("offsets %d and %d of a key are leased together", m.Offset, other.Offset)
		case other.Offset < m.Offset && !other.settled && (other.Expires == 0 || other.Expires > c.now):
			c.Fatalf("offset %d is leased while %d of its key is not settled", m.Offset, other.Offset)
		case other.holds && !m.redriven:
			c.Fatalf("offset %d is leased while the dead letter %d holds its key", m.Offset, other.Offset)
		}
	}
}

// together tells whether two messages are kept in order.
func (c *conversation) together(a, b *twin) bool {
	return c.cfg.Ordering == PerPartition || c.cfg.Ordering == PerKey && a.Key != NoKey && a.Key == b.Key
}

// TestLanesRandom holds the choice between lanes against the promise: the highest lane first, but for a turn of a lower one that was passed over.
func TestLanesRandom(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		const lanes = 4
		var parts []*Partition
		for range lanes {
			parts = append(parts, New(Config{Epoch: 1, Ordering: Unordered, Lookahead: 5000, MaxUnsettled: 10_000, Policy: Policy{Retry: Retry{MaxAttempts: 3, Max: time.Second}}}, Snapshot{}, 0))
		}
		l := NewLanes(parts...)
		if err := l.Step(0, Join{Session: 1}); err != nil {
			t.Fatal(err)
		}
		var end [lanes]Offset
		passed := map[int]int{}
		for range 300 {
			lane := rng.IntN(lanes)
			f := &Fetched{}
			for range rng.IntN(400) {
				f.Messages = append(f.Messages, Message{Offset: end[lane]})
				end[lane]++
			}
			f.Next = end[lane]
			_ = parts[lane].Step(0, f)
			var before [lanes]int
			for i, p := range parts {
				before[i] = p.Backlog()
			}
			g := &Grant{Session: 1, Messages: rng.IntN(300)}
			if err := l.Grant(0, g); err != nil {
				t.Fatal(err)
			}
			total := 0
			for i := lanes - 1; i >= 0; i-- {
				n := len(parts[i].Ready(false).Deliver)
				total += n
				higher := 0
				for j := i + 1; j < lanes; j++ {
					higher += parts[j].Backlog()
				}
				if turns := 1 + g.Messages/MaxPassed; n > turns && higher > 0 {
					t.Fatalf("seed %d: lane %d got %d messages while %d of higher lanes are ready", seed, i, n, higher)
				}
				if n > 0 || before[i] == 0 {
					passed[i] = 0
				} else if passed[i] += total; passed[i] > MaxPassed+lanes {
					t.Fatalf("seed %d: lane %d was passed over by %d messages", seed, i, passed[i])
				}
			}
			if all := before[0] + before[1] + before[2] + before[3]; total != g.Used || total != min(all, g.Messages) {
				t.Fatalf("seed %d: a grant of %d used %d and delivered %d of %d", seed, g.Messages, g.Used, total, all)
			}
		}
	}
}
