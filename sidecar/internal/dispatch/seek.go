package dispatch

// seek moves the position. What the machine knows of messages of the log goes; the lease numbers go on, so that no token from before fits a
// lease after.
func (p *Partition) seek(now Instant, to Offset) {
	to = max(0, to)
	save := &p.pending.Save
	*save = Save{Reset: true, DropRedriven: save.DropRedriven, Burials: save.Burials}
	p.pending.Deliver = p.pending.Deliver[:0]

	kept := p.redriven
	failures := p.failures
	p.redriven, p.failures = make(map[Offset]*entry), make(map[Offset]*failure)
	p.gates, p.extended, p.restored = gates{}, make(map[Offset]extension), make(map[int64]Bitmap)
	p.again, p.suspects, p.timers = queue{}, queue{}, timers{}
	p.pages = newPages(to, p.pages.packAbove)
	p.floor, p.fresh, p.cursor, p.end = to, to, to, max(p.end, to)
	p.texts = 0
	p.count = Stats{Held: p.count.Held}
	p.leaseBase = p.leaseMax
	for i := 0; i < len(p.sessions); {
		s := p.sessions[i]
		if s.once {
			p.forget(s.id)
			continue
		}
		s.leases, s.size, s.suspects = 0, 0, 0
		i++
	}
	p.moved = true
	p.changed(true)

	var left []Offset
	for o := range kept {
		left = append(left, o)
	}
	sortOffsets(left)
	for _, o := range left {
		if o >= to { // the log brings it
			save.DropRedriven = append(save.DropRedriven, o)
			continue
		}
		if f := failures[o]; f != nil {
			p.failures[o] = f
			p.texts += len(f.first) + len(f.last)
			p.saveFailure(o, f)
		}
		p.bringBack(now, o, kept[o])
	}
}

// bringBack keeps a redriven message on its way across a seek.
func (p *Partition) bringBack(now Instant, o Offset, e *entry) {
	*e = entry{key: e.key, size: e.size, expires: e.expires, next: none, state: ready, redriven: true}
	_, e.failed = p.failures[o]
	p.redriven[o] = e
	p.count.Ready++
	if p.admit(o, e) {
		p.queueOf(o, e).push(o)
	}
}
