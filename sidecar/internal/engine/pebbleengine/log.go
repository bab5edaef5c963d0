package pebbleengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// logState is what is known of a log since its first use.
type logState struct {
	id engine.LogID

	// Owned by the committer once the log is loaded.
	next   engine.Offset // of the next record to plan
	sum    uint32        // of the last planned chunk
	timeMS int64         // of the last planned chunk
	total  int64         // bytes of records up to next
	begin  engine.Offset // planned begin
	taken  int64         // bytes of records before begin
	plan   []plannedChunk

	deleted engine.Offset // below it chunks are deleted; between it and begin they wait for that
	counted int64         // taken, as far as trims knows of it

	mu struct {
		sync.RWMutex
		bounds engine.Bounds        // what is durable
		taken  int64                // bytes of records before bounds.Begin
		bad    *engine.CorruptError // quarantined from its offset on
	}
	watchers watchers
	tailers  tailers
	written  []engine.Chunk // by the present cycle, for tailers; the committer's
}

// loadLog reads where a log begins and ends, and compares that with the log's high-water mark: a synced write-ahead log that was cut short
// gives no error, only fewer records.
func (e *Engine) loadLog(id engine.LogID, l *logState) error {
	l.id = id
	from, err := e.readBegin(id)
	if err != nil && !damaged(err) {
		return fmt.Errorf("begin of log %v: %w", id, err)
	}
	if err != nil {
		e.quarantine(l, 0, "begin: "+err.Error())
	}
	end, last, err := e.readEnd(id)
	sum, total := from.sum, from.taken
	switch {
	case err != nil && !damaged(err):
		return fmt.Errorf("end of log %v: %w", id, err)
	case err != nil:
		e.quarantine(l, 0, "last chunk: "+err.Error())
	case end > from.begin:
		sum, total, l.timeMS = last.sum, last.total, last.TimeMS
	default:
		end = from.begin
	}
	mark, marked := e.marks.of(id)
	switch {
	case !marked:
	case end < mark.end:
		e.quarantine(l, 0, fmt.Sprintf("ends at %d, was durable up to %d", end, mark.end))
	case end == mark.end && sum != mark.sum:
		e.quarantine(l, 0, fmt.Sprintf("chunk before %d is not the one that was written", end))
	}
	l.next, l.sum, l.total = end, sum, total
	l.begin, l.taken = from.begin, from.taken
	l.counted = l.taken // what is left of before is not known, and may be nothing
	l.publish()
	if from.begin > 0 {
		e.leftover(l)
	}
	return nil
}

// publish lets readers see what was planned. Its caller is the only one that plans.
func (l *logState) publish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.bounds = engine.Bounds{Begin: l.begin, End: l.next, Bytes: l.total - l.taken}
	l.mu.taken = l.taken
}

// readBegin is where the log begins, the zero logBegin if it was never trimmed.
func (e *Engine) readBegin(id engine.LogID) (logBegin, error) {
	key := logKey(id)
	value, closer, err := get(e.db, key)
	if errors.Is(err, pebble.ErrNotFound) {
		return logBegin{}, nil
	}
	if err != nil {
		return logBegin{}, err
	}
	defer closer.Close()
	body, err := unsealed(key, value)
	if err != nil {
		return logBegin{}, err
	}
	return parseLogBegin(body)
}

// readEnd is the offset after the log's last chunk and that chunk without its records, zeros if there is none. The offset is true even if the
// chunk itself is damaged.
func (e *Engine) readEnd(id engine.LogID) (end engine.Offset, last storedChunk, err error) {
	prefix := appendLog([]byte{kindChunk}, id)
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return 0, last, err
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	if !it.Last() {
		return 0, last, it.Error()
	}
	end = lastOfKey(it.Key()) + 1
	value, err := valueOf(it)
	if err != nil {
		return end, last, err
	}
	last, err = parseChunk(it.Key(), value)
	last.Records = nil // which belong to the iterator
	return end, last, err
}

// damaged tells whether an error of a read says that data are wrong, rather than that they could not be read.
func damaged(err error) bool {
	var d damage
	return errors.As(err, &d) || pebble.IsCorruptionError(err)
}

// status is what of the log is durable, and its quarantine if it has one.
func (l *logState) status() (engine.Bounds, *engine.CorruptError) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mu.bounds, l.mu.bad
}

// quarantine stops the log from serving at and above an offset, and from growing.
func (e *Engine) quarantine(l *logState, from engine.Offset, detail string) *engine.CorruptError {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.bad == nil || from < l.mu.bad.Offset {
		l.mu.bad = &engine.CorruptError{Log: l.id, Offset: from, Detail: detail}
		e.logger.Error("log is quarantined", "log", l.id.String(), "offset", int64(from), "detail", detail)
	}
	return l.mu.bad
}

