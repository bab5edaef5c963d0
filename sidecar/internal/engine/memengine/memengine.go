// Package memengine is an engine in memory, for tests and for trying things out. It is simple on purpose, so that one can see that it is
// right. Nothing survives the process, and nothing limits its memory.
package memengine

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"sync"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// Engine implements engine.Engine. Its "durable" means "in memory".
type Engine struct {
	mu struct {
		sync.Mutex
		closed bool
		logs   map[engine.LogID]*log
		shards map[engine.ShardID]*state
	}
	// watch is held while watchers are told, so that cancel can wait for that. It is taken before mu.
	watch struct {
		sync.Mutex
		next int
		of   map[engine.LogID]map[int]func(engine.Offset)
		tail map[engine.LogID]map[int]*tailer
	}
}

// tailer takes the chunks of a log from an offset on.
type tailer struct {
	wanted func() bool
	take   func(engine.Chunk)
	next   engine.Offset
}

type log struct {
	begin, end engine.Offset
	chunks     []engine.Chunk
	total      int64 // bytes of records up to end
}

// state is a shard: its claim and its map, sorted by key. Slices in it are never changed in place, so that a scan may keep them.
type state struct {
	epoch engine.Epoch
	pairs []engine.Pair
}

// New returns an empty engine.
func New() *Engine {
	e := &Engine{}
	e.mu.logs = make(map[engine.LogID]*log)
	e.mu.shards = make(map[engine.ShardID]*state)
	e.watch.of = make(map[engine.LogID]map[int]func(engine.Offset))
	e.watch.tail = make(map[engine.LogID]map[int]*tailer)
	return e
}

// Append implements engine.Engine. A context that is done before the call fails it without effect.
func (e *Engine) Append(ctx context.Context, appends []engine.Append) ([]engine.Offset, error) {
	return e.Commit(ctx, nil, appends)
}

// Commit implements engine.Engine.
func (e *Engine) Commit(ctx context.Context, parts []engine.Part, appends []engine.Append) ([]engine.Offset, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	runs := make([][]engine.Run, len(appends))
	for i, a := range appends {
		var err error
		if runs[i], err = engine.Cut(a); err != nil {
			return nil, err
		}
	}
	firsts, err := e.apply(parts, appends, runs)
	if err != nil {
		return nil, err
	}
	e.tell(appends)
	return firsts, nil
}

func (e *Engine) apply(parts []engine.Part, appends []engine.Append, runs [][]engine.Run) ([]engine.Offset, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return nil, engine.ErrClosed
	}
	for _, p := range parts {
		owner := p.Shard.(*shard)
		if owner.epoch == 0 || e.mu.shards[owner.id].epoch != owner.epoch && !mutant.On(mutant.EpochUnchecked) {
			return nil, engine.ErrFenced
		}
	}
	firsts := make([]engine.Offset, len(appends))
	for i, a := range appends {
		firsts[i] = e.logLocked(a.Log).append(a.TimeMS, runs[i])
	}
	for _, p := range parts {
		e.mu.shards[p.Shard.(*shard).id].apply(p.Writes, firsts)
	}
	return firsts, nil
}

func (e *Engine) logLocked(id engine.LogID) *log {
	l := e.mu.logs[id]
	if l == nil {
		l = &log{}
		e.mu.logs[id] = l
	}
	return l
}

func (l *log) append(timeMS int64, runs []engine.Run) (first engine.Offset) {
	first = l.end
	if n := len(l.chunks); n > 0 {
		timeMS = max(timeMS, l.chunks[n-1].TimeMS)
	}
	for _, run := range runs {
		l.chunks = append(l.chunks, engine.Chunk{First: l.end, Count: run.Count, TimeMS: timeMS, Records: bytes.Clone(run.Records), Taken: l.total})
		l.total += int64(len(run.Records))
		l.end += engine.Offset(run.Count)
	}
	return first
}

// tell calls the watchers of the logs that were written.
func (e *Engine) tell(appends []engine.Append) {
	e.watch.Lock()
	defer e.watch.Unlock()
	if len(e.watch.of)+len(e.watch.tail) == 0 {
		return
	}
	for i, a := range appends {
		if slices.ContainsFunc(appends[:i], func(b engine.Append) bool { return b.Log == a.Log }) {
			continue
		}
		for _, t := range e.watch.tail[a.Log] {
			chunks, end := e.after(a.Log, t.next)
			if t.next = end; t.wanted() {
				for _, c := range chunks {
					t.take(c)
				}
			}
		}
		for _, notify := range e.watch.of[a.Log] {
			notify(e.end(a.Log))
		}
	}
}

