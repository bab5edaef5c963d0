package mq

import "time"

// waiting holds deliveries that no handler has started on: the highest priority first, and of one priority in order of arrival.
type waiting struct {
	levels [MaxPriority + 1]struct{ first, last *delivery }
	top    int // no higher level has any
	count  int
	bytes  int // sum of the sizes
}

// push adds a delivery. A priority that no topic has counts as the highest.
func (w *waiting) push(d *delivery) {
	i := int(min(d.priority, MaxPriority))
	w.top = max(w.top, i)
	level := &w.levels[i]
	d.previous = level.last
	if level.last == nil {
		level.first = d
	} else {
		level.last.next = d
	}
	level.last = d
	w.count++
	w.bytes += d.size
}

// join adds what waits in other, which is not used any more.
func (w *waiting) join(other *waiting) {
	for i := range other.levels {
		level, more := &w.levels[i], other.levels[i]
		switch {
		case more.first == nil:
			continue
		case level.last == nil:
			*level = more
			continue
		}
		level.last.next, more.first.previous = more.first, level.last
		level.last = more.last
	}
	w.top = max(w.top, other.top)
	w.count += other.count
	w.bytes += other.bytes
}

// peek returns the delivery to start next, nil if there is none.
func (w *waiting) peek() *delivery {
	for w.top > 0 && w.levels[w.top].first == nil {
		w.top--
	}
	return w.levels[w.top].first
}

// oldest returns when the one that waits longest came. There must be one, and arrivals must have been noted.
func (w *waiting) oldest() time.Time {
	var first time.Time
	for i := range w.levels {
		if d := w.levels[i].first; d != nil && (first.IsZero() || d.arrived.Before(first)) {
			first = d.arrived
		}
	}
	return first
}

// first takes the delivery to start next, nil if there is none.
func (w *waiting) first() *delivery {
	d := w.peek()
	if d != nil {
		w.remove(d)
	}
	return d
}

// last takes the delivery that would be started last, nil if there is none.
func (w *waiting) last() *delivery {
	for i := range w.levels {
		if d := w.levels[i].last; d != nil {
			w.remove(d)
			return d
		}
	}
	return nil
}

func (w *waiting) remove(d *delivery) {
	level := &w.levels[min(d.priority, MaxPriority)]
	if d.previous == nil {
		level.first = d.next
	} else {
		d.previous.next = d.next
	}
	if d.next == nil {
		level.last = d.previous
	} else {
		d.next.previous = d.previous
	}
	d.next, d.previous = nil, nil
	w.count--
	w.bytes -= d.size
}
