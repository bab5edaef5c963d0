package pebbleengine

import "github.com/typedmq/typedmq/sidecar/internal/engine"

const (
	// memTables is how many memtables there may be, the one that is written to among them, before writes wait for a flush.
	memTables = 4
	// givenFrom is how much must have been written since memory was given back last, so that it pays to do it again.
	givenFrom = 1 << 20
)

// GiveBack writes to tables what is in memory only, and frees the memory that it took. It is for a store that has come to rest: the next writes pay for fresh memory. It does
// nothing if little was written since the last time, if the disk is short of room, or if tables could not be written since the store was opened. One call at a time.
// Errors: engine.ErrClosed, and why the tables could not be written; the store tries on by itself.
func (e *Engine) GiveBack() error {
	if !e.gate.enter() {
		return engine.ErrClosed
	}
	defer e.gate.leave()
	if err := e.fatal.err(); err != nil {
		return err
	}
	written := e.db.Metrics().WAL.BytesIn
	// Where flushes fail, a rotation could wait for one, and all commits for the rotation.
	if written-e.givenAt < givenFrom || !e.roomy() || e.backlog.error.Load() != nil {
		return nil
	}
	e.givenAt = written
	// Pebble keeps the last memtable that it flushed for the next but one: after one flush the store has two of them that were used. After two more, which follow
	// before the first has ended, it has two that nothing was written to, and frees the others.
	for range memTables - 2 {
		if _, err := e.db.AsyncFlush(); err != nil {
			return err
		}
	}
	return e.flush()
}