func (e *Engine) end(id engine.LogID) engine.Offset {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.logLocked(id).end
}

// after is the chunks of a log from an offset on, and its end.
func (e *Engine) after(id engine.LogID, from engine.Offset) ([]engine.Chunk, engine.Offset) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.logLocked(id)
	return slices.Clone(l.chunks[l.find(from):]), l.end
}

// Read implements engine.Engine.
func (e *Engine) Read(ctx context.Context, id engine.LogID, from engine.Offset, maxBytes int) ([]engine.Chunk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return nil, engine.ErrClosed
	}
	l := e.mu.logs[id]
	if l == nil {
		return nil, nil
	}
	i := l.find(from)
	var chunks []engine.Chunk
	for size := 0; i < len(l.chunks); i++ {
		size += len(l.chunks[i].Records)
		if len(chunks) > 0 && size > maxBytes {
			break
		}
		chunks = append(chunks, l.chunks[i])
	}
	return chunks, nil
}

// find is the index of the first chunk that ends at or above from.
func (l *log) find(from engine.Offset) int {
	return sort.Search(len(l.chunks), func(i int) bool { return l.chunks[i].Last() >= from })
}

// Bounds implements engine.Engine.
func (e *Engine) Bounds(ctx context.Context, id engine.LogID) (engine.Bounds, error) {
	if err := ctx.Err(); err != nil {
		return engine.Bounds{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return engine.Bounds{}, engine.ErrClosed
	}
	l := e.mu.logs[id]
	if l == nil {
		return engine.Bounds{}, nil
	}
	bounds := engine.Bounds{Begin: l.begin, End: l.end}
	if len(l.chunks) > 0 {
		bounds.Bytes = l.total - l.chunks[0].Taken
	}
	return bounds, nil
}

// Watch implements engine.Engine.
func (e *Engine) Watch(id engine.LogID, notify func(end engine.Offset)) (cancel func()) {
	e.watch.Lock()
	defer e.watch.Unlock()
	e.watch.next++
	n := e.watch.next
	if e.watch.of[id] == nil {
		e.watch.of[id] = make(map[int]func(engine.Offset))
	}
	e.watch.of[id][n] = notify
	return func() {
		e.watch.Lock()
		defer e.watch.Unlock()
		delete(e.watch.of[id], n)
		if len(e.watch.of[id]) == 0 {
			delete(e.watch.of, id)
		}
	}
}

// Tail implements engine.Tailer.
func (e *Engine) Tail(id engine.LogID, wanted func() bool, take func(engine.Chunk)) (cancel func()) {
	e.watch.Lock()
	defer e.watch.Unlock()
	e.watch.next++
	n := e.watch.next
	if e.watch.tail[id] == nil {
		e.watch.tail[id] = make(map[int]*tailer)
	}
	e.watch.tail[id][n] = &tailer{wanted, take, e.end(id)}
	return func() {
		e.watch.Lock()
		defer e.watch.Unlock()
		delete(e.watch.tail[id], n)
		if len(e.watch.tail[id]) == 0 {
			delete(e.watch.tail, id)
		}
	}
}

// Trim implements engine.Engine.
func (e *Engine) Trim(ctx context.Context, id engine.LogID, before engine.Offset) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return engine.ErrClosed
	}
	l := e.mu.logs[id]
	if l == nil {
		return nil
	}
	n := l.find(before)
	l.chunks = slices.Clone(l.chunks[n:])
	l.begin = l.end
	if len(l.chunks) > 0 {
		l.begin = l.chunks[0].First
	}
	return nil
}

// Fence implements engine.Engine.
func (e *Engine) Fence(ctx context.Context, id engine.ShardID, epoch engine.Epoch) (engine.Shard, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if epoch == 0 {
		return nil, fmt.Errorf("memengine: claim of shard %v at epoch 0: must be at least 1", id)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return nil, engine.ErrClosed
	}
	s := e.mu.shards[id]
	if s == nil {
		s = &state{}
		e.mu.shards[id] = s
	}
	if epoch < s.epoch {
		return nil, engine.ErrFenced
	}
	s.epoch = epoch
	return &shard{engine: e, id: id, epoch: epoch}, nil
}

