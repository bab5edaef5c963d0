package pebbleengine

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// sweepBytes and sweepAfter are when what was trimmed is deleted: so many bytes of records of all logs, or so long after the first trim.
	sweepBytes = 8 << 20
	// sweepBytesOfLog is how much of each log is deleted at once, on average: a thousand logs are swept as seldom as they can be, since each is a range of its own.
	sweepBytesOfLog = 64 << 10
	sweepAfter      = 30 * time.Second
	// sweepWhenFull is that time when room on the disk is short.
	sweepWhenFull = time.Second
	// trimsFreeWithin is how long a deletion may wait for the table that makes it free disk.
	trimsFreeWithin = 30 * time.Second
)

// trims are the logs that were trimmed and whose chunks are not deleted yet. A trim moves the begin of its log and no more; the chunks below it are never
// read again. Each deletion of a range that is in a memtable slows down every iterator that is made after the next one, by half a microsecond, and queues trim
// all the time: with a deletion for each trim a read took 2 ms after 6,000 of them. It belongs to the committer.
type trims struct {
	logs    []*logState // in the order of their first trim
	waiting map[*logState]bool
	bytes   int64
	since   time.Time // of the first of them
	swept   []*logState
	timer   *time.Timer
	armed   bool
	still   bool // the timer is not used
}

func newTrims(still bool) *trims {
	t := &trims{waiting: make(map[*logState]bool), timer: time.NewTimer(time.Hour), still: still}
	t.timer.Stop()
	return t
}

// add notes logs whose new begin is durable.
func (t *trims) add(logs []*logState) {
	for _, l := range logs {
		if l.deleted == l.begin {
			continue
		}
		if len(t.logs) == 0 {
			t.since = time.Now()
		}
		if !t.waiting[l] {
			t.waiting[l] = true
			t.logs = append(t.logs, l)
		}
		t.bytes += l.taken - l.counted
		l.counted = l.taken
	}
}

// due is how long what waits may still wait.
func (t *trims) due(roomy bool) time.Duration {
	wait := sweepAfter
	if !roomy {
		wait = sweepWhenFull
	}
	return max(0, wait-time.Since(t.since))
}

// arm sets the timer if something waits.
func (t *trims) arm(roomy bool) {
	if len(t.logs) > 0 && !t.armed && !t.still {
		t.timer.Reset(t.due(roomy))
		t.armed = true
	}
}

// build writes the deletions into a batch, if it is time for them, or if they are wanted now.
func (t *trims) build(batch *pebble.Batch, roomy, now bool) error {
	if len(t.logs) == 0 || !now && t.bytes < max(sweepBytes, int64(len(t.logs))*sweepBytesOfLog) && t.due(roomy) > 0 {
		return nil
	}
	var errs []error
	for _, l := range t.logs {
		errs = append(errs, batch.DeleteRange(chunkKey(l.id, l.deleted), chunkKey(l.id, l.begin), nil))
	}
	t.swept, t.logs = t.logs, nil
	return errors.Join(errs...)
}

// written is told that the batch of the last build is durable.
func (t *trims) written(e *Engine) {
	if t.swept == nil {
		return
	}
	for _, l := range t.swept {
		l.deleted, l.counted = l.begin, l.taken
	}
	t.swept, t.bytes = nil, 0
	clear(t.waiting)
	if e.roomy() {
		return
	}
	if _, err := e.db.AsyncFlush(); err != nil { // It frees disk once it is in a table.
		e.logger.Warn("what was trimmed frees no disk yet", "error", err)
	}
}

// leftover tells the committer of chunks below the begin of a log that was just loaded: the process ended before they were deleted. If it is busy, the next
// trim of the log does it.
func (e *Engine) leftover(l *logState) {
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: chunkKey(l.id, 0), UpperBound: chunkKey(l.id, l.begin)})
	if err != nil {
		return
	}
	there := it.First()
	if it.Close() != nil || !there {
		l.deleted = l.begin
		return
	}
	select {
	case e.queue <- &request{leftover: l}:
	default:
	}
}
