package dispatch

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// TestRandomEvents runs random conversations, with owners that die at any moment, against a model that knows only the promises: a message is
// leased to one at a time and in order of its key, attempts are counted and bounded, and in the end each message is settled exactly once.
// SEEDS in the environment says how many conversations, 20 if it is not set.
func TestRandomEvents(t *testing.T) {
	seeds := uint64(20)
	if s, err := strconv.ParseUint(os.Getenv("SEEDS"), 10, 64); err == nil {
		seeds = s
	}
	for seed := range seeds {
		t.Run("", func(t *testing.T) {
			runRandom(t, seed)
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		})
	}
}

// model is what must be true whatever happens.
type model struct {
	settled  map[Offset]bool
	buried   map[Offset]int
	attempts map[Offset]uint32
	held     map[Offset]Token
	session  map[Offset]SessionID
}

func runRandom(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	cfg := Config{
		Epoch: 1, Ordering: Ordering(rng.IntN(3)), Lookahead: 1 + rng.IntN(600), JitterSeed: seed,
		Policy: Policy{Retry: Retry{MaxAttempts: uint32(1 + rng.IntN(4)), Initial: time.Millisecond, Max: 5 * time.Millisecond, Coefficient: 2, Jitter: 0.5}},
	}
	cfg.MaxUnsettled = cfg.Lookahead + rng.IntN(2000)
	const total = 700
	m := model{settled: map[Offset]bool{}, buried: map[Offset]int{}, attempts: map[Offset]uint32{}}
	var log []Message
	offset := Offset(rng.IntN(3) * 100)
	for range total {
		msg := Message{Offset: offset, Filtered: rng.IntN(20) == 0}
		if rng.IntN(10) > 0 {
			msg.Key = uint64(1 + rng.IntN(30))
		}
		log = append(log, msg)
		offset++
		if rng.IntN(100) == 0 {
			offset += Offset(rng.IntN(600))
		}
	}
	end := offset
	st := newStore()
	now := Instant(0)
	var p *Partition
	next := SessionID(0)
	var live []SessionID
	reopen := func() {
		cfg.Epoch++
		p = New(cfg, st.snapshot(), now)
		m.held, m.session, live = map[Offset]Token{}, map[Offset]SessionID{}, nil
	}
	reopen()
	step := func(ev Event) error { return p.Step(now, ev) }
	anyHeld := func() (Token, bool) {
		best, from := none, Offset(rng.IntN(int(end))) // the first at or above a seeded point
		for o := range m.held {
			if o >= from && (best == none || o < best) {
				best = o
			}
		}
		tok, ok := m.held[best]
		return tok, ok
	}
	lose := func(o Offset, counted bool) {
		delete(m.held, o)
		delete(m.session, o)
		if counted {
			m.attempts[o]++
		}
	}
	work := func(flush bool) {
		check(t, p)
		r := p.Ready(flush)
		for _, b := range r.Save.Burials {
			if m.settled[b.Offset] {
				t.Fatalf("offset %d is buried after it was settled", b.Offset)
			}
			if b.Reason == AttemptsSpent && b.Attempts != cfg.Retry.MaxAttempts {
				t.Fatalf("offset %d is buried after %d attempts of %d", b.Offset, b.Attempts, cfg.Retry.MaxAttempts)
			}
			m.settled[b.Offset] = true
			m.buried[b.Offset]++
			lose(b.Offset, false)
		}
		st.apply(r.Save)
		for _, d := range r.Deliver {
			if _, ok := m.held[d.Offset]; ok || m.settled[d.Offset] {
				t.Fatalf("offset %d is delivered while leased or settled", d.Offset)
			}
			if want := m.attempts[d.Offset] + 1; d.Attempt != want || d.Attempt > cfg.Retry.MaxAttempts {
				t.Fatalf("offset %d is delivered as attempt %d, want %d of %d", d.Offset, d.Attempt, want, cfg.Retry.MaxAttempts)
			}
			m.held[d.Offset] = Token{Epoch: cfg.Epoch, Offset: d.Offset, Lease: d.Lease}
			m.session[d.Offset] = d.Session
			checkOrder(t, cfg.Ordering, log, &m, d.Offset)
		}
	}
	for i := 0; p.Position() < end; i++ {
		if i > 400_000 {
			t.Fatalf("no end in sight: floor %d of %d, %+v", p.Position(), end, p.Stats())
		}
		calm := i > 30_000 // then only what brings things to an end
		switch n := rng.IntN(100); {
		case n < 2 && !calm:
			reopen()
		case n < 6 && len(live) < 4 || len(live) == 0:
			next++
			live = append(live, next)
			_ = step(Join{Session: next, Until: now.Add(ms(20 + rng.IntN(2000)))})
		case n < 8 && !calm:
			at := rng.IntN(len(live))
			id := live[at]
			live = append(live[:at], live[at+1:]...)
			crashed := rng.IntN(2) == 0
			if step(Leave{Session: id, Crashed: crashed}) == nil {
				for o, s := range m.session {
					if s == id {
						lose(o, crashed)
					}
				}
			}
		case n < 20:
			_ = step(Grown{End: end})
		case n < 35:
			if from, want := p.Want(); want > 0 {
				_ = step(fetch(log, from, want, end))
			}
		case n < 60:
			g := &Grant{Session: live[rng.IntN(len(live))], Messages: rng.IntN(50)}
			_ = step(g)
		case n < 85:
			var a Ack
			for range rng.IntN(20) {
				if tok, ok := anyHeld(); ok && !m.settled[tok.Offset] {
					a.Tokens = append(a.Tokens, tok)
					m.settled[tok.Offset] = true
					lose(tok.Offset, false)
				}
			}
			if len(a.Tokens) > 0 {
				stale := a.Tokens[0]
				stale.Lease += 1
				a.Tokens = append(a.Tokens, stale)
				_ = step(&a)
				if len(a.Refused) != 1 || a.Refused[0] != stale {
					t.Fatalf("refused %v, want only %v", a.Refused, stale)
				}
			}
		default:
			tok, ok := anyHeld()
			if !ok {
				now = now.Add(time.Millisecond)
				_ = step(Tick{})
				break
			}
			var err error
			counted := false
			switch rng.IntN(4) {
			case 0:
				err = step(Nack{Token: tok, Error: "e", After: -1})
				counted = true
			case 1:
				err = step(Snooze{Token: tok, Delay: ms(1)})
			case 2:
				err = step(Release{Token: tok})
			case 3:
				err = step(Reject{Token: tok, Error: "r", Reason: Permanent})
			}
			if err != nil {
				t.Fatalf("token %+v: %v", tok, err)
			}
			lose(tok.Offset, counted)
		}
		for _, s := range p.sessions {
			s.until = max(s.until, now.Add(ms(10))) // heartbeats, so that leases end only by what the model sees
		}
		work(rng.IntN(10) == 0)
	}
	work(true)
	for _, msg := range log {
		if !msg.Filtered && !m.settled[msg.Offset] || msg.Filtered && m.settled[msg.Offset] {
			t.Fatalf("offset %d: filtered=%v settled=%v", msg.Offset, msg.Filtered, m.settled[msg.Offset])
		}
		if m.buried[msg.Offset] > 1 {
			t.Fatalf("offset %d was buried %d times", msg.Offset, m.buried[msg.Offset])
		}
	}
	if len(p.failures)+len(p.gates)+len(p.extended) > 0 || len(st.failures) > 0 || len(st.blocks) > 1 {
		t.Fatalf("left behind: %d failures, %d gates; stored %d failures, %d blocks", len(p.failures), len(p.gates), len(st.failures), len(st.blocks))
	}
}

func fetch(log []Message, from Offset, n int, end Offset) *Fetched {
	f := &Fetched{Next: end}
	for _, m := range log {
		if m.Offset < from {
			continue
		}
		if len(f.Messages) == n {
			f.Next = m.Offset
			break
		}
		f.Messages = append(f.Messages, m)
	}
	return f
}

// checkOrder fails if a message is leased while an earlier one of its key is not settled.
func checkOrder(t *testing.T, o Ordering, log []Message, m *model, offset Offset) {
	if o == Unordered {
		return
	}
	var key uint64
	for _, msg := range log {
		if msg.Offset == offset {
			key = msg.Key
		}
	}
	for _, msg := range log {
		if msg.Offset >= offset {
			return
		}
		if !msg.Filtered && !m.settled[msg.Offset] && (o == PerPartition || key != NoKey && msg.Key == key) {
			t.Fatalf("offset %d of key %d is leased while %d is not settled", offset, key, msg.Offset)
		}
	}
}
