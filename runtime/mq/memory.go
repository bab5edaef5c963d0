package mq

import "time"

// Bounds of the memory of answered frames that a client keeps for its next ones: fresh memory costs more than what is done with it. One that is
// idle gives most of it back.
const (
	maxSpareBytes  = 8 << 20
	maxIdleBytes   = 256 << 10
	maxSpareTopics = 64
	keepMemory     = 5 * time.Second
)

// memory is how much a batch keeps.
func (b *batch) memory() int { return cap(b.records) + 4*cap(b.ends) + cap(b.abandoned) }

// newBatchLocked returns an empty batch.
func (l *lane) newBatchLocked(t *topic) *batch {
	b := &batch{}
	if n := len(l.mu.spare); n > 0 {
		b = l.mu.spare[n-1]
		l.mu.spare[n-1] = nil
		l.mu.spare = l.mu.spare[:n-1]
		l.mu.kept -= b.memory()
	}
	b.topic, b.lane = t, l
	b.answers = newAnswers(b)
	return b
}

// newFrameLocked returns an empty frame.
func (l *lane) newFrameLocked() *frame {
	last := len(l.mu.frames) - 1
	if last < 0 {
		return newFrame()
	}
	f := l.mu.frames[last]
	l.mu.frames = l.mu.frames[:last]
	return f
}

// recycle keeps the memory of a frame of which nothing waits for an answer any more. It was copied from the callers and is sent from this
// goroutine only, and the transport has copied it or given it up when it returns: nobody can read it.
func (l *lane) recycle(f *frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range f.begun {
		b.answers.batch = nil // all of it may have been abandoned
		*b = batch{records: b.records[:0], ends: b.ends[:0], abandoned: b.abandoned[:0]}
		if n := b.memory(); l.mu.kept+n <= maxSpareBytes && len(l.mu.spare) < maxSpareTopics {
			l.mu.spare = append(l.mu.spare, b)
			l.mu.kept += n
		}
	}
	clear(f.byTopic)
	clear(f.begun)
	clear(f.batches[:cap(f.batches)])
	*f = frame{batches: f.batches[:0], begun: f.begun[:0], byTopic: f.byTopic}
	if len(l.mu.frames) < len(l.lanes) {
		l.mu.frames = append(l.mu.frames, f)
	}
	l.doneLocked(1)
}

// keepsMuch reports whether there is something to give back.
func (p *pipeline) keepsMuch() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.kept > maxIdleBytes
}

// giveBack forgets memory beyond what an idle client keeps.
func (p *pipeline) giveBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.mu.spare[:0]
	p.mu.kept = 0
	for _, b := range p.mu.spare {
		if n := b.memory(); p.mu.kept+n <= maxIdleBytes {
			kept = append(kept, b)
			p.mu.kept += n
		}
	}
	clear(p.mu.spare[len(kept):])
	p.mu.spare = kept
}
