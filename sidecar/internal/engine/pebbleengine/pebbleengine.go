// Package pebbleengine is the durable engine on local disk: one Pebble database, records in chunks, one committer that gathers what
// arrived during the previous sync into one batch, and a file of high-water marks that tells when a log came back short.
//
// It does not replicate, and it does not interpret records or values. docs/formats/pebble.md describes what is on disk. No other package
// imports Pebble.
//
//	Append, Commit, Fence, Trim ──queue──▶ committer: plan ─▶ batch ─▶ sync ─▶ marks ─▶ publish ends ─▶ answer ─▶ tell watchers
//	Read, Get, Scan ──────────────────────▶ iterators, below the published ends
package pebbleengine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// Options of Open. Every zero value means the default.
type Options struct {
	// Logger receives what the engine and Pebble have to say. Default: nothing is logged.
	Logger *slog.Logger
	// OnFatal is called at most once, when a write or a sync has failed and no later write can succeed. Reads go on. It must not block
	// and must not call the engine. Default: nothing.
	OnFatal func(error)
	// CacheBytes is the size of the block cache. Default: 32 MiB.
	CacheBytes int64
	// MemTableBytes is the size of a memtable, of which two or three may be in memory. Default: 16 MiB.
	MemTableBytes uint64
	// MinFreeBytes is the free disk space below which Append fails with ErrFull. Below a half of it Space says that no message should be leased. Commits
	// fail only below an eighth of it, so that positions and dead letters can still be written when publishing cannot. Default: 128 MiB; negative:
	// no check.
	MinFreeBytes int64
	// BallastBytes is the size of a file that takes room away while there is some, and gives it to compactions and commits when there is none: what they
	// write frees disk. Default: 0, no file.
	BallastBytes int64
	// FS is the file system. Default: that of the operating system.
	FS vfs.FS
	// Still leaves out work that Pebble does by the clock ten times a second and that is not needed. It is for simulated time, where a week of
	// idling must not cost six million ticks.
	Still bool
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnFatal == nil {
		o.OnFatal = func(error) {}
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 32 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 16 << 20
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = 128 << 20
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	return o
}

// Engine implements engine.Engine.
type Engine struct {
	logger *slog.Logger
	dir    *directory
	db     *pebble.DB
	marks  *marks
	gate   gate
	fatal  fatal
	space  *space

	cleaner *cleaner
	trims   *trims
	backlog *backlog

	queue         chan *request
	stop          chan struct{} // closed by Close once no call is under way
	committerDone chan struct{}
	commits       uint64 // batches committed since the store was made; owned by the committer

	givenAt uint64 // bytes that had been written when memory was given back; owned by GiveBack

	floor engine.Epoch // every owner is above: see readFloor

	snapshots sync.Mutex // held by a snapshot until it is closed
	scrubbed  scrubbed

	logs   registry[engine.LogID, logState]
	shards registry[engine.ShardID, shardState]
}

// errNotRecovered says that Pebble did not recover what it should have. It has written nothing into the store by then but what it recovered.
var errNotRecovered = errors.New("the store was not recovered")

// Open opens the store in dir, making both if there is none. Nothing is served from a write-ahead log of an older format: what was
// recovered is flushed first.
//
// Errors: ErrLocked, ErrNewerFormat, ErrFormat, ErrNotAStore, *DamageError, *UnsoundError when files of the database are missing, and those of the file system, all of them naming dir.
func Open(dir string, options Options) (_ *Engine, err error) {
	options = options.withDefaults()
	e := &Engine{
		logger:        options.Logger,
		queue:         make(chan *request, queueLength),
		stop:          make(chan struct{}),
		committerDone: make(chan struct{}),
	}
	e.fatal.happened = make(chan struct{})
	e.fatal.logger, e.fatal.tell = options.Logger, options.OnFatal
	e.trims = newTrims(options.Still)
	e.space = newSpace(options, dir, time.Now)
	e.logs.load, e.shards.load = e.loadLog, e.loadShard

	if e.dir, err = openDirectory(options.FS, dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.dir.close()
		}
	}()
	if err = options.FS.RemoveAll(dir + snapshotSuffix); err != nil { // of a process that was killed
		return nil, err
	}
	if e.marks, err = openMarks(options.FS, e.dir.path(marksFile), options.Logger); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.marks.close()
		}
	}()
	recovered, err := examine(options.FS, dir, options.Logger)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, missing(err))
	}
	if e.cleaner, err = newCleaner(options.FS, dir, options.Logger); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if e.db, err = openPebble(e, options); err != nil {
		return nil, fmt.Errorf("open %s: with the files that %s lists: %w", dir, recovered.Manifest, missing(err))
	}
	if err = e.start(recovered); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), e.db.Close())
	}
	go e.runCommitter()
	return e, nil
}

// missing makes an UnsoundError of an error about files that should be there.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, pebble.ErrDBNotPristine) {
		return &UnsoundError{err}
	}
	return err
}

