package dispatch

import (
	"slices"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// kind says what a timer ends.
type kind uint8

const (
	waitEnds kind = iota
	leaseEnds
)

// timer is an instant at which a message may change its state. It is void if the message has been leased anew since.
type timer struct {
	at     Instant
	offset Offset
	lease  uint32
	kind   kind
}

// timers is a binary heap, earliest first.
type timers struct{ heap []timer }

func (ts *timers) earliest() (Instant, bool) {
	if len(ts.heap) == 0 {
		return 0, false
	}
	return ts.heap[0].at, true
}

func (ts *timers) push(t timer) {
	h := append(ts.heap, t)
	i := len(h) - 1
	for i > 0 && h[i].at < h[(i-1)/2].at {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
		i = (i - 1) / 2
	}
	ts.heap = h
}

func (ts *timers) pop() timer {
	h := ts.heap
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && h[c+1].at < h[c].at {
			c++
		}
		if h[i].at <= h[c].at {
			break
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
	ts.heap = h
	return top
}

// fire does what is due: leases of sessions that were not heard of, waits, and leases that were extended. A session that was not heard of has
// vanished; the lease of one that joined for once, or that was extended, was asked for with its length: an attempt is counted for it.
func (p *Partition) fire(now Instant) {
	for i := 0; i < len(p.sessions); {
		s := p.sessions[i]
		if s.until == 0 || s.until > now {
			i++
			continue
		}
		p.eachLease(s.id, false, func(o Offset, e *entry) {
			if s.once {
				p.expire(now, o, e)
			} else {
				p.lose(o, e)
			}
		})
		p.forget(s.id)
	}
	for {
		at, ok := p.timers.earliest()
		if !ok || at > now {
			return
		}
		t := p.timers.pop()
		if mutant.On(mutant.TimerLeak) && t.kind == waitEnds {
			t.at = t.at.Add(time.Hour)
			p.timers.push(t)
		}
		e := p.find(t.offset)
		switch {
		case e == nil || e.lease != t.lease:
		case t.kind == waitEnds && e.state == waiting:
			p.count.Waiting--
			p.count.Ready++
			e.state = ready
			p.queueOf(t.offset, e).push(t.offset)
		case t.kind == leaseEnds && e.state == leased && p.extended[t.offset].timer == t.at:
			p.extensionEnds(now, t, e)
		}
	}
}

// extensionEnds ends an extended lease, unless it was extended further since the timer was set.
func (p *Partition) extensionEnds(now Instant, t timer, e *entry) {
	x := p.extended[t.offset]
	if x.until <= now {
		p.expire(now, t.offset, e)
		return
	}
	x.timer = x.until
	p.extended[t.offset] = x
	t.at = x.until
	p.setTimer(t)
}

// setTimer adds a timer. When most are void, because their messages went on before they fired, it drops those first.
func (p *Partition) setTimer(t timer) {
	if n := len(p.timers.heap); n >= 1024 && n > 2*(p.count.Waiting+len(p.extended)) {
		live := slices.DeleteFunc(p.timers.heap, func(t timer) bool {
			e := p.find(t.offset)
			return e == nil || e.lease != t.lease || t.kind == waitEnds && e.state != waiting || t.kind == leaseEnds && p.extended[t.offset].timer != t.at
		})
		p.timers.heap = nil
		for _, t := range live {
			p.timers.push(t)
		}
	}
	p.timers.push(t)
}

// expire ends a lease whose time is over.
func (p *Partition) expire(now Instant, o Offset, e *entry) {
	p.tally.LeasesExpired++
	p.attempted(now, o, e, "lease expired", 0)
}

// queue is a first-in first-out list of offsets.
type queue struct {
	items []Offset
	head  int
}

func (q *queue) len() int { return len(q.items) - q.head }

func (q *queue) push(o Offset) { q.items = append(q.items, o) }

func (q *queue) pushFront(o Offset) {
	if q.head > 0 {
		q.head--
		q.items[q.head] = o
		return
	}
	q.items = slices.Insert(q.items, 0, o)
}

func (q *queue) pop() Offset {
	o := q.items[q.head]
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	} else if q.head >= 1024 && q.head*2 >= len(q.items) {
		q.items, q.head = q.items[:copy(q.items, q.items[q.head:])], 0
	}
	return o
}

func sortOffsets(os []Offset) { slices.Sort(os) }
