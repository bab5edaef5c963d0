package dispatch

// trimmed settles what the log has no longer, so that it holds nothing back. What is leased stays so: its consumer has it.
func (p *Partition) trimmed(ev *Trimmed) {
	p.begin = max(p.begin, ev.Begin)
	p.gates.each(func(key uint64, g *gate) { // lines first, so that no gate passes to a message that goes as well
		p.cutLine(key, g, ev.Begin)
	})
	for index := int64(p.floor) / BlockSize; Offset(index)*BlockSize < min(ev.Begin, p.cursor); index++ {
		s := p.pages.at(index)
		if s == nil || s.live == 0 {
			continue
		}
		var gone []Offset
		s.each(func(o Offset, e *entry) {
			if o < ev.Begin && e.state != leased {
				gone = append(gone, o)
			}
		})
		for _, o := range gone {
			p.settle(o, p.find(o))
		}
		ev.Lost += int64(len(gone))
	}
	if ev.Lost > 0 {
		p.changed(false)
	}
	p.advance()
	p.gap(ev.Begin)
	p.end = max(p.end, p.cursor)
	p.advance()
}

// cutLine takes the messages that are gone out of the line of a key.
func (p *Partition) cutLine(key uint64, g *gate, begin Offset) {
	var line []Offset
	cut := false
	for o := g.head; o != none; o = p.find(o).next {
		if e := p.find(o); o < begin && !e.redriven {
			cut = true
			continue
		}
		line = append(line, o)
	}
	if !cut {
		return
	}
	g.head, g.tail, g.parked = none, none, none
	for i, o := range line {
		next := none
		if i+1 < len(line) {
			next = line[i+1]
		}
		p.find(o).next = next
	}
	if len(line) > 0 {
		g.head, g.tail = line[0], line[len(line)-1]
	}
	if g.head == none && g.holder == none { // a dead letter's gate with nobody behind it
		p.gates.drop(key)
	}
}