// separation keeps chunks out of compactions. They are written to files of values once, when a memtable is flushed; compactions move their keys. Logs
// are trimmed from their beginning, so the values of one file go at about the same time, and the file with them; what some log keeps for longer is
// written anew, once half of its file is not needed.
func separation() pebble.ValueSeparationPolicy {
	return pebble.ValueSeparationPolicy{Enabled: true, MinimumSize: 1 << 10, MaxBlobReferenceDepth: 64, RewriteMinimumAge: time.Minute, TargetGarbageRatio: 0.5}
}

// compression is for blocks that it makes smaller by a quarter, as one in ten tells of those that follow it. Others are stored as they are: what does not compress costs as much
// to try as to check and to index.
func compression() pebble.DBCompressionSettings {
	profile := *block.SnappyCompression
	profile.OtherBlocks = block.NoCompression.OtherBlocks // what those are stored with that do not compress
	profile.AdaptiveReductionCutoffPercent = 25
	return pebble.UniformDBCompressionSettings(&profile)
}

func openPebble(e *Engine, options Options) (_ *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil { // as Pebble does when a directory cannot be synced
			err = fmt.Errorf("pebble panicked: %v", p)
		}
	}()
	cache := pebble.NewCache(options.CacheBytes)
	defer cache.Unref()
	logger := pebbleLogger{e.logger, &e.fatal}
	e.backlog = &backlog{logger: e.logger, space: e.space}
	o := &pebble.Options{
		Cache:         cache,
		EventListener: events(e.logger, e.backlog.note),
		// The default format loses synced writes silently when a bit flips in the write-ahead log.
		FormatMajorVersion: pebble.FormatNewest,
		FS:                 pebbleFS{options.FS, &e.fatal, e.cleaner, e.backlog, new(failedValues)},
		Lock:               e.dir.lock,
		Logger:             logger,
		MemTableSize:       options.MemTableBytes,
	}
	o.Experimental.ValueSeparationPolicy = separation
	o.ApplyCompressionSettings(compression)
	o.MemTableStopWritesThreshold = memTables
	// A compaction of level 0 writes all keys anew that lie between those of its tables: the logs lie side by side, so that is almost all. Twice Pebble's thresholds have it
	// done half as often.
	o.L0CompactionThreshold, o.L0StopWritesThreshold = 8, 24
	if mutant.On(mutant.OldWALFormat) { // which knows no values files
		o.FormatMajorVersion, o.Experimental.ValueSeparationPolicy = pebble.FormatWALSyncChunks-1, nil
	}
	if !options.Still {
		o.FlushDelayDeleteRange = trimsFreeWithin
	}
	if options.Still {
		o.Experimental.CompactionScheduler = pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	}
	return pebble.Open(e.dir.name, o)
}

// start checks the commit number against what was in the write-ahead logs and against its mark, and moves on to a write-ahead log of the newest format.
func (e *Engine) start(recovered Recovered) error {
	var err error
	if e.commits, err = e.readCommits(); err != nil {
		return err
	}
	if e.floor, err = e.readFloor(); err != nil {
		return err
	}
	if e.commits < recovered.Commits {
		return fmt.Errorf("%w: its write-ahead log holds commit %d, and was recovered up to %d", errNotRecovered, recovered.Commits, e.commits)
	}
	mark := e.marks.commits()
	e.cleaner.decide(e.commits < mark)
	if e.commits < mark {
		e.logger.Error("acknowledged commits are missing from the store: logs that came back short are quarantined, and state of groups may be old",
			"commits", e.commits, "mark", mark, "dir", e.dir.name)
		e.commits = mark
	}
	e.commits++
	first := e.db.NewBatch()
	defer first.Close()
	err = errors.Join(first.LogData([]byte(beginMark), nil), first.Set(commitsKey(), sealed(commitsKey(), be64(e.commits)), nil))
	if err := errors.Join(err, first.Commit(pebble.Sync)); err != nil {
		return err
	}
	return e.flush()
}

// flushWithin is how long a flush may take while it fails. Pebble would try for ever.
const flushWithin = 2 * time.Second

// flush has all that is in memory written to tables.
func (e *Engine) flush() error {
	flushed, err := e.db.AsyncFlush()
	if err != nil {
		return err
	}
	late := time.NewTimer(flushWithin)
	defer late.Stop()
	for {
		select {
		case <-flushed:
			return e.fatal.err()
		case <-e.fatal.happened:
			return e.fatal.err()
		case <-late.C:
			if failed := e.backlog.error.Load(); failed != nil {
				return fmt.Errorf("write to tables: %w", *failed)
			}
			late.Reset(flushWithin) // It is slow, and goes on.
		}
	}
}

func (e *Engine) readCommits() (uint64, error) {
	value, closer, err := get(e.db, commitsKey())
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	body, err := unsealed(commitsKey(), value)
	if err != nil {
		return 0, fmt.Errorf("commit number: %w", err)
	}
	return parse64(body)
}

// Append implements engine.Engine. After a cancellation the error is the context's alone if nothing was written, and wraps
// ErrUnknownOutcome too if something may have been.
func (e *Engine) Append(ctx context.Context, appends []engine.Append) ([]engine.Offset, error) {
	if len(appends) == 0 {
		return nil, ctx.Err()
	}
	return e.write(ctx, &request{plain: true}, appends)
}

