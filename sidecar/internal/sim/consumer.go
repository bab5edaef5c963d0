package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// held is a message that a consumer has, or had.
type held struct {
	Event // as it was received
	token []byte
}

// consumer joins its group again and again until the chaos is over.
func (w *World) consumer(group, n int) {
	g := &w.plan.Groups[group]
	c := w.client("consumer-%s-%s-%d", g.Topic, g.Name, n)
	var old []held // of sessions that are over
	for w.rest(c.between(50*time.Millisecond, time.Second), c.name) {
		if p := c.sidecar(n + c.rng.IntN(2)*c.rng.IntN(2)); p != nil {
			s := c.open(g, p, 1+c.rng.IntN(20))
			if s == nil {
				continue
			}
			s.old = old
			s.run()
			old = append(s.old, s.had...)
			if len(old) > 50 {
				old = old[len(old)-50:]
			}
		}
	}
}

// session is one stay of a consumer in its group.
type session struct {
	*client
	g      *Group
	p      *process
	s      *broker.Session
	number int
	had    []held // of this session
	old    []held
	silent bool // sends no heartbeats any more
	over   bool
	ends   time.Time // when it leaves
	drain  bool      // acknowledges everything
}

// open joins. It returns nil if it could not.
func (c *client) open(g *Group, p *process, credits int) *session {
	c.calls++
	if !c.w.enter(p, fmt.Sprintf("%s join %d", c.name, c.calls)) {
		return nil
	}
	s, err := p.broker.Join(g.Name, g.Topic, c.name, credits, c.creditBytes())
	c.w.pass(fmt.Sprintf("%s joined %d", c.name, c.calls))
	if err != nil || p.isDead() {
		return nil
	}
	c.w.lastSess++
	out := &session{client: c, g: g, p: p, s: s, number: c.w.lastSess, ends: time.Now().Add(c.between(2*time.Second, 30*time.Second))}
	c.w.record(Event{Kind: Join, Client: c.name, Group: g.Name, Topic: g.Topic, Session: out.number, After: s.Lease, Offset: noOffset})
	c.w.background.Go(out.beat)
	return out
}

// creditBytes is what a consumer lets be unsettled at a time: mostly the default, now and then less than a large message.
func (c *client) creditBytes() int64 {
	if c.rng.IntN(4) == 0 {
		return 1 + c.rng.Int64N(4000)
	}
	return 0
}

// beat sends heartbeats. Some are lost.
func (s *session) beat() {
	name := fmt.Sprintf("%s beat %d", s.name, s.number)
	for {
		time.Sleep(s.g.Lease / 4)
		if !s.w.enter(s.p, name) || s.over || s.silent {
			return
		}
		if s.w.chance(s.w.plan.Faults.Lost, name) {
			continue
		}
		s.s.Heartbeat()
		s.w.record(Event{Kind: Beat, Client: s.name, Group: s.g.Name, Topic: s.g.Topic, Session: s.number, Offset: noOffset})
	}
}

// run works until the session is over.
func (s *session) run() {
	defer func() { s.over = true }()
	for turn := 0; ; turn++ {
		slices, ok := s.next(turn)
		if !ok {
			return
		}
		fresh := s.receive(slices)
		s.had = append(s.had, fresh...)
		if !s.handle(fresh) {
			return
		}
		leaving := s.w.stopping || !time.Now().Before(s.ends)
		switch {
		case s.drain:
		case s.roll(s.w.plan.Faults.Vanish) && len(fresh) > 0:
			s.w.fault("consumer cut")
			s.leave("cut")
			return
		case s.roll(s.w.plan.Faults.Silent) && len(fresh) > 0:
			s.w.fault("consumer silent")
			s.silent = true
			s.w.rest(s.g.Lease+s.between(0, 3*time.Second), s.name)
			s.late()
			return
		case leaving && s.rng.IntN(4) == 0:
			s.leave("cut")
			return
		case leaving:
			s.leave("close")
			return
		}
	}
}

// next waits for deliveries, for a second at most.
func (s *session) next(turn int) ([]broker.Slice, bool) {
	type answer struct {
		news broker.News
		err  error
	}
	got := make(chan answer, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second+s.between(0, time.Second))
	defer cancel()
	s.w.background.Go(func() {
		news, err := s.s.Next(ctx, 16<<10)
		got <- answer{news, err}
	})
	var a answer
	dead := false
	select {
	case a = <-got:
	case <-s.p.dead:
		dead = true
	}
	s.w.pass(fmt.Sprintf("%s next %d.%d", s.name, s.number, turn))
	if dead || s.p.isDead() {
		return nil, false
	}
	if a.err != nil {
		return nil, ctx.Err() != nil
	}
	return a.news.Slices, true
}

