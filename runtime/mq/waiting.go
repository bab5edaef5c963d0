package mq

import (
	"slices"
	"time"
)

// waiting holds deliveries that no handler has started on: the highest priority first, and of one priority in order of arrival.
type waiting struct {
	levels [MaxPriority + 1][]*delivery
	count  int
	bytes  int // sum of the sizes
}

// push adds a delivery. A priority that no topic has counts as the highest.
func (w *waiting) push(d *delivery) {
	level := min(d.priority, MaxPriority)
	w.levels[level] = append(w.levels[level], d)
	w.count++
	w.bytes += d.size
}

// peek returns the delivery to start next, nil if there is none.
func (w *waiting) peek() *delivery {
	for _, queue := range slices.Backward(w.levels[:]) {
		if len(queue) > 0 {
			return queue[0]
		}
	}
	return nil
}

// oldest returns when the one that waits longest came. There must be one, and arrivals must have been noted.
func (w *waiting) oldest() time.Time {
	var first time.Time
	for _, queue := range w.levels {
		if len(queue) > 0 && (first.IsZero() || queue[0].arrived.Before(first)) {
			first = queue[0].arrived
		}
	}
	return first
}

// first takes the delivery to start next, nil if there is none.
func (w *waiting) first() *delivery {
	for level := range slices.Backward(w.levels[:]) {
		if queue := w.levels[level]; len(queue) > 0 {
			d := queue[0]
			queue[0] = nil
			w.levels[level] = queue[1:]
			w.count--
			w.bytes -= d.size
			return d
		}
	}
	return nil
}

// last takes the delivery that would be started last, nil if there is none.
func (w *waiting) last() *delivery {
	for level, queue := range w.levels {
		if end := len(queue) - 1; end >= 0 {
			d := queue[end]
			queue[end] = nil
			w.levels[level] = queue[:end]
			w.count--
			w.bytes -= d.size
			return d
		}
	}
	return nil
}
