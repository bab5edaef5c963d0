package dispatch

// fetched takes messages in. Offsets that are passed over without a message are gaps, which count as settled.
func (p *Partition) fetched(ev *Fetched) {
	for _, m := range ev.Messages {
		if m.Offset < p.cursor {
			continue // a chunk may begin below what was asked for
		}
		p.gap(m.Offset)
		p.see(m)
	}
	p.gap(ev.Next)
	p.end = max(p.end, p.cursor)
	p.advance()
}

// see takes the message at the cursor in.
func (p *Partition) see(m Message) {
	s := p.page(m.Offset)
	e := &s.page.entries[m.Offset%BlockSize]
	e.key, e.size, e.expires, e.lease, e.next = p.gateKey(m.Key), m.Size, m.Expires, p.leaseBase, none
	was := p.wasSettled(m.Offset)
	p.forward()
	if was {
		e.state = settled
		s.page.settled.Set(int(m.Offset % BlockSize))
		p.count.SettledAbove++
		p.thin(s)
		return
	}
	_, e.failed = p.failures[m.Offset]
	e.state = ready
	s.live++
	p.count.Ready++
	if m.Filtered {
		p.settle(m.Offset, e)
		p.changed(false)
	}
}

// gap moves the cursor to an offset over ones that do not exist.
func (p *Partition) gap(to Offset) {
	if to <= p.cursor {
		return
	}
	for o, f := range p.failures {
		if _, kept := p.redriven[o]; o >= p.cursor && o < to && !kept {
			p.texts -= len(f.first) + len(f.last)
			delete(p.failures, o)
			p.pending.Save.DropFailures = append(p.pending.Save.DropFailures, o)
		}
	}
	if p.floor == p.cursor { // nothing is kept: no need to remember the gap
		p.cursor, p.fresh, p.floor = to, to, to
		p.pending.Save.DropBlocks = p.pages.dropBelow(to, p.pending.Save.DropBlocks)
		for index := range p.restored {
			if Offset(index+1)*BlockSize <= to {
				delete(p.restored, index)
				p.pending.Save.DropBlocks = append(p.pending.Save.DropBlocks, index)
			}
		}
		p.moved = true
		p.changed(false)
		return
	}
	for p.cursor < to {
		if p.cursor%BlockSize == 0 && to-p.cursor >= BlockSize {
			p.gapBlock()
			continue
		}
		s := p.page(p.cursor)
		s.page.entries[p.cursor%BlockSize].state = settled
		s.page.settled.Set(int(p.cursor % BlockSize))
		p.pages.mark(s, s.page.index)
		p.count.SettledAbove++
		p.forward()
		p.thin(s)
	}
	p.changed(false)
}

// gapBlock moves the cursor over a whole block of offsets that do not exist.
func (p *Partition) gapBlock() {
	index := int64(p.cursor) / BlockSize
	s := p.pages.reach(index)
	if _, ok := p.restored[index]; ok {
		s.saved = true
		delete(p.restored, index)
	}
	p.pages.mark(s, index)
	p.count.SettledAbove += BlockSize
	p.cursor += BlockSize
}

// forward moves the cursor by one, forgetting what the snapshot says of a block that it leaves.
func (p *Partition) forward() {
	p.cursor++
	if len(p.restored) > 0 && p.cursor%BlockSize == 0 {
		delete(p.restored, int64(p.cursor)/BlockSize-1)
	}
}

// page returns the slot, with a page, of an offset at the cursor, noting what the snapshot says of it.
func (p *Partition) page(o Offset) *slot {
	s := p.pages.extend(o)
	if len(p.restored) > 0 {
		if _, ok := p.restored[int64(o)/BlockSize]; ok {
			s.saved = true
		}
	}
	return s
}

// wasSettled tells what the snapshot says of an offset.
func (p *Partition) wasSettled(o Offset) bool {
	if len(p.restored) == 0 {
		return false
	}
	b, ok := p.restored[int64(o)/BlockSize]
	return ok && b.Has(int(o%BlockSize))
}
