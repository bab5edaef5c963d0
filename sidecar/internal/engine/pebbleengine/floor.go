package pebbleengine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// readFloor is the epoch that every owner is above, also of shards that nobody has claimed here: that of owners who may be at work on what this store was
// copied from. 0 in a store that was not restored from a backup.
func (e *Engine) readFloor() (engine.Epoch, error) {
	value, closer, err := get(e.db, floorKey())
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	body, err := unsealed(floorKey(), value)
	if err != nil {
		return 0, fmt.Errorf("least epoch: %w", err)
	}
	n, err := parse64(body)
	return engine.Epoch(n), err
}

// FenceAll refuses every epoch below one for every shard, for ever: Fence fails with engine.ErrFenced. It never lowers what was set. It is for a store that
// nobody else uses: shards that were used since it was opened do not notice until it is opened again.
func (e *Engine) FenceAll(_ context.Context, epoch engine.Epoch) error {
	if !e.gate.enter() {
		return engine.ErrClosed
	}
	defer e.gate.leave()
	have, err := e.readFloor()
	if err != nil || epoch <= have {
		return err
	}
	if err := e.db.Set(floorKey(), sealed(floorKey(), be64(uint64(epoch))), pebble.Sync); err != nil {
		return err
	}
	e.floor = epoch
	return e.fatal.err()
}

// HighestEpoch is the highest that any shard was claimed at, or that FenceAll was told. A claim that is damaged is passed over with a warning: nobody can claim
// that shard again.
func (e *Engine) HighestEpoch(ctx context.Context) (engine.Epoch, error) {
	if !e.gate.enter() {
		return 0, engine.ErrClosed
	}
	defer e.gate.leave()
	highest := e.floor
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindFence}, UpperBound: []byte{kindFence + 1}})
	if err != nil {
		return 0, err
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	for ok := it.First(); ok; ok = it.Next() {
		value, err := valueOf(it)
		if err != nil {
			return 0, err
		}
		var epoch uint64
		body, err := unsealed(it.Key(), value)
		if err == nil {
			epoch, err = parse64(body)
		}
		if err != nil {
			e.logger.Warn("a claim is damaged and not counted", "key", hex.EncodeToString(it.Key()), "error", err)
			continue
		}
		highest = max(highest, engine.Epoch(epoch))
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return highest, it.Error()
}
