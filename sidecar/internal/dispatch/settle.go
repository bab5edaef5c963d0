package dispatch

// ack settles every token that a lease goes with. A token whose message was settled by this very lease is fine too: the caller may repeat itself.
func (p *Partition) ack(ev *Ack) {
	for _, t := range ev.Tokens {
		e, err := p.holder(t)
		switch {
		case err == nil:
			p.settle(t.Offset, e)
			ev.Settled++
			p.changed(true)
		case !p.settledBy(t):
			ev.Refused = append(ev.Refused, t)
		}
	}
	p.advance()
}

func (p *Partition) reject(ev Reject) error {
	e, err := p.holder(ev.Token)
	if err != nil {
		return err
	}
	f := p.fail(ev.Token.Offset, e, ev.Error)
	p.bury(ev.Token.Offset, e, f, ev.Reason)
	return nil
}

// Dying tells whether a message becomes a dead letter with the save that is pending.
func (p *Partition) Dying(o Offset) bool {
	for _, b := range p.pending.Save.Burials {
		if b.Offset == o {
			return true
		}
	}
	return false
}

// bury settles a message and asks for its dead letter, in one save.
func (p *Partition) bury(o Offset, e *entry, f *failure, why Reason) {
	if !p.cfg.DropDead {
		hold := p.cfg.HoldKey && e.key != NoKey
		if hold {
			p.hold(o, e.key)
		}
		p.pending.Save.Burials = append(p.pending.Save.Burials, Burial{
			Offset: o, Reason: why, Attempts: f.attempts, FirstError: f.first, LastError: f.last, Redriven: e.redriven, Held: hold,
		})
	}
	e.buried = true // so that an ack of the same lease does not pass for a repeated one
	p.settle(o, e)
	p.changed(true)
	p.advance()
}

// holder returns the entry that a token's lease is on.
func (p *Partition) holder(t Token) (*entry, error) {
	e := p.find(t.Offset)
	if e == nil || t.Epoch != p.cfg.Epoch || e.state != leased || e.lease != t.Lease {
		return nil, ErrLeaseLost
	}
	return e, nil
}

// Holds tells whether a token's lease is not over, as far as the machine was told: a lease whose time has come ends with the next event but a heartbeat.
func (p *Partition) Holds(t Token) bool {
	_, err := p.holder(t)
	return err == nil
}

// settledBy tells whether the lease of a token is the one that settled its message, as far back as that is remembered.
func (p *Partition) settledBy(t Token) bool {
	if t.Epoch != p.cfg.Epoch || t.Lease == 0 {
		return false
	}
	e := p.find(t.Offset)
	if e == nil {
		e = p.pages.freed(t.Offset)
	}
	return e != nil && e.state == settled && e.lease == t.Lease && !e.buried && e.session != 0
}

// find returns the entry of a message that is known and whose page is not freed.
func (p *Partition) find(o Offset) *entry {
	if len(p.redriven) > 0 {
		if e, ok := p.redriven[o]; ok {
			return e
		}
	}
	if o < 0 || o >= p.cursor {
		return nil
	}
	return p.pages.entry(o)
}

// settle ends a message, whatever its state, and lets the next of its key go. The caller calls advance afterwards.
func (p *Partition) settle(o Offset, e *entry) {
	p.leaveState(o, e)
	e.state = settled
	if e.failed {
		e.failed = false
		p.texts -= len(p.failures[o].first) + len(p.failures[o].last)
		delete(p.failures, o)
		p.pending.Save.DropFailures = append(p.pending.Save.DropFailures, o)
	}
	p.openGate(e)
	if e.redriven {
		delete(p.redriven, o)
		p.pending.Save.DropRedriven = append(p.pending.Save.DropRedriven, o)
		return
	}
	p.count.SettledAbove++
	index := int64(o) / BlockSize
	slot := p.pages.at(index)
	slot.live--
	if slot.page == nil {
		p.pages.recall(o, e)
	} else {
		slot.page.settled.Set(int(o % BlockSize))
	}
	p.pages.mark(slot, index)
	p.thin(slot)
}

// thin frees a page that has nothing left to say but that all is settled, and packs one that has few messages left.
func (p *Partition) thin(s *slot) {
	if s.page == nil {
		if s.live == 0 {
			s.sparse = nil
		}
		return
	}
	end := Offset(s.page.index+1) * BlockSize
	switch {
	case p.cursor < end:
	case s.live == 0:
		p.pages.free(s)
	case s.live <= sparseMost && p.fresh >= end && p.pages.used > p.pages.packAbove:
		p.pages.pack(s)
	}
}

// advance moves the floor over what is settled.
func (p *Partition) advance() {
	from := p.floor
	for p.floor < p.cursor {
		end := min(p.cursor, (p.floor/BlockSize+1)*BlockSize)
		p.floor = p.pages.at(int64(p.floor)/BlockSize).firstLive(p.floor, end)
		if p.floor < end {
			break
		}
	}
	if p.floor == from {
		return
	}
	p.count.SettledAbove -= int(p.floor - from)
	p.fresh = max(p.fresh, p.floor)
	p.moved = true
	p.dirty = true
	p.pending.Save.DropBlocks = p.pages.dropBelow(p.floor, p.pending.Save.DropBlocks)
}

// settleBlocks puts the bitmaps of changed pages above the floor into the pending save.
func (p *Partition) settleBlocks() {
	for _, index := range p.pages.dirty {
		s := p.pages.at(index)
		if s == nil {
			continue // below the floor by now
		}
		s.dirty = false
		b := Block{Index: index}
		if s.page == nil {
			b.Settled = Bitmap{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
			for i := range s.sparse {
				if left := &s.sparse[i]; left.entry.state != settled {
					b.Settled.clear(int(left.offset % BlockSize))
				}
			}
		} else {
			b.Settled = p.restored[index] // of the offsets that were not fetched yet
			for i, word := range s.page.settled {
				b.Settled[i] |= word
			}
		}
		if Offset(index)*BlockSize <= p.floor && b.Settled.noneAbove(int(p.floor%BlockSize)) {
			continue // the floor alone tells all
		}
		s.saved = true
		p.pending.Save.Blocks = append(p.pending.Save.Blocks, b)
	}
	p.pages.dirty = p.pages.dirty[:0]
}

// noneAbove tells whether no bit from i on is set.
func (b *Bitmap) noneAbove(i int) bool {
	for ; i < BlockSize; i++ {
		if b.Has(i) {
			return false
		}
	}
	return true
}
