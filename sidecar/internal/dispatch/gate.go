package dispatch

// gate is the order of one key: the message that goes first, and those that wait behind it, oldest first. It has no holder
// while a dead letter holds the key.
type gate struct {
	holder, head, tail Offset
	parked             Offset // the message that was put into the middle of the line last
}

// gateKey is the gate that a message of a key goes through.
func (p *Partition) gateKey(key uint64) uint64 {
	switch p.cfg.Ordering {
	case PerPartition:
		return 1 // one gate for all
	case Unordered:
		return NoKey
	}
	return key
}

// admit tells whether a message may be leased as far as its key is concerned. If so it holds the key's gate;
// if not it is parked behind the gate.
func (p *Partition) admit(o Offset, e *entry) bool {
	if e.key == NoKey {
		return true
	}
	if e.reserved {
		return !p.yield(o, e)
	}
	g := p.gates.find(e.key)
	if g == nil {
		g = p.gates.add(e.key)
	}
	if g.holder == none && (e.redriven || !p.isHeld(e.key)) {
		g.holder = o
		e.reserved = true
		return true
	}
	if e.redriven && g.holder != none {
		p.giveWay(o, e, g)
		if e.reserved {
			return true
		}
	}
	p.park(o, e, g)
	return false
}

// yield parks a message that holds its key's gate if an older one that was redriven has come meanwhile.
func (p *Partition) yield(o Offset, e *entry) bool {
	if len(p.redriven) == 0 {
		return false
	}
	g := p.gates.find(e.key)
	if g.head == none || g.head > o || !p.find(g.head).redriven {
		return false
	}
	e.reserved = false
	p.pass(e.key, g) // to the head of its line, so that the gate stays
	p.park(o, e, g)
	return true
}

// giveWay takes the gate from a later message that is not leased, for an older one that was redriven.
func (p *Partition) giveWay(o Offset, e *entry, g *gate) {
	h := p.find(g.holder)
	if h.state == leased || g.holder < o {
		return
	}
	if h.state == waiting { // it goes on waiting when its turn comes
		p.count.Waiting--
		p.count.Ready++
		h.state = ready
	}
	later := g.holder
	h.reserved = false
	g.holder, e.reserved = o, true
	p.park(later, h, g)
}

// park puts a ready message behind a gate: at the end, or by its offset if it is redriven and so older than others.
func (p *Partition) park(o Offset, e *entry, g *gate) {
	p.count.Ready--
	p.count.Parked++
	e.state, e.next = parked, none
	switch {
	case g.head == none:
		g.head, g.tail = o, o
	case o > g.tail:
		p.find(g.tail).next = o
		g.tail = o
	case o < g.head:
		e.next, g.head = g.head, o
	default:
		before := g.head
		if g.parked != none && g.parked < o && p.inLine(g.parked, e.key) { // others come in order, most likely
			before = g.parked
		}
		g.parked = o
		for p.find(before).next < o {
			before = p.find(before).next
		}
		e.next = p.find(before).next
		p.find(before).next = o
	}
}

// inLine tells whether a message waits behind the gate of a key.
func (p *Partition) inLine(o Offset, key uint64) bool {
	e := p.find(o)
	return e != nil && e.state == parked && e.key == key
}

// openGate lets the next message of a settled message's key go first.
func (p *Partition) openGate(e *entry) {
	if !e.reserved {
		return
	}
	e.reserved = false
	p.pass(e.key, p.gates.find(e.key))
}

// pass gives a gate that nobody holds any more to the first in its line, unless a dead letter holds the key: then only a message that
// is redriven may go.
func (p *Partition) pass(key uint64, g *gate) {
	if g.head == none {
		p.gates.drop(key)
		return
	}
	o := g.head
	next := p.find(o)
	if p.isHeld(key) && !next.redriven {
		g.holder = none
		return
	}
	g.holder, g.head = o, next.next
	if g.head == none {
		g.tail = none
	}
	p.count.Parked--
	p.count.Ready++
	next.state, next.next, next.reserved = ready, none, true
	p.queueOf(o, next).push(o)
}

// isHeld tells whether a dead letter holds a key.
func (p *Partition) isHeld(key uint64) bool { return len(p.heldKeys) > 0 && p.heldKeys[key] > 0 }

// hold lets a dead letter hold its key.
func (p *Partition) hold(o Offset, key uint64) {
	if _, already := p.held[o]; already || key == NoKey {
		return
	}
	p.held[o] = key
	p.heldKeys[key]++
	p.count.Held++
}

// letGo ends that a dead letter holds its key. The gate stays as it is.
func (p *Partition) letGo(o Offset) (key uint64, held bool) {
	if key, held = p.held[o]; !held {
		return NoKey, false
	}
	delete(p.held, o)
	if p.heldKeys[key]--; p.heldKeys[key] == 0 {
		delete(p.heldKeys, key)
	}
	p.count.Held--
	return key, true
}

// discard forgets a dead letter.
func (p *Partition) discard(o Offset) {
	key, held := p.letGo(o)
	if held {
		p.passHeld(key)
	}
}

// passHeld lets the line of a key go on that a dead letter held.
func (p *Partition) passHeld(key uint64) {
	if g := p.gates.find(key); g != nil && g.holder == none {
		p.pass(key, g)
	}
}
