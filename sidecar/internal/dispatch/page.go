package dispatch

// BlockSize is the number of offsets in a page, which is also the unit in which settled messages above the floor are saved.
const BlockSize = 256

// Bitmap has a bit for each offset of a block.
type Bitmap [BlockSize / 64]uint64

// Has tells whether bit i is set.
func (b *Bitmap) Has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// Set sets bit i.
func (b *Bitmap) Set(i int) { b[i/64] |= 1 << (i % 64) }

func (b *Bitmap) clear(i int) { b[i/64] &^= 1 << (i % 64) }

// state is where a message stands.
type state uint8

const (
	unseen state = iota
	ready
	leased
	waiting
	parked
	settled
)

// entry is what is remembered of a message.
type entry struct {
	key     uint64
	next    Offset // the message parked behind this one, or none
	session SessionID
	expires Instant // 0 for never
	lease   uint32
	size    uint32
	state   state
	// failed says that failures has the offset.
	failed bool
	// extended says that the lease no longer ends with its session.
	extended bool
	// reserved says that the message holds its key's gate.
	reserved bool
	// redriven says that the entry is in Partition.redriven, not on a page.
	redriven bool
	// suspect says that its session has it as the one message that it may have of those.
	suspect bool
	// buried says that it was settled as a dead letter.
	buried bool
}

// page is BlockSize entries.
type page struct {
	index   int64
	settled Bitmap // the entries that are
	entries [BlockSize]entry
}

// sparseMost is how many unsettled messages a page has at most when it is packed.
const sparseMost = 8

// packAbove is the usual value of pages.packAbove.
const packAbove = 64

// left is an unsettled message of a page that was packed.
type left struct {
	offset Offset
	entry  entry
}

// slot is the place of a page. Without a page, every offset of a slot below the cursor is settled, but for those in sparse.
type slot struct {
	page   *page
	sparse []left // in order; no message is added to it
	live   int    // seen and not settled
	dirty  bool   // differs from what was saved
	saved  bool   // a block was saved for it
}

// each visits the messages of a slot that are not settled, in order.
func (s *slot) each(visit func(Offset, *entry)) {
	if s.live == 0 {
		return
	}
	for i := range s.sparse {
		if s.sparse[i].entry.state != settled {
			visit(s.sparse[i].offset, &s.sparse[i].entry)
		}
	}
	if s.page == nil {
		return
	}
	for i := range s.page.entries {
		if e := &s.page.entries[i]; e.state != settled && e.state != unseen {
			visit(Offset(s.page.index*BlockSize+int64(i)), e)
		}
	}
}

// firstLive returns the first offset from o on that is not settled, or end.
func (s *slot) firstLive(o, end Offset) Offset {
	if s.page == nil {
		for i := range s.sparse {
			if s.sparse[i].offset >= o && s.sparse[i].entry.state != settled {
				return s.sparse[i].offset
			}
		}
		return end
	}
	for o < end && s.page.entries[o%BlockSize].state == settled {
		o++
	}
	return o
}

// pages are the slots from the floor's page to the cursor's, in order.
type pages struct {
	first int64 // index of slots[head]
	slots []slot
	head  int
	dirty []int64
	used  int // pages in slots
	// packAbove is how many pages there are before any is packed: packing pays where few messages keep many pages.
	packAbove int
	// recent keeps freed pages for a while, so that a repeated ack of a settled message is recognised, and reuses them.
	recent [9]*page // at least 8: one may be in use again
	turn   int
}

func newPages(floor Offset, packAbove int) pages {
	return pages{first: int64(floor) / BlockSize, packAbove: packAbove}
}

// at returns the slot of an offset, or nil outside the slots.
func (ps *pages) at(index int64) *slot {
	i := index - ps.first
	if i < 0 || i >= int64(len(ps.slots)-ps.head) {
		return nil
	}
	return &ps.slots[ps.head+int(i)]
}

// entry returns the entry of an offset, or nil if it is settled with its page, or never seen.
func (ps *pages) entry(o Offset) *entry {
	s := ps.at(int64(o) / BlockSize)
	if s == nil {
		return nil
	}
	if s.page != nil {
		return &s.page.entries[o%BlockSize]
	}
	for i := range s.sparse {
		if s.sparse[i].offset == o {
			return &s.sparse[i].entry
		}
	}
	return nil
}

// extend makes slots and a page for an offset at or above the cursor.
func (ps *pages) extend(o Offset) *slot {
	index := int64(o) / BlockSize
	s := ps.reach(index)
	if s.page == nil {
		s.page = ps.blank()
		s.page.index = index
	}
	return s
}

// reach makes slots up to an index.
func (ps *pages) reach(index int64) *slot {
	for ps.first+int64(len(ps.slots)-ps.head) <= index {
		ps.slots = append(ps.slots, slot{})
	}
	return ps.at(index)
}

// blank returns an unused page, the one that was freed longest ago if there are enough.
func (ps *pages) blank() *page {
	ps.used++
	pg := ps.recent[ps.turn]
	if pg == nil {
		return new(page)
	}
	ps.recent[ps.turn] = nil
	*pg = page{}
	return pg
}

// free empties a slot whose offsets are all settled.
func (ps *pages) free(s *slot) {
	ps.recent[ps.turn] = s.page
	ps.turn = (ps.turn + 1) % len(ps.recent)
	s.page = nil
	ps.used--
}

// pack keeps the few messages of a slot's page that are not settled, and frees the page.
func (ps *pages) pack(s *slot) {
	sparse := make([]left, 0, s.live)
	s.each(func(o Offset, e *entry) { sparse = append(sparse, left{offset: o, entry: *e}) })
	s.sparse = sparse
	ps.free(s)
}

// freed returns the entry of a settled offset if its page was freed lately.
func (ps *pages) freed(o Offset) *entry {
	for _, pg := range ps.recent {
		if pg != nil && pg.index == int64(o)/BlockSize {
			return &pg.entries[o%BlockSize]
		}
	}
	return nil
}

// recall notes in the freed page of a settled offset how it was settled.
func (ps *pages) recall(o Offset, e *entry) {
	if was := ps.freed(o); was != nil {
		*was = *e
	}
}

// mark notes that a slot differs from what was saved.
func (ps *pages) mark(s *slot, index int64) {
	if !s.dirty {
		s.dirty = true
		ps.dirty = append(ps.dirty, index)
	}
}

// dropBelow forgets the slots below the floor's and appends the indexes that had been saved to dropped.
func (ps *pages) dropBelow(floor Offset, dropped []int64) []int64 {
	for index := int64(floor) / BlockSize; ps.first < index && ps.head < len(ps.slots); ps.first++ {
		s := &ps.slots[ps.head]
		if s.saved {
			dropped = append(dropped, ps.first)
		}
		if s.page != nil {
			ps.free(s)
		}
		*s = slot{}
		ps.head++
	}
	if ps.head == len(ps.slots) {
		ps.slots, ps.head = ps.slots[:0], 0
		ps.first = max(ps.first, int64(floor)/BlockSize)
	} else if ps.head > 64 && ps.head*2 > len(ps.slots) {
		n := copy(ps.slots, ps.slots[ps.head:])
		clear(ps.slots[n:]) // which would keep pages that are freed later
		ps.slots, ps.head = ps.slots[:n], 0
	}
	return dropped
}