func (e *Engine) readLog(ctx context.Context, l *logState, from engine.Offset, maxBytes int) ([]engine.Chunk, error) {
	bounds, bad := l.status()
	from = max(from, bounds.Begin)
	if bad != nil && from >= bad.Offset {
		return nil, bad
	}
	if from >= bounds.End {
		return nil, nil
	}
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: chunkKey(l.id, from), UpperBound: chunkKey(l.id, bounds.End)})
	if err != nil {
		return nil, fmt.Errorf("read log %v: %w", l.id, err)
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	var chunks []engine.Chunk
	var previous storedChunk
	size := 0
	for ok := it.First(); ok; ok = it.Next() {
		c, err := e.chunkAt(it)
		switch {
		case err != nil:
			return e.readFailed(l, chunks, from, err)
		case len(chunks) == 0 && c.First > from && !e.trimmedTo(l.id, c.First):
			return e.readFailed(l, chunks, from, damage(fmt.Sprintf("chunk that holds it is missing, the next begins at %d", c.First)))
		case len(chunks) > 0 && (c.First != previous.Last()+1 || c.previous != previous.sum):
			return e.readFailed(l, chunks, from, damage(fmt.Sprintf("chunk at %d does not follow the one before", c.First)))
		case bad != nil && c.Last() >= bad.Offset:
			return e.readFailed(l, chunks, from, bad)
		}
		size += len(c.Records)
		if len(chunks) > 0 && size > maxBytes {
			return chunks, nil
		}
		previous, from = c, c.Last()+1
		c.Records = bytes.Clone(c.Records)
		chunks = append(chunks, c.Chunk)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if err := it.Error(); err != nil {
		return e.readFailed(l, chunks, from, err)
	}
	if from < bounds.End && len(chunks) == 0 && !e.trimmedTo(l.id, bounds.End) {
		return e.readFailed(l, chunks, from, damage("chunk that holds it is missing"))
	}
	return chunks, nil
}

func (e *Engine) chunkAt(it *pebble.Iterator) (storedChunk, error) {
	value, err := valueOf(it)
	if err != nil {
		return storedChunk{}, err
	}
	return parseChunk(it.Key(), value)
}

// readFailed decides about a fault met at an offset: damage quarantines the log from there. What was read before it is served first, so that the
// caller meets the error exactly where it is.
func (e *Engine) readFailed(l *logState, chunks []engine.Chunk, at engine.Offset, err error) ([]engine.Chunk, error) {
	if bad := (*engine.CorruptError)(nil); errors.As(err, &bad) {
		if len(chunks) > 0 {
			return chunks, nil
		}
		return nil, bad
	}
	if !damaged(err) {
		return nil, fmt.Errorf("read log %v at %d: %w", l.id, at, err)
	}
	detail, _, _ := strings.Cut(err.Error(), "\n")
	bad := e.quarantine(l, at, detail)
	if len(chunks) > 0 {
		return chunks, nil
	}
	return nil, bad
}

// trimmedTo tells whether the log was trimmed up to an offset. A trim shows in the database before its end is published.
func (e *Engine) trimmedTo(id engine.LogID, offset engine.Offset) bool {
	from, err := e.readBegin(id)
	return err == nil && from.begin >= offset
}

// wholeChunksBelow is the greatest chunk border at or below an offset, and the bytes of records before it.
func (e *Engine) wholeChunksBelow(l *logState, before engine.Offset) (trimTo, error) {
	l.mu.RLock()
	bounds, taken := l.mu.bounds, l.mu.taken
	l.mu.RUnlock()
	if before >= bounds.End {
		return trimTo{l, bounds.End, taken + bounds.Bytes}, nil
	}
	if before <= bounds.Begin {
		return trimTo{l, bounds.Begin, taken}, nil
	}
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: chunkKey(l.id, before), UpperBound: chunkKey(l.id, bounds.End)})
	if err != nil {
		return trimTo{}, fmt.Errorf("trim log %v: %w", l.id, err)
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	if !it.First() {
		return trimTo{l, bounds.Begin, taken}, it.Error() // Another trim was faster.
	}
	c, err := e.chunkAt(it)
	if err != nil {
		_, err := e.readFailed(l, nil, before, err)
		return trimTo{}, err
	}
	return trimTo{l, c.First, c.Taken}, nil
}

// watchers are told a log's end. Telling holds the lock, so that a cancel waits for a call under way.
type watchers struct {
	mu struct {
		sync.Mutex
		next int
		of   map[int]func(engine.Offset)
	}
}

func (w *watchers) add(notify func(engine.Offset)) (cancel func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.of == nil {
		w.mu.of = make(map[int]func(engine.Offset))
	}
	w.mu.next++
	n := w.mu.next
	w.mu.of[n] = notify
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.mu.of, n)
	}
}

func (w *watchers) tell(end engine.Offset) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, notify := range w.mu.of {
		notify(end)
	}
}
