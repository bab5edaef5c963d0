package pebbleengine

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Tail implements engine.Tailer.
func (e *Engine) Tail(id engine.LogID, wanted func() bool, take func(engine.Chunk)) (cancel func()) {
	return e.logs.entry(id).value.tailers.add(tailer{wanted, take})
}

// tailers are given a log's chunks as they are written. Calling them holds the lock, so that a cancel waits for a call under way.
type tailers struct {
	n  atomic.Int64
	mu struct {
		sync.Mutex
		of []*tailer
	}
}

type tailer struct {
	wanted func() bool
	take   func(engine.Chunk)
}

func (ts *tailers) add(t tailer) (cancel func()) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.mu.of = append(ts.mu.of, &t)
	ts.n.Add(1)
	return func() {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		for i := range ts.mu.of {
			if ts.mu.of[i] == &t {
				ts.mu.of = append(ts.mu.of[:i], ts.mu.of[i+1:]...)
				ts.n.Add(-1)
				return
			}
		}
	}
}

// wanted tells whether anybody wants what is written now.
func (ts *tailers) wanted() bool {
	if ts.n.Load() == 0 {
		return false
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.mu.of {
		if t.wanted() {
			return true
		}
	}
	return false
}

// keep copies a chunk out of the batch that it is written with.
func (l *logState) keep(p *plannedChunk, records []byte, taken int64) {
	l.written = append(l.written, engine.Chunk{First: p.first, Count: p.count, TimeMS: p.timeMS, Records: bytes.Clone(records), Taken: taken})
}

// tail hands over what was written, which is durable.
func (l *logState) tail() {
	if len(l.written) == 0 {
		return
	}
	l.tailers.mu.Lock()
	defer l.tailers.mu.Unlock()
	for _, t := range l.tailers.mu.of {
		if !t.wanted() {
			continue
		}
		for _, c := range l.written {
			t.take(c)
		}
	}
	clear(l.written)
	l.written = l.written[:0]
}
