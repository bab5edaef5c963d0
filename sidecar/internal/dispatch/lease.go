package dispatch

// session is a consumer's presence.
type session struct {
	id     SessionID
	until  Instant // end of its leases, 0 for never
	leases int
	size   int64 // of what is leased
	once   bool
}

func (p *Partition) session(id SessionID) (*session, error) {
	for _, s := range p.sessions {
		if s.id == id {
			return s, nil
		}
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
	p.sessions = append(p.sessions, &session{id: ev.Session, until: ev.Until, once: ev.Once})
}

func (p *Partition) heartbeat(ev Heartbeat) error {
	s, err := p.session(ev.Session)
	if err == nil {
		s.until = ev.Until
	}
	return err
}

// leave ends every lease of a session.
func (p *Partition) leave(now Instant, ev Leave) error {
	s, err := p.session(ev.Session)
	if err != nil {
		return err
	}
	p.eachLease(s.id, true, func(o Offset, e *entry) {
		if ev.Crashed {
			p.attempted(now, o, e, "consumer disconnected", 0)
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
		pg := p.pages.slots[i].page
		if pg == nil || pg.live == 0 {
			continue
		}
		for j := range pg.entries {
			if e := &pg.entries[j]; e.state == leased && e.session == id && (extended || !e.extended) {
				held = append(held, Offset(pg.index*BlockSize+int64(j)))
			}
		}
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
	for ev.Used < ev.Messages {
		o, e := p.next(now)
		if e == nil {
			break
		}
		p.lease(s, o, e)
		ev.Used++
	}
	return nil
}

// next takes the message that goes next, or nil: those that are ready again before those that were never considered.
func (p *Partition) next(now Instant) (Offset, *entry) {
	for p.again.len() > 0 {
		o := p.again.pop()
		if e := p.find(o); e != nil && e.state == ready && p.mayGo(now, o, e) {
			return o, e
		}
	}
	for p.fresh < p.cursor {
		s := p.pages.at(int64(p.fresh) / BlockSize)
		if s == nil || s.page == nil {
			p.fresh = min(p.cursor, (p.fresh/BlockSize+1)*BlockSize)
			continue
		}
		end := min(p.cursor, Offset(s.page.index+1)*BlockSize)
		for p.fresh < end {
			o := p.fresh
			e := &s.page.entries[o%BlockSize]
			p.fresh++
			if e.state == ready && p.mayGo(now, o, e) {
				return o, e
			}
		}
	}
	return none, nil
}

// mayGo tells whether a ready message may be leased now; otherwise it is parked or waits.
func (p *Partition) mayGo(now Instant, o Offset, e *entry) bool {
	if !p.admit(o, e) {
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

func (p *Partition) lease(s *session, o Offset, e *entry) {
	p.count.Ready--
	p.count.Leased++
	s.leases++
	e.state, e.session, e.extended = leased, s.id, false
	if e.lease++; e.redriven { // numbers of their own, so that no token of the message's first life fits
		p.redrivenLeases++
		e.lease = 1<<31 | p.redrivenLeases
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
	p.again.push(o)
}

func (p *Partition) extend(ev Extend) error {
	e, err := p.holder(ev.Token)
	if err == nil {
		e.extended = true
		p.extended[ev.Token.Offset] = ev.Until
		p.timers.push(timer{at: ev.Until, offset: ev.Token.Offset, lease: e.lease, kind: leaseEnds})
	}
	return err
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
			if s.once && s.leases == 0 {
				p.forget(s.id)
			}
		}
	}
}
