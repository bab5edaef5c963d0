package pebbleengine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Offline is a store that is open for reading while no sidecar uses it, as a sidecar would serve it: with the flipped bits put right that it puts right when it opens the store.
// Nothing of it is written. It is for one goroutine.
type Offline struct {
	engine    *Engine // without a committer: nothing can be written through it
	dir       *directory
	fs        *asServed
	recovered Recovered
	refused   *DamageError // why a sidecar would not open the store, nil if it would
	options   *pebble.Options
}

// OpenOffline opens the store in dir for reading.
//
// Errors: ErrLocked, ErrNewerFormat, ErrFormat, ErrNotAStore, and those of the file system: the store cannot be looked at. A *UnsoundError: what is there is no
// sound database.
func OpenOffline(dir string, options Options) (_ *Offline, err error) {
	options = options.withDefaults()
	options.FS = readOnlyFS{options.FS}
	o := &Offline{dir: &directory{fs: options.FS, name: dir}}
	if _, err := options.FS.List(dir); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if o.dir.lock, err = lock(options.FS, dir); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.dir.close())
		}
	}()
	switch _, err := readFormat(options.FS, dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open %s: %w: there is no file %s", dir, ErrNotAStore, formatFile)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	silent := slog.New(slog.DiscardHandler)
	e := &Engine{logger: silent, dir: o.dir}
	e.fatal.logger, e.fatal.tell = silent, func(error) {}
	e.logs.load, e.shards.load = e.loadLog, e.loadShard
	e.marks = &marks{logger: silent, found: make(map[engine.LogID]mark), slots: make(map[engine.LogID]int64)}
	if err := e.marks.read(options.FS, o.dir.path(marksFile)); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.dir.path(marksFile), err)
	}
	o.fs = &asServed{FS: options.FS}
	o.recovered, err = examineOnly(o.fs, dir)
	switch {
	case errors.As(err, &o.refused): // What Pebble makes of it tells more.
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open %s: %w", dir, err)
	case err != nil:
		return nil, &UnsoundError{err}
	}
	cache := pebble.NewCache(options.CacheBytes)
	defer cache.Unref()
	o.options = &pebble.Options{
		Cache: cache, FS: o.fs, Lock: o.dir.lock, Logger: pebbleLogger{silent, &e.fatal}, MemTableSize: options.MemTableBytes,
		FormatMajorVersion: pebble.FormatNewest, ReadOnly: true, ErrorIfNotExists: true,
	}
	if e.db, err = openDamaged(dir, o.options); err != nil {
		if unsound := (*UnsoundError)(nil); errors.As(err, &unsound) && o.refused != nil {
			return nil, &UnsoundError{o.refused} // which names the file
		}
		return nil, err
	}
	o.engine = e
	return o, nil
}

// UnsoundError says that a store cannot be opened because its files are not what was written.
type UnsoundError struct{ Err error }

func (e *UnsoundError) Error() string { return "the database cannot be opened: " + e.Err.Error() }

func (e *UnsoundError) Unwrap() error { return e.Err }

// openDamaged tells files that are damaged or missing from those that may not be read. Pebble panics about some of the former.
func openDamaged(dir string, options *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &UnsoundError{fmt.Errorf("pebble panicked: %v", p)}
		}
	}()
	db, err = pebble.Open(dir, options)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open %s: %w", dir, err)
	case err != nil:
		return nil, &UnsoundError{err}
	}
	return db, nil
}

// Close lets others open the store.
func (o *Offline) Close() error { return errors.Join(o.engine.db.Close(), o.dir.close()) }

// Bounds of a log. Errors: *engine.CorruptError when nothing of it can be read.
func (o *Offline) Bounds(ctx context.Context, log engine.LogID) (engine.Bounds, error) {
	return o.engine.Bounds(ctx, log)
}

// Shards yields the shards that have something stored, by topic, partition and group, and last an error if there is one.
func (o *Offline) Shards(ctx context.Context) iter.Seq2[engine.ShardID, error] {
	return func(yield func(engine.ShardID, error) bool) {
		from := []byte{kindState}
		for {
			key, err := o.first(from, kindState)
			if err == nil {
				err = ctx.Err()
			}
			if key == nil || err != nil {
				if err != nil {
					yield(engine.ShardID{}, err)
				}
				return
			}
			id, n, ok := parseShard(key)
			if !ok { // reported by Check
				from = append(key, 0)
				continue
			}
			if !yield(id, nil) {
				return
			}
			from = after(key[:n])
		}
	}
}

// first is the first key of a kind at or above from, nil if there is none.
func (o *Offline) first(from []byte, kind byte) ([]byte, error) {
	it, err := o.engine.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{kind + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	if !it.First() {
		return nil, it.Error()
	}
	return bytes.Clone(it.Key()), nil
}

// Pairs yields what a shard has stored, by key, without what fails its checksum, and last an error if there is one. Slices are valid until the next step.
func (o *Offline) Pairs(ctx context.Context, shard engine.ShardID) iter.Seq2[engine.Pair, error] {
	return func(yield func(engine.Pair, error) bool) {
		prefix := stateKey(shard, nil)
		it, err := o.engine.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
		if err != nil {
			yield(engine.Pair{}, err)
			return
		}
		defer func() { _ = it.Close() }() // which returns what Error below has told
		for ok := it.First(); ok; ok = it.Next() {
			value, err := valueOf(it)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(engine.Pair{}, err)
				return
			}
			body, err := unsealed(it.Key(), value)
			if err != nil {
				continue
			}
			if !yield(engine.Pair{Key: it.Key()[len(prefix):], Value: body}, nil) {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(engine.Pair{}, err)
		}
	}
}

// Get returns the value of a shard's key. Errors: engine.ErrNotFound, *engine.CorruptError.
func (o *Offline) Get(ctx context.Context, shard engine.ShardID, key []byte) ([]byte, error) {
	return o.engine.View(shard).Get(ctx, key)
}

// parseShard reads the shard in a key of kind kindState or kindFence, and the length of the key up to its end.
func parseShard(key []byte) (id engine.ShardID, n int, ok bool) {
	const fixed = 1 + 4 + 4 + 1
	if len(key) < fixed {
		return id, 0, false
	}
	n = fixed + int(key[fixed-1])
	if len(key) < n {
		return id, 0, false
	}
	id = engine.ShardID{
		Topic: engine.TopicID(binary.BigEndian.Uint32(key[1:])), Partition: binary.BigEndian.Uint32(key[5:]), Group: string(key[fixed:n]),
	}
	return id, n, true
}

// parseLog reads the log in a key of kind kindChunk or kindLog.
func parseLog(key []byte) (id engine.LogID, ok bool) {
	if len(key) < 10 {
		return id, false
	}
	return engine.LogID{
		Topic: engine.TopicID(binary.BigEndian.Uint32(key[1:])), Partition: binary.BigEndian.Uint32(key[5:]), Lane: key[9],
	}, true
}
