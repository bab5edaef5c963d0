package dispatch

// gates are the gates of the keys that have one: a hash table with open addressing and linear probing, whose slots hold 32 bits of the key's hash and the place of the gate in a list.
// It costs half of what a Go map does where a gate lives as long as a message: its memory is used again at once, nothing is hashed byte by byte, and a gate is changed in place.
// The zero gates are empty.
type gates struct {
	slots []gateSlot // a power of two of them, or none
	shift int        // of a hash, to the index of its slot
	all   []keyedGate
	free  int32 // the first unused place of all, as 1 more, linked by their holders; 0 if there is none
	count int
}

// gateSlot is free if place is 0.
type gateSlot struct {
	hash  uint32
	place int32 // 1 more than the index
}

type keyedGate struct {
	key uint64 // NoKey in one that is not used, whose holder links to the next of those
	gate
}

// gatesKept is the length of a list that is kept though it is empty.
const gatesKept = 1024

// hashOf spreads keys, which may be few bits that differ anywhere: by Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4).
func hashOf(key uint64) uint32 { return uint32(key * 0x9e3779b97f4a7c15 >> 32) }

// find returns the gate of a key, nil if it has none. It may be changed until the next add or drop.
func (gs *gates) find(key uint64) *gate {
	if i := gs.slotOf(key); i >= 0 {
		return &gs.all[gs.slots[i].place-1].gate
	}
	return nil
}

// slotOf is the slot of a key's gate, or -1.
func (gs *gates) slotOf(key uint64) int {
	if gs.count == 0 {
		return -1
	}
	h, mask := hashOf(key), len(gs.slots)-1
	for i := int(h >> gs.shift); ; i = (i + 1) & mask {
		s := gs.slots[i]
		if s.place == 0 {
			return -1
		}
		if s.hash == h && gs.all[s.place-1].key == key {
			return i
		}
	}
}

// add gives a key that has no gate one that nobody holds. It may be changed until the next add or drop.
func (gs *gates) add(key uint64) *gate {
	if 2*(gs.count+1) > len(gs.slots) {
		gs.grow()
	}
	place := gs.free
	if place == 0 {
		gs.all = append(gs.all, keyedGate{})
		place = int32(len(gs.all))
	} else {
		gs.free = int32(gs.all[place-1].holder)
	}
	g := &gs.all[place-1]
	*g = keyedGate{key: key, gate: gate{holder: none, head: none, tail: none, parked: none}}
	gs.count++
	gs.put(gateSlot{hashOf(key), place})
	return &g.gate
}

func (gs *gates) put(s gateSlot) {
	mask := len(gs.slots) - 1
	i := int(s.hash >> gs.shift)
	for gs.slots[i].place != 0 {
		i = (i + 1) & mask
	}
	gs.slots[i] = s
}

func (gs *gates) grow() {
	old := gs.slots
	if len(old) == 0 {
		gs.slots, gs.shift = make([]gateSlot, 16), 32-4
	} else {
		gs.slots, gs.shift = make([]gateSlot, 2*len(old)), gs.shift-1
	}
	for _, s := range old {
		if s.place != 0 {
			gs.put(s)
		}
	}
}

// drop takes a key's gate away. Those that were put further than their slot because of it move up.
func (gs *gates) drop(key uint64) {
	i := gs.slotOf(key)
	if i < 0 {
		return
	}
	place := gs.slots[i].place
	gs.all[place-1] = keyedGate{key: NoKey, gate: gate{holder: Offset(gs.free)}}
	gs.free = place
	if gs.count--; gs.count == 0 && len(gs.all) > gatesKept {
		*gs = gates{}
		return
	}
	mask := len(gs.slots) - 1
	for next := (i + 1) & mask; gs.slots[next].place != 0; next = (next + 1) & mask {
		home := int(gs.slots[next].hash >> gs.shift)
		if (next-home)&mask >= (next-i)&mask { // its home is not between the hole and where it is
			gs.slots[i] = gs.slots[next]
			i = next
		}
	}
	gs.slots[i] = gateSlot{}
}

// each visits all gates. A visit may change and drop the one that it is told of.
func (gs *gates) each(visit func(key uint64, g *gate)) {
	for i := 0; i < len(gs.all); i++ {
		if g := &gs.all[i]; g.key != NoKey {
			visit(g.key, &g.gate)
		}
	}
}
