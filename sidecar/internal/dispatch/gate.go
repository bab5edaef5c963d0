package dispatch

// gate is the order of one key: the message that goes first, and those that wait behind it, oldest first.
type gate struct{ holder, head, tail Offset }

// admit tells whether a message may be leased as far as its key is concerned. If so it holds the key's gate;
// if not it is parked behind the gate.
func (p *Partition) admit(o Offset, e *entry) bool {
	if e.key == NoKey || e.reserved {
		return true
	}
	g, busy := p.gates[e.key]
	if !busy {
		p.gates[e.key] = gate{holder: o, head: none, tail: none}
		e.reserved = true
		return true
	}
	p.park(o, e, &g)
	p.gates[e.key] = g
	return false
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
		for p.find(before).next < o {
			before = p.find(before).next
		}
		e.next = p.find(before).next
		p.find(before).next = o
	}
}

// openGate lets the next message of a settled message's key go first.
func (p *Partition) openGate(e *entry) {
	if !e.reserved {
		return
	}
	e.reserved = false
	g := p.gates[e.key]
	if g.head == none {
		delete(p.gates, e.key)
		return
	}
	o := g.head
	next := p.find(o)
	g.holder, g.head = o, next.next
	if g.head == none {
		g.tail = none
	}
	p.gates[e.key] = g
	p.count.Parked--
	p.count.Ready++
	next.state, next.next, next.reserved = ready, none, true
	p.again.push(o)
}