// receive notes what was delivered and looks at its content.
func (s *session) receive(slices []broker.Slice) (fresh []held) {
	return s.w.received(s.client, s.g, s.number, slices)
}

func (w *World) received(c *client, g *Group, session int, slices []broker.Slice) (fresh []held) {
	for _, slice := range slices {
		for i, raw := range slice.Each() {
			e := Event{Kind: Receive, Client: c.name, Group: g.Name, Topic: g.Topic, Session: session, Partition: slice.Partition, Offset: slice.Offsets[i], Attempt: 1}
			if slice.Attempts != nil {
				e.Attempt = slice.Attempts[i]
			}
			token := slice.Tokens[i*broker.TokenSize : (i+1)*broker.TokenSize]
			e.Epoch, e.Lease = binary.LittleEndian.Uint64(token), binary.LittleEndian.Uint32(token[16:])
			e.UID, e.Key, e.Result = look(raw)
			w.record(e)
			w.stats.Deliveries++
			fresh = append(fresh, held{Event: e, token: bytes.Clone(token)})
		}
	}
	return fresh
}

// look reads a record and tells whether it is the one that was published under its uid.
func look(raw []byte) (uid uint64, key string, r Result) {
	rec, err := broker.ParseRecord(raw)
	if err != nil {
		return 0, "", Fail
	}
	uid, ok := uidOf(rec.Payload)
	if !ok || !isRecord(rec, uid) {
		return uid, string(rec.Key), Fail
	}
	return uid, string(rec.Key), OK
}

// choice is what a consumer makes of a message.
type choice struct {
	held
	outcome Outcome
	after   time.Duration
	text    bool // Retried with a wait of its own
}

// handle works on messages, one or a few at a time. It returns false if the sidecar is gone.
func (s *session) handle(fresh []held) bool {
	for len(fresh) > 0 {
		n := min(len(fresh), 1+s.rng.IntN(8))
		var some []choice
		for _, h := range fresh[:n] {
			if ch, ok := s.decide(h); ok {
				some = append(some, ch)
			}
		}
		fresh = fresh[n:]
		if !s.drain {
			if s.rng.IntN(3) == 0 {
				s.w.sleep(s.between(time.Millisecond, 400*time.Millisecond), fmt.Sprintf("%s work %d", s.name, s.number))
			}
			if len(s.old) > 0 && s.rng.IntN(10) == 0 { // somebody answers long after
				h := s.old[s.rng.IntN(len(s.old))]
				some = append(some, choice{held: h, outcome: Extended, after: 5 * time.Second})
			}
		}
		if s.p.isDead() {
			return false
		}
		if s.w.plan.Transactions > 0 && !s.drain && s.roll(s.w.plan.Transactions) {
			some = s.transform(some)
			if s.p.isDead() {
				return false
			}
		}
		s.settle(some)
		if s.p.isDead() {
			return false
		}
	}
	return true
}

// transform ends what is to be acknowledged in one transaction with what is made of it. It returns what is left.
func (s *session) transform(some []choice) (left []choice) {
	var acks []choice
	for _, ch := range some {
		if ch.outcome == Acked {
			acks = append(acks, ch)
		} else {
			left = append(left, ch)
		}
	}
	if len(acks) > 0 {
		s.transact(s.p, s.compose(s.g, acks))
	}
	return left
}

// decide is what becomes of a message: mostly it is acknowledged, some messages fail always, some now and then, and some are forgotten.
func (s *session) decide(h held) (choice, bool) {
	ch := choice{held: h, outcome: Acked}
	if s.drain {
		return ch, true
	}
	poison := s.w.plan.Faults.Poison
	if hash := hash64(s.w.plan.Seed, int(h.UID), "poison"); float64(hash>>11)/(1<<53) < poison/2 {
		ch.outcome = Retried
		if hash%5 == 0 {
			ch.outcome = Undecodable
		}
		return ch, true
	}
	if !s.roll(poison * 2) {
		if s.rng.IntN(30) == 0 {
			ch.outcome = Skipped
		}
		return ch, true
	}
	switch s.rng.IntN(8) {
	case 0, 1:
		ch.outcome = Retried
	case 2:
		ch.outcome, ch.after, ch.text = Retried, s.between(0, 3*time.Second), true
	case 3:
		ch.outcome, ch.after = Snoozed, s.between(0, 3*time.Second)
	case 4:
		ch.outcome = Released
	case 5:
		ch.outcome = Rejected
	case 6:
		ch.outcome, ch.after = Extended, s.between(time.Second, 6*time.Second)
	default:
		return ch, false // forgotten until the lease ends
	}
	return ch, true
}

