package dispatch

import (
	"testing"
	"time"
)

func roomy(o Ordering) Config {
	return Config{
		Epoch: 1, Ordering: o, Lookahead: 1 << 20, MaxUnsettled: 1 << 22,
		Policy: Policy{Retry: Retry{MaxAttempts: 3, Initial: time.Second, Max: time.Second, Coefficient: 1}},
	}
}

// see hands n messages over, of one key and a size.
func see(p *Partition, n int, key uint64, size uint32) {
	ev := &Fetched{Next: Offset(n)}
	for i := range n {
		ev.Messages = append(ev.Messages, Message{Offset: Offset(i), Key: key, Size: size})
	}
	_ = p.Step(0, ev)
}

// TestWhatSettlesOnAPackedPageStaysSettled: messages that are settled after their page was packed do not come again after a restart.
func TestWhatSettlesOnAPackedPageStaysSettled(t *testing.T) {
	const blocks = 2 * packAbove
	p, st := New(roomy(Unordered), Snapshot{}, 0), newStore()
	_ = p.Step(0, Join{Session: 1})
	see(p, blocks*BlockSize, NoKey, 1)
	_ = p.Step(0, &Grant{Session: 1, Messages: blocks * BlockSize})
	st.apply(p.Ready(true).Save)
	ack := func(which func(Offset) bool) {
		a := &Ack{}
		for o := range Offset(blocks * BlockSize) {
			if which(o % BlockSize) {
				a.Tokens = append(a.Tokens, Token{Epoch: 1, Offset: o, Lease: 1})
			}
		}
		_ = p.Step(0, a)
		if len(a.Refused) > 0 {
			t.Fatalf("%d acks were refused", len(a.Refused))
		}
		st.apply(p.Ready(true).Save)
	}
	ack(func(at Offset) bool { return at != 7 && at != 9 })
	ack(func(at Offset) bool { return at == 7 })
	q := New(roomy(Unordered), st.snapshot(), 0)
	_ = q.Step(0, Join{Session: 1})
	see(q, blocks*BlockSize, NoKey, 1)
	_ = q.Step(0, &Grant{Session: 1, Messages: blocks * BlockSize})
	if again := q.Ready(true).Deliver; len(again) != blocks || again[0].Offset != 9 {
		t.Fatalf("%d messages are delivered after a restart, want the %d that were not settled", len(again), blocks)
	}
}

// TestOneLeaseHasOneTimer: however often it is extended; and timers of messages that went on are dropped.
func TestOneLeaseHasOneTimer(t *testing.T) {
	p := New(roomy(Unordered), Snapshot{}, 0)
	_ = p.Step(0, Join{Session: 1})
	see(p, 10_000, NoKey, 1)
	_ = p.Step(0, &Grant{Session: 1, Messages: 10_000})
	for o := range Offset(10_000) {
		tok := Token{Epoch: 1, Offset: o, Lease: 1}
		for i := range 20 {
			if err := p.Step(0, Extend{Token: tok, Until: Instant(time.Hour) + Instant(i)}); err != nil {
				t.Fatal(err)
			}
		}
		_ = p.Step(0, &Ack{Tokens: []Token{tok}})
		p.Ready(false)
	}
	if n := len(p.timers.heap); n > 1024 {
		t.Fatalf("%d timers are left of leases that are over", n)
	}
}

// TestAnExtensionHoldsToItsLastEnd: the timer of an earlier extension ends nothing.
func TestAnExtensionHoldsToItsLastEnd(t *testing.T) {
	p := New(roomy(Unordered), Snapshot{}, 0)
	_ = p.Step(0, Join{Session: 1})
	see(p, 1, NoKey, 1)
	_ = p.Step(0, &Grant{Session: 1, Messages: 1})
	tok := Token{Epoch: 1, Offset: 0, Lease: 1}
	for _, end := range []time.Duration{time.Minute, time.Hour, 2 * time.Minute} {
		_ = p.Step(0, Extend{Token: tok, Until: Instant(end)})
	}
	for _, c := range []struct {
		at     time.Duration
		leased int
	}{{time.Minute, 1}, {2*time.Minute - 1, 1}, {2 * time.Minute, 0}} {
		_ = p.Step(Instant(c.at), Tick{})
		if got := p.Stats().Leased; got != c.leased {
			t.Fatalf("after %v: %d leased, want %d", c.at, got, c.leased)
		}
	}
}