// Commit implements engine.Engine. After a cancellation the error is as that of Append.
func (e *Engine) Commit(ctx context.Context, parts []engine.Part, appends []engine.Append) ([]engine.Offset, error) {
	r := &request{plain: len(parts) == 0, yields: slices.ContainsFunc(parts, func(p engine.Part) bool { return p.Yields }), claims: make([]claim, len(parts))}
	for i, p := range parts {
		s := p.Shard.(*shard)
		if s.epoch == 0 {
			return nil, engine.ErrFenced
		}
		r.claims[i] = claim{s.state, s.epoch, p.Writes}
	}
	return e.write(ctx, r, appends)
}

// Read implements engine.Engine.
func (e *Engine) Read(ctx context.Context, id engine.LogID, from engine.Offset, maxBytes int) ([]engine.Chunk, error) {
	log, leave, err := e.enterLog(ctx, id)
	if err != nil {
		return nil, err
	}
	defer leave()
	return e.readLog(ctx, log, from, maxBytes)
}

// Bounds implements engine.Engine. A log of which nothing can be read fails with *CorruptError.
func (e *Engine) Bounds(ctx context.Context, id engine.LogID) (engine.Bounds, error) {
	log, leave, err := e.enterLog(ctx, id)
	if err != nil {
		return engine.Bounds{}, err
	}
	defer leave()
	bounds, bad := log.status()
	if bad != nil && bad.Offset <= bounds.Begin {
		return engine.Bounds{}, bad
	}
	return bounds, nil
}

// enterLog begins a call that reads a log. The caller calls leave at its end, unless there is an error.
func (e *Engine) enterLog(ctx context.Context, id engine.LogID) (log *logState, leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if !e.gate.enter() {
		return nil, nil, engine.ErrClosed
	}
	if log, err = e.logs.get(id); err != nil {
		e.gate.leave()
		return nil, nil, err
	}
	return log, e.gate.leave, nil
}

// Watch implements engine.Engine.
func (e *Engine) Watch(id engine.LogID, notify func(end engine.Offset)) (cancel func()) {
	return e.logs.entry(id).value.watchers.add(notify)
}

// Trim implements engine.Engine.
func (e *Engine) Trim(ctx context.Context, id engine.LogID, before engine.Offset) error {
	log, leave, err := e.enterLog(ctx, id)
	if err != nil {
		return err
	}
	defer leave()
	bounds, bad := log.status()
	if bad != nil {
		return bad
	}
	to, err := e.wholeChunksBelow(log, before)
	if err != nil || to.begin <= bounds.Begin {
		return err
	}
	return e.submit(ctx, &request{trim: &to})
}

// Fence implements engine.Engine.
func (e *Engine) Fence(ctx context.Context, id engine.ShardID, epoch engine.Epoch) (engine.Shard, error) {
	if epoch == 0 {
		return nil, fmt.Errorf("pebbleengine: claim of shard %v at epoch 0: must be at least 1", id)
	}
	if len(id.Group) > maxGroup {
		return nil, fmt.Errorf("pebbleengine: claim of a shard whose group has %d bytes: at most %d", len(id.Group), maxGroup)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !e.gate.enter() {
		return nil, engine.ErrClosed
	}
	defer e.gate.leave()
	state, err := e.shards.get(id)
	if err != nil {
		return nil, err
	}
	if err := e.submit(ctx, &request{fence: true, claims: []claim{{shard: state, epoch: epoch}}}); err != nil {
		return nil, err
	}
	return &shard{engine: e, state: state, epoch: epoch}, nil
}

// Space implements engine.Gauge.
func (e *Engine) Space() (engine.Space, error) { return e.space.look() }

func (e *Engine) roomy() bool {
	level, _ := e.space.look()
	return level == engine.Roomy
}

// Close implements engine.Engine. Closing again does nothing.
func (e *Engine) Close() error {
	if !e.gate.close() {
		return nil
	}
	close(e.stop)
	<-e.committerDone
	var err error
	if !e.fatal.panicked.Load() { // A panic left Pebble's locks as they were: closing it could wait for ever.
		err = e.db.Close()
	}
	return errors.Join(err, e.marks.close(), e.dir.close())
}

// gate lets calls in until it is closed.
type gate struct {
	mu struct {
		sync.Mutex
		inside int
		closed bool
		empty  chan struct{} // made by close, closed by the last call inside
	}
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.closed {
		return false
	}
	g.mu.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.inside--
	if g.mu.inside == 0 && g.mu.empty != nil {
		close(g.mu.empty)
	}
}

// close shuts the gate and waits until nobody is inside. It returns false if the gate was shut before.
func (g *gate) close() bool {
	g.mu.Lock()
	if g.mu.closed {
		g.mu.Unlock()
		return false
	}
	g.mu.closed = true
	g.mu.empty = make(chan struct{})
	if g.mu.inside == 0 {
		close(g.mu.empty)
	}
	empty := g.mu.empty
	g.mu.Unlock()
	<-empty
	return true
}