// settle tells the sidecar. Acknowledgements go in the short form.
func (s *session) settle(all []choice) { s.w.settle(s.client, s.g, s.p, s.number, all) }

func (w *World) settle(c *client, g *Group, p *process, session int, all []choice) {
	if len(all) == 0 {
		return
	}
	op := w.op()
	var (
		acks   []byte
		others []broker.Settlement
		told   []Event
	)
	for _, ch := range all {
		e := ch.Event
		e.Kind, e.Op, e.Client, e.Outcome, e.After, e.Result = Settle, op, c.name, ch.outcome, ch.after, OK
		if ch.outcome == Retried && !ch.text {
			e.After = -1
		}
		w.record(e)
		told = append(told, e)
		if ch.outcome == Acked && ch.UID%4 != 0 {
			acks = append(acks, ch.token...)
			continue
		}
		others = append(others, broker.Settlement{
			Token: ch.token, Outcome: broker.Outcome(ch.outcome), Error: "sim: " + ch.outcome.String(), After: max(0, ch.after), HasAfter: ch.text,
		})
	}
	type answer struct {
		refused []broker.SettleRefusal
		err     error
	}
	got, r := call(c, p, func(ctx context.Context, b *broker.Broker) answer {
		refused, err := b.Settle(ctx, g.Name, g.Topic, acks, others)
		return answer{refused, err}
	})
	if r == OK && got.err != nil {
		r = judge(got.err)
	}
	for i, e := range told {
		e.Kind, e.Result = Settled, r
		for _, no := range got.refused {
			if r == OK && bytes.Equal(no.Token, all[i].token) {
				e.Result, e.Detail = judge(no.Error), string(no.Error.Reason)
			}
		}
		w.record(e)
	}
}

// leave ends the session, as a client that closes its stream or as a connection that breaks.
func (s *session) leave(how string) {
	if !s.w.enter(s.p, fmt.Sprintf("%s leave %d", s.name, s.number)) {
		return
	}
	s.w.record(Event{Kind: Leave, Client: s.name, Group: s.g.Name, Topic: s.g.Topic, Session: s.number, Detail: how, Offset: noOffset})
	s.over = true
	s.s.Close(how == "cut")
}

// late answers for messages whose lease ended long ago, as a consumer that stood still does.
func (s *session) late() {
	var some []choice
	for _, h := range s.had {
		if s.rng.IntN(2) == 0 && len(some) < 5 {
			outcome := []Outcome{Acked, Extended, Retried}[s.rng.IntN(3)]
			some = append(some, choice{held: h, outcome: outcome, after: 5 * time.Second, text: true})
		}
	}
	if !s.p.isDead() {
		s.settle(some)
	}
}

// puller takes messages without a session.
func (w *World) puller(group int) {
	g := &w.plan.Groups[group]
	c := w.client("puller-%s-%s", g.Topic, g.Name)
	for w.rest(c.between(2*time.Second, 8*time.Second), c.name) {
		p := c.sidecar(c.rng.IntN(8))
		if p == nil {
			continue
		}
		w.lastSess++
		session, lease, wait := w.lastSess, c.between(time.Second, 5*time.Second), c.between(0, time.Second)
		w.record(Event{Kind: Join, Client: c.name, Group: g.Name, Topic: g.Topic, Session: session, After: lease, Detail: "pull", Offset: noOffset})
		type answer struct {
			slices []broker.Slice
			err    error
		}
		got, r := call(c, p, func(ctx context.Context, b *broker.Broker) answer {
			slices, err := b.Pull(ctx, g.Name, g.Topic, 1+int(session%5), lease, wait)
			return answer{slices, err}
		})
		if r != OK || got.err != nil {
			continue
		}
		var some []choice
		for _, h := range w.received(c, g, session, got.slices) {
			if c.rng.IntN(5) > 0 {
				some = append(some, choice{held: h, outcome: Acked})
			}
		}
		w.settle(c, g, p, session, some)
	}
}
