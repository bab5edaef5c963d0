package pebbleengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// shardState is what is known of a shard since its first use.
type shardState struct {
	id     engine.ShardID
	prefix []byte       // of the shard's keys in the database
	epoch  engine.Epoch // the highest; owned by the committer once the shard is loaded
}

func (e *Engine) loadShard(id engine.ShardID, s *shardState) error {
	s.id, s.prefix = id, stateKey(id, nil)
	s.epoch = e.floor
	key := fenceKey(id)
	value, closer, err := get(e.db, key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return s.readError(err)
	}
	defer closer.Close()
	body, err := unsealed(key, value)
	if err != nil {
		return s.readError(err)
	}
	epoch, err := parse64(body)
	if err != nil {
		return s.readError(err)
	}
	s.epoch = max(e.floor, engine.Epoch(epoch))
	return nil
}

// readError names the shard in an error. Damage is a *engine.CorruptError of the partition's log 0, at no offset.
func (s *shardState) readError(err error) error {
	if !damaged(err) {
		return fmt.Errorf("read state of %v: %w", s.id, err)
	}
	return &engine.CorruptError{
		Log:    engine.LogID{Topic: s.id.Topic, Partition: s.id.Partition},
		Offset: engine.NoOffset,
		Detail: fmt.Sprintf("state of group %s: %v", s.id.Group, err),
	}
}

// build writes one change of the shard's map into the batch. The appends of its request have their offsets.
func (s *shardState) build(batch *pebble.Batch, w engine.Write, appends []preparedAppend) error {
	if w.Delete && w.Until != nil {
		return batch.DeleteRange(stateKey(s.id, w.Key), stateKey(s.id, w.Until), nil)
	}
	if w.Delete {
		op := batch.DeleteDeferred(len(s.prefix) + len(w.Key))
		copy(op.Key[copy(op.Key, s.prefix):], w.Key)
		return op.Finish()
	}
	op := batch.SetDeferred(len(s.prefix)+len(w.Key), 4+len(w.Value)+8*w.Firsts)
	copy(op.Key[copy(op.Key, s.prefix):], w.Key)
	w.AddFirsts(append(op.Value[:4], w.Value...), func(i int) engine.Offset { return appends[i].first })
	seal(op.Key, op.Value)
	return op.Finish()
}

// shard implements engine.Shard.
type shard struct {
	engine *Engine
	state  *shardState
	epoch  engine.Epoch
}

// View implements engine.Engine.
func (e *Engine) View(id engine.ShardID) engine.Shard {
	return &shard{engine: e, state: &shardState{id: id, prefix: stateKey(id, nil)}}
}

// Commit implements engine.Shard.
func (s *shard) Commit(ctx context.Context, batch engine.Batch) ([]engine.Offset, error) {
	return s.engine.Commit(ctx, []engine.Part{{Shard: s, Writes: batch.Writes}}, batch.Appends)
}

// Get implements engine.Shard.
func (s *shard) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !s.engine.gate.enter() {
		return nil, engine.ErrClosed
	}
	defer s.engine.gate.leave()
	full := append(bytes.Clone(s.state.prefix), key...)
	value, closer, err := get(s.engine.db, full)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, engine.ErrNotFound
	}
	if err != nil {
		return nil, s.state.readError(err)
	}
	defer closer.Close()
	body, err := unsealed(full, value)
	if err != nil {
		return nil, s.state.readError(err)
	}
	return bytes.Clone(body), nil
}

// Scan implements engine.Shard. It sees the map as it was at the first step. Close of the engine waits for it.
func (s *shard) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[engine.Pair, error] {
	return func(yield func(engine.Pair, error) bool) {
		if !s.engine.gate.enter() {
			yield(engine.Pair{}, engine.ErrClosed)
			return
		}
		defer s.engine.gate.leave()
		if bytes.Compare(from, prefix) < 0 {
			from = prefix
		}
		it, err := s.engine.db.NewIter(&pebble.IterOptions{
			LowerBound: append(bytes.Clone(s.state.prefix), from...),
			UpperBound: after(append(bytes.Clone(s.state.prefix), prefix...)),
		})
		if err != nil {
			yield(engine.Pair{}, s.state.readError(err))
			return
		}
		defer func() { _ = it.Close() }() // which returns what Error below has told
		for ok := it.First(); ok; ok = it.Next() {
			pair, err := s.pairAt(ctx, it)
			if !yield(pair, err) || err != nil {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(engine.Pair{}, s.state.readError(err))
		}
	}
}

func (s *shard) pairAt(ctx context.Context, it *pebble.Iterator) (engine.Pair, error) {
	if err := ctx.Err(); err != nil {
		return engine.Pair{}, err
	}
	value, err := valueOf(it)
	if err != nil {
		return engine.Pair{}, s.state.readError(err)
	}
	body, err := unsealed(it.Key(), value)
	if err != nil {
		return engine.Pair{}, s.state.readError(err)
	}
	return engine.Pair{Key: it.Key()[len(s.state.prefix):], Value: body}, nil
}
