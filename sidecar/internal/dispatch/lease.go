package dispatch

import "github.com/typedmq/typedmq/sidecar/internal/mutant"

// session is a consumer's presence.
type session struct {
	id       SessionID
	until    Instant // end of its leases, 0 for never
	leases   int
	size     int64 // of what is leased
	suspects int   // of what is leased
	once     bool
}

func (p *Partition) session(id SessionID) (*session, error) {
	if s := p.byID[id]; s != nil {
		return s, nil
	}
	return nil, ErrUnknownSession
}

func (p *Partition) join(ev Join) {
	if s, err := p.session(ev.Session); err == nil {
		s.until, s.once = ev.Until, ev.Once
		if s.once && s.leases == 0 {
			p.forget(s.id)
		}
		return
	}
	s := &session{id: ev.Session, until: ev.Until, once: ev.Once}
	p.sessions = append(p.sessions, s)
	p.byID[s.id] = s
}

func (p *Partition) heartbeat(ev Heartbeat) error {
	s, err := p.session(ev.Session)
	if err == nil {
		s.until = ev.Until
	}
	return err
}

// leave ends every lease of a session.
func (p *Partition) leave(ev Leave) error {
	s, err := p.session(ev.Session)
	if err != nil {
		return err
	}
	p.eachLease(s.id, true, func(o Offset, e *entry) {
		if ev.Crashed {
			p.lose(o, e)
		} else {
			p.requeue(o, e)
		}
	})
	p.forget(s.id)
	p.advance()
	return nil
}

// forget removes a session that has no leases.
func (p *Partition) forget(id SessionID) {
	delete(p.byID, id)
	for i, s := range p.sessions {
		if s.id == id {
			p.sessions = append(p.sessions[:i], p.sessions[i+1:]...)
			return
		}
	}
}

// eachLease visits what a session has leased, in order. It walks all pages: sessions end rarely.
func (p *Partition) eachLease(id SessionID, extended bool, visit func(Offset, *entry)) {
	var held []Offset
	for o, e := range p.redriven {
		if e.state == leased && e.session == id && (extended || !e.extended) {
			held = append(held, o)
		}
	}
	for i := p.pages.head; i < len(p.pages.slots); i++ {
		p.pages.slots[i].each(func(o Offset, e *entry) {
			if e.state == leased && e.session == id && (extended || !e.extended) {
				held = append(held, o)
			}
		})
	}
	sortOffsets(held)
	for _, o := range held {
		visit(o, p.find(o))
	}
}

// grant leases ready messages to a session.
func (p *Partition) grant(now Instant, ev *Grant) error {
	s, err := p.session(ev.Session)
	if err != nil {
		return err
	}
	suspect := ev.Suspect
	for ev.Used < ev.Messages {
		o, e := p.next(now, suspect)
		if e == nil {
			break
		}
		if size := int64(e.size); ev.Bytes > 0 && ev.UsedBytes+size > ev.Bytes && !(ev.Oversize && ev.Used == 0) {
			p.queueOf(o, e).pushFront(o)
			ev.Full = true
			break
		}
		if p.isSuspect(o, e) {
			s.suspects++
			e.suspect, ev.UsedSuspect, suspect = true, true, false
		}
		p.lease(s, o, e)
		ev.Used++
		ev.UsedBytes += int64(e.size)
	}
	p.advance() // over what has expired
	return nil
}

// next takes the message that goes next, or nil: suspects if one may go, then those that are ready again, then those that were never considered.
func (p *Partition) next(now Instant, suspect bool) (Offset, *entry) {
	for suspect && p.suspects.len() > 0 {
		if o, e := p.consider(now, p.suspects.pop()); e != nil {
			return o, e
		}
	}
	for p.again.len() > 0 {
		if o, e := p.consider(now, p.again.pop()); e != nil {
			return o, e
		}
	}
	for p.fresh < p.cursor {
		s := p.pages.at(int64(p.fresh) / BlockSize)
		if s == nil || s.page == nil { // all settled, or sparse and considered
			p.fresh = min(p.cursor, (p.fresh/BlockSize+1)*BlockSize)
			continue
		}
		end := min(p.cursor, Offset(s.page.index+1)*BlockSize)
		for o := p.fresh; o < end; {
			e := &s.page.entries[o%BlockSize]
			o++
			p.fresh = o
			if e.state != ready {
				continue
			}
			switch {
			case !p.mayGo(now, o-1, e):
				end = o // the page may have gone with the message
			case !suspect && p.isSuspect(o-1, e):
				p.suspects.push(o - 1)
			default:
				return o - 1, e
			}
		}
	}
	return none, nil
}