// TestALowLaneGetsItsTurnWithinBytes: a large message of a lane that was passed over waits for room, and nothing else takes that room.
func TestALowLaneGetsItsTurnWithinBytes(t *testing.T) {
	low, high := New(roomy(Unordered), Snapshot{}, 0), New(roomy(Unordered), Snapshot{}, 0)
	l := NewLanes(low, high)
	_ = l.Step(0, Join{Session: 1})
	see(low, 1, NoKey, 50)
	see(high, 20_000, NoKey, 10)
	budget, went := int64(100), 0
	var leased []Delivery
	for range 20_000 {
		g := &Grant{Session: 1, Messages: 100, Bytes: budget}
		if budget > 0 {
			_ = l.Grant(0, g)
		}
		budget -= g.UsedBytes
		if len(low.Ready(false).Deliver) > 0 {
			if went > MaxPassed {
				t.Fatalf("%d messages went before it", went)
			}
			return
		}
		ds := high.Ready(false).Deliver
		went += len(ds)
		leased = append(leased, ds...)
		_ = high.Step(0, &Ack{Tokens: []Token{{Epoch: 1, Offset: leased[0].Offset, Lease: leased[0].Lease}}})
		high.Ready(true)
		leased = leased[1:]
		budget += 10
	}
	t.Fatalf("%d messages went, and it never", went)
}

// TestManyDeadLettersOfAKeyGoBackQuickly: each is put into the line of its key without walking it from the start.
func TestManyDeadLettersOfAKeyGoBackQuickly(t *testing.T) {
	const n = 50_000
	p := New(roomy(PerKey), Snapshot{}, 0)
	_ = p.Step(0, Join{Session: 1})
	see(p, n+2, 1, 1)
	for i := range Offset(n) {
		_ = p.Step(0, &Grant{Session: 1, Messages: 1})
		_ = p.Step(0, Reject{Token: Token{Epoch: 1, Offset: i, Lease: 1}})
		p.Ready(true)
	}
	_ = p.Step(0, &Grant{Session: 1, Messages: 10}) // one is leased, one waits behind it
	start := time.Now()
	for i := range Offset(n) {
		_ = p.Step(0, Redrive{Messages: []Message{{Offset: i, Key: 1}}})
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("%d redrives took %v", n, took)
	}
	check(t, p)
}

// TestTrimmedHoldsNothingBack: what retention deletes is settled unless it is leased, in no more than the time of its blocks.
func TestTrimmedHoldsNothingBack(t *testing.T) {
	p := New(roomy(PerKey), Snapshot{}, 0)
	_ = p.Step(0, Join{Session: 1})
	see(p, 1000, 1, 1)
	_ = p.Step(0, &Grant{Session: 1, Messages: 10})
	ev := &Trimmed{Begin: 900}
	_ = p.Step(0, ev)
	if s := p.Stats(); ev.Lost != 899 || s.Leased != 1 || s.Parked+s.Ready != 100 || p.Position() != 0 {
		t.Fatalf("lost %d, position %d, %+v", ev.Lost, p.Position(), s)
	}
	check(t, p)
	_ = p.Step(0, &Ack{Tokens: []Token{{Epoch: 1, Lease: 1}}})
	if p.Position() != 900 {
		t.Fatalf("position %d when the last is settled", p.Position())
	}
	const far = 10_000_000_000
	_ = p.Step(0, &Trimmed{Begin: far})
	if p.Position() != far || len(p.pages.slots) > 64 {
		t.Fatalf("position %d with %d slots", p.Position(), len(p.pages.slots))
	}
	check(t, p)
}

// TestErrorsTakeABoundedPlace: texts of failing messages are kept whole up to a bound, and cut beyond.
func TestErrorsTakeABoundedPlace(t *testing.T) {
	const n = 20_000
	p := New(roomy(Unordered), Snapshot{}, 0)
	_ = p.Step(0, Join{Session: 1})
	see(p, n, NoKey, 1)
	for i := range Offset(n) {
		_ = p.Step(0, &Grant{Session: 1, Messages: 1})
		_ = p.Step(0, Nack{Token: Token{Epoch: 1, Offset: i, Lease: 1}, Error: string(make([]byte, 4096)), After: time.Hour})
		p.Ready(true)
	}
	held := 0
	for _, f := range p.failures {
		held += len(f.first) + len(f.last)
	}
	if held != p.texts || held > maxTexts+n*2*cutText+8192 {
		t.Fatalf("%d bytes of errors, %d counted", held, p.texts)
	}
	_ = p.Step(Instant(2*time.Hour), Tick{})
	_ = p.Step(Instant(2*time.Hour), &Grant{Session: 1, Messages: 1})
	d := p.Ready(true).Deliver
	for len(d) > 0 {
		_ = p.Step(Instant(2*time.Hour), &Ack{Tokens: []Token{{Epoch: 1, Offset: d[0].Offset, Lease: d[0].Lease}}})
		p.Ready(true)
		_ = p.Step(Instant(2*time.Hour), &Grant{Session: 1, Messages: 1})
		d = p.Ready(true).Deliver
	}
	if p.texts != 0 {
		t.Fatalf("%d bytes counted when all are settled", p.texts)
	}
}
