package dispatch

// MaxPassed bounds how many messages of higher lanes go before a ready message of a lower one.
const MaxPassed = 256

// Lanes are the machines of one group in one partition of a topic with priorities: one for each level, the lowest first. Each lane is a log of its
// own. Which lane goes next is decided when a message is leased: the highest that has a ready message, but for one turn after MaxPassed
// messages went before a lane that had one.
type Lanes struct {
	lanes  []*Partition
	passed []int // by lane: messages of higher lanes that were leased while it had ready ones
}

// NewLanes puts machines together, the lowest priority first. A topic without priorities has one.
func NewLanes(lanes ...*Partition) *Lanes {
	return &Lanes{lanes: lanes, passed: make([]int, len(lanes))}
}

// Lane returns the machine of a priority level, from 0.
func (l *Lanes) Lane(i int) *Partition { return l.lanes[i] }

// Len is the number of lanes.
func (l *Lanes) Len() int { return len(l.lanes) }

// Step applies an event that concerns all lanes alike: Join, Leave, Heartbeat or Tick.
// Error: ErrUnknownSession if no lane knows the session.
func (l *Lanes) Step(now Instant, ev Event) error {
	err := ErrUnknownSession
	for _, p := range l.lanes {
		if p.Step(now, ev) == nil {
			err = nil
		}
	}
	return err
}

// Grant leases ready messages to a session, the highest lane first. Error: ErrUnknownSession.
func (l *Lanes) Grant(now Instant, g *Grant) error {
	err := ErrUnknownSession
	if _, _, known := l.Leases(g.Session); known {
		err = nil
	}
	for lane := len(l.lanes) - 1; lane >= 0 && !g.Full; {
		if l.grantPassed(now, g, lane); g.Full {
			break
		}
		most := l.most(lane, g.Messages-g.Used)
		used := g.Used
		_ = l.grant(now, lane, g, most)
		l.pass(lane, g.Used-used)
		if g.Used-used < most || g.Used == g.Messages {
			lane-- // it has nothing left that can go
		}
	}
	return err
}

// grantPassed leases one message of each lane below one that was passed over for long enough.
func (l *Lanes) grantPassed(now Instant, g *Grant, lane int) {
	for low := lane - 1; low >= 0; low-- {
		if l.passed[low] >= MaxPassed && g.Used < g.Messages {
			used := g.Used
			_ = l.grant(now, low, g, 1)
			if g.Used == used && g.Full {
				return // until there is room for it nothing goes
			}
			l.passed[low] = 0
		}
	}
}

// most is how many messages of a lane may go before a lower one has its turn.
func (l *Lanes) most(lane, n int) int {
	for low := range lane {
		if l.lanes[low].Backlog() > 0 {
			n = min(n, MaxPassed-l.passed[low])
		}
	}
	return max(n, 0)
}

// pass counts n messages of a lane that went before those of the lower ones.
func (l *Lanes) pass(lane, n int) {
	for low := range lane {
		if l.lanes[low].Backlog() == 0 {
			l.passed[low] = 0
		} else {
			l.passed[low] += n
		}
	}
}

// grant leases up to n messages of one lane, within what is left of the grant.
func (l *Lanes) grant(now Instant, lane int, g *Grant, n int) error {
	part := Grant{
		Session: g.Session, Messages: min(n, g.Messages-g.Used), Suspect: g.Suspect && !g.UsedSuspect, Oversize: g.Oversize && g.Used == 0,
	}
	if g.Bytes > 0 {
		if part.Bytes = g.Bytes - g.UsedBytes; part.Bytes <= 0 {
			part.Bytes, g.Full = 1, true // only what weighs nothing, or the first
		}
	}
	err := l.lanes[lane].Step(now, &part)
	g.Used += part.Used
	g.UsedBytes += part.UsedBytes
	g.UsedSuspect = g.UsedSuspect || part.UsedSuspect
	g.Full = g.Full || part.Full
	return err
}

// Backlog is how many messages a Grant could lease, at most.
func (l *Lanes) Backlog() (n int) {
	for _, p := range l.lanes {
		n += p.Backlog()
	}
	return n
}

// Suspects is how many of the backlog need a Grant with Suspect.
func (l *Lanes) Suspects() (n int) {
	for _, p := range l.lanes {
		n += p.Suspects()
	}
	return n
}

// Suspect tells whether a session has leased a message that needed a Grant with Suspect.
func (l *Lanes) Suspect(id SessionID) bool {
	for _, p := range l.lanes {
		if p.Suspect(id) {
			return true
		}
	}
	return false
}

// Leases is how many messages a session has leased, what they weigh, and whether any lane knows the session.
func (l *Lanes) Leases(id SessionID) (n int, size int64, known bool) {
	for _, p := range l.lanes {
		m, s, k := p.Leases(id)
		n, size, known = n+m, size+s, known || k
	}
	return n, size, known
}

// Wake is the earliest instant at which a Tick can matter, if there is one.
func (l *Lanes) Wake() (at Instant, ok bool) {
	for _, p := range l.lanes {
		if a, has := p.Wake(); has && (!ok || a < at) {
			at, ok = a, true
		}
	}
	return at, ok
}

// Dirty says that a lane has something to save.
func (l *Lanes) Dirty() bool {
	for _, p := range l.lanes {
		if p.Dirty() {
			return true
		}
	}
	return false
}