// consider tells whether a message of a queue may be leased now. It may have changed its state since it was put there.
func (p *Partition) consider(now Instant, o Offset) (Offset, *entry) {
	if e := p.find(o); e != nil && e.state == ready && p.mayGo(now, o, e) {
		return o, e
	}
	return none, nil
}

// mayGo tells whether a ready message may be leased now; otherwise it is parked, waits, or has expired.
func (p *Partition) mayGo(now Instant, o Offset, e *entry) bool {
	if !p.admit(o, e) {
		return false
	}
	if e.expires != 0 && e.expires <= now {
		p.expireMessage(o, e)
		return false
	}
	if e.failed {
		if f := p.failures[o]; f.due > now {
			p.wait(o, e, f.due)
			return false
		}
	}
	return true
}

// isSuspect tells whether a message is leased on its own.
func (p *Partition) isSuspect(o Offset, e *entry) bool {
	return e.failed && p.failures[o].losses >= suspicious
}

// queueOf is the queue that a message waits in when it is ready again.
func (p *Partition) queueOf(o Offset, e *entry) *queue {
	if p.isSuspect(o, e) {
		return &p.suspects
	}
	return &p.again
}

// expireMessage settles a message that is no longer worth a delivery.
func (p *Partition) expireMessage(o Offset, e *entry) {
	p.tally.Expired++
	if p.cfg.BuryExpired {
		p.bury(o, e, p.known(o), Expired)
		return
	}
	p.settle(o, e)
	e.session = 0 // so that an ack of its last lease does not pass for a repeated one
	p.changed(false)
}

func (p *Partition) lease(s *session, o Offset, e *entry) {
	p.count.Ready--
	p.count.Leased++
	s.leases++
	s.size += int64(e.size)
	e.state, e.session, e.extended = leased, s.id, false
	if e.lease++; e.redriven { // numbers of their own, so that no token of the message's first life fits
		p.redrivenLeases++
		e.lease = 1<<31 | p.redrivenLeases
	} else {
		p.leaseMax = max(p.leaseMax, e.lease)
	}
	d := Delivery{Session: s.id, Offset: o, Lease: e.lease, Attempt: 1, Redriven: e.redriven}
	if e.failed {
		d.Attempt += p.failures[o].attempts
	}
	p.pending.Deliver = append(p.pending.Deliver, d)
}

func (p *Partition) release(ev Release) error {
	e, err := p.holder(ev.Token)
	if err == nil {
		p.requeue(ev.Token.Offset, e)
	}
	return err
}

// requeue makes a leased message ready again.
func (p *Partition) requeue(o Offset, e *entry) {
	p.leaveState(o, e)
	p.count.Ready++
	e.state = ready
	p.queueOf(o, e).push(o)
}

func (p *Partition) extend(ev Extend) error {
	e, err := p.holder(ev.Token)
	if mutant.On(mutant.ExtendAfterExpiry) && err != nil {
		return nil
	}
	if err == nil {
		e.extended = true
		x, again := p.extended[ev.Token.Offset]
		x.until = ev.Until
		if !again || ev.Until < x.timer {
			x.timer = ev.Until
			p.setTimer(timer{at: ev.Until, offset: ev.Token.Offset, lease: e.lease, kind: leaseEnds})
		}
		p.extended[ev.Token.Offset] = x
	}
	return err
}

// extension is a lease that does not end with its session.
type extension struct {
	until Instant
	timer Instant // that is set for it, until or earlier
}

// leaveState undoes what the counters and the session know of an entry's state. The caller sets the next one.
func (p *Partition) leaveState(o Offset, e *entry) {
	switch e.state {
	case ready:
		p.count.Ready--
	case waiting:
		p.count.Waiting--
	case parked:
		p.count.Parked--
	case leased:
		p.count.Leased--
		if e.extended {
			e.extended = false
			delete(p.extended, o)
		}
		if s, err := p.session(e.session); err == nil {
			s.leases--
			s.size -= int64(e.size)
			if e.suspect {
				s.suspects--
			}
			if s.once && s.leases == 0 {
				p.forget(s.id)
			}
		}
		e.suspect = false
	}
}