// View implements engine.Engine.
func (e *Engine) View(id engine.ShardID) engine.Shard { return &shard{engine: e, id: id} }

// Close implements engine.Engine. Closing again does nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.closed = true
	return nil
}

// shard implements engine.Shard.
type shard struct {
	engine *Engine
	id     engine.ShardID
	epoch  engine.Epoch
}

func (s *shard) Commit(ctx context.Context, batch engine.Batch) ([]engine.Offset, error) {
	return s.engine.Commit(ctx, []engine.Part{{Shard: s, Writes: batch.Writes}}, batch.Appends)
}

func (s *shard) Get(ctx context.Context, key []byte) ([]byte, error) {
	pairs, err := s.pairs(ctx)
	if err != nil {
		return nil, err
	}
	i, found := search(pairs, key)
	if !found {
		return nil, engine.ErrNotFound
	}
	return bytes.Clone(pairs[i].Value), nil
}

func (s *shard) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[engine.Pair, error] {
	return func(yield func(engine.Pair, error) bool) {
		pairs, err := s.pairs(ctx)
		if err != nil {
			yield(engine.Pair{}, err)
			return
		}
		if bytes.Compare(from, prefix) < 0 {
			from = prefix
		}
		i, _ := search(pairs, from)
		for ; i < len(pairs) && bytes.HasPrefix(pairs[i].Key, prefix); i++ {
			if !yield(engine.Pair{Key: bytes.Clone(pairs[i].Key), Value: bytes.Clone(pairs[i].Value)}, nil) {
				return
			}
		}
	}
}

// pairs is the map as it is now. It is shared and not to be changed.
func (s *shard) pairs(ctx context.Context) ([]engine.Pair, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if s.engine.mu.closed {
		return nil, engine.ErrClosed
	}
	if st := s.engine.mu.shards[s.id]; st != nil {
		return st.pairs, nil
	}
	return nil, nil
}

// apply does the writes in their order. The maps of before stay as they are.
func (s *state) apply(writes []engine.Write, firsts []engine.Offset) {
	for len(writes) > 0 {
		n := slices.IndexFunc(writes, func(w engine.Write) bool { return w.Delete && w.Until != nil })
		if n < 0 {
			n = len(writes)
		}
		s.set(writes[:n], firsts)
		if n < len(writes) {
			s.cut(writes[n].Key, writes[n].Until)
			n++
		}
		writes = writes[n:]
	}
}

// cut forgets the keys from one on to below another.
func (s *state) cut(from, until []byte) {
	a, _ := search(s.pairs, from)
	b, _ := search(s.pairs, until)
	if a < b {
		s.pairs = slices.Concat(s.pairs[:a], s.pairs[b:])
	}
}

// set makes a new sorted map of the old one and the writes, of which the last of a key counts.
func (s *state) set(writes []engine.Write, firsts []engine.Offset) {
	if len(writes) == 0 {
		return
	}
	sorted := slices.Clone(writes)
	slices.SortStableFunc(sorted, func(a, b engine.Write) int { return bytes.Compare(a.Key, b.Key) })
	merged := make([]engine.Pair, 0, len(s.pairs)+len(sorted))
	old := s.pairs
	for i, w := range sorted {
		if i+1 < len(sorted) && bytes.Equal(w.Key, sorted[i+1].Key) {
			continue
		}
		n, found := search(old, w.Key)
		merged = append(merged, old[:n]...)
		old = old[n:]
		if found {
			old = old[1:]
		}
		if !w.Delete {
			merged = append(merged, engine.Pair{Key: bytes.Clone(w.Key), Value: w.AddFirsts(bytes.Clone(w.Value), func(i int) engine.Offset { return firsts[i] })})
		}
	}
	s.pairs = append(merged, old...)
}

func search(pairs []engine.Pair, key []byte) (int, bool) {
	return slices.BinarySearchFunc(pairs, key, func(p engine.Pair, k []byte) int { return bytes.Compare(p.Key, k) })
}
