package mqtest

import (
	"bytes"
	"context"
	"sync"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// journal is what was appended to the logs, in that order, whatever retention deleted since.
type journal struct {
	mu      sync.Mutex
	entries []entry
}

// entry is what one append wrote.
type entry struct {
	log     engine.LogID
	first   engine.Offset
	timeMS  int64
	records []byte // a RecordSet
}

func (j *journal) note(appends []engine.Append, firsts []engine.Offset) {
	for i, a := range appends {
		j.entries = append(j.entries, entry{a.Log, firsts[i], a.TimeMS, bytes.Clone(a.Records)})
	}
}

// of returns the entries of a topic.
func (j *journal) of(topic engine.TopicID) (out []entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.entries {
		if e.log.Topic == topic {
			out = append(out, e)
		}
	}
	return out
}

// tap is the store as one run sees it, until the run dies. It keeps the journal.
type tap struct {
	engine.Engine
	journal *journal
	dead    bool // guarded by journal.mu
}

// die refuses all writes from now on. When it returns, none is under way.
func (t *tap) die() {
	t.journal.mu.Lock()
	defer t.journal.mu.Unlock()
	t.dead = true
}

func (t *tap) write(appends []engine.Append, do func() ([]engine.Offset, error)) ([]engine.Offset, error) {
	t.journal.mu.Lock()
	defer t.journal.mu.Unlock()
	if t.dead {
		return nil, engine.ErrClosed
	}
	firsts, err := do()
	if err == nil {
		t.journal.note(appends, firsts)
	}
	return firsts, err
}

// Append implements engine.Engine.
func (t *tap) Append(ctx context.Context, appends []engine.Append) ([]engine.Offset, error) {
	return t.write(appends, func() ([]engine.Offset, error) { return t.Engine.Append(ctx, appends) })
}

// Commit implements engine.Engine.
func (t *tap) Commit(ctx context.Context, parts []engine.Part, appends []engine.Append) ([]engine.Offset, error) {
	inner := make([]engine.Part, len(parts))
	for i, p := range parts {
		inner[i] = engine.Part{Shard: p.Shard.(shard).Shard, Writes: p.Writes}
	}
	return t.write(appends, func() ([]engine.Offset, error) { return t.Engine.Commit(ctx, inner, appends) })
}

// Trim implements engine.Engine.
func (t *tap) Trim(ctx context.Context, log engine.LogID, before engine.Offset) error {
	_, err := t.write(nil, func() ([]engine.Offset, error) { return nil, t.Engine.Trim(ctx, log, before) })
	return err
}

// Fence implements engine.Engine.
func (t *tap) Fence(ctx context.Context, id engine.ShardID, epoch engine.Epoch) (engine.Shard, error) {
	s, err := t.Engine.Fence(ctx, id, epoch)
	return shard{s, t}, err
}

type shard struct {
	engine.Shard
	tap *tap
}

// Commit implements engine.Shard.
func (s shard) Commit(ctx context.Context, b engine.Batch) ([]engine.Offset, error) {
	return s.tap.Commit(ctx, []engine.Part{{Shard: s, Writes: b.Writes}}, b.Appends)
}
