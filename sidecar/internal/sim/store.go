package sim

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

// store is the storage of the world: one engine at a time, on a disk that survives it or, as memory does here, for ever.
type store struct {
	w      *World
	disk   *disk // nil: memory
	engine engine.Engine
	home   *process // of what the engine does by itself
	fatal  bool     // the engine has given up writing

	opening bool
	missing bool // the engine said that commits are missing
}

func newStore(w *World) *store {
	s := &store{w: w}
	if w.plan.Pebble {
		s.disk = newDisk(w)
	} else {
		s.engine = memengine.New()
	}
	return s
}

// open returns the engine as a process sees it, opening it if it is not open.
func (s *store) open(p *process) (engine.Engine, error) {
	for s.opening { // the other sidecar is at it
		s.w.sleep(50*time.Millisecond, fmt.Sprintf("open %d.%d", p.id, p.number))
	}
	if s.engine == nil {
		s.opening = true
		defer func() { s.opening = false }()
		s.home = s.w.newProcess(-1)
		s.disk.home = s.home
		s.fatal = false
		home := s.home
		e, err := pebbleengine.Open("data", pebbleengine.Options{
			FS: s.disk.fs(s.home), CacheBytes: 1 << 20, MemTableBytes: 2 << 20, MinFreeBytes: 1 << 20, Still: true, Logger: slog.New(listener{slog.DiscardHandler, s.w}),
			OnFatal: func(error) {
				if !home.isDead() {
					s.fatal = true
				}
			},
		})
		s.w.pass(fmt.Sprintf("open %d.%d", p.id, p.number))
		if err != nil {
			return nil, err
		}
		s.engine = e
		if s.missing {
			if !s.disk.rotted || s.disk.deep {
				s.w.record(Event{Kind: Unservable, Bound: 18, Detail: "the store opened with less than was confirmed"})
			}
			s.w.detect("acknowledged commits are missing")
		}
	}
	return &view{Engine: s.engine, p: p, w: s.w}, nil
}

// crash ends the engine. percent of what was written and not synced is on the disk when it is opened again; 100 is what a killed process leaves behind.
func (s *store) crash(percent int) {
	if s.disk == nil || s.engine == nil {
		return
	}
	old := s.engine
	s.engine = nil
	s.disk.crash(percent)
	s.w.checkStore()
	s.home.die()
	s.w.background.Go(func() { _ = old.Close() })
}

// close ends the engine with the world.
func (s *store) close() {
	if s.engine == nil {
		return
	}
	if s.home != nil {
		s.home.die()
	}
	e := s.engine
	s.w.background.Go(func() { _ = e.Close() })
}

// damaged judges an error that says that data are damaged: right if a bit was flipped, wrong otherwise.
func (s *store) damaged(err error) {
	var corrupt *engine.CorruptError
	switch {
	case s.disk != nil && s.disk.rotted:
		s.w.detect(err.Error())
	case s.engine == nil || errors.As(err, &corrupt):
		s.w.record(Event{Kind: Unservable, Bound: 18, Detail: "the store does not open: " + err.Error()})
		s.w.detect(err.Error())
	}
}

// listener is a logger that listens for the one line that tells of lost commits.
type listener struct {
	slog.Handler
	w *World
}

func (l listener) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (l listener) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "acknowledged commits are missing") {
		l.w.store.missing = true
	}
	return nil
}

// detect ends the world early.
func (w *World) detect(what string) {
	w.detected = what
	w.record(Event{Kind: Detected, Detail: what})
}

var errRead = errors.New("sim: the disk did not answer a read")

// view is the engine as one process sees it. A dead process sees nothing and changes nothing.
type view struct {
	engine.Engine
	p *process
	w *World
}

// longestStall bounds how long a call waits for the disk.
const longestStall = 12 * time.Second

// before is what happens to a call before it reaches the engine.
func (v *view) before(ctx context.Context, name string, grows bool) error {
	v.w.gate.pass(v.p, name)
	f := &v.w.plan.Faults
	if !v.p.isDead() && v.w.chance(f.Stall, name+" stall") {
		v.w.fault("stalled call")
		time.Sleep(time.Duration(hash64(v.w.plan.Seed, v.w.gate.step(), name) % uint64(longestStall)))
		v.w.gate.pass(v.p, name+" stalled")
	}
	switch {
	case v.p.isDead():
		return engine.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case v.w.chance(f.FailBefore, name+" before"):
		v.w.fault("failed before")
		return fmt.Errorf("%w: sim: before the write", engine.ErrUnknownOutcome)
	case grows && v.w.chance(f.Full, name+" full"):
		v.w.fault("no space")
		return engine.ErrFull
	}
	return nil
}

// after is what happens to the answer.
func (v *view) after(name string, err error) error {
	v.w.gate.pass(v.p, name+" done")
	switch {
	case v.p.isDead():
		return engine.ErrClosed
	case err == nil && v.w.chance(v.w.plan.Faults.FailAfter, name+" after"):
		v.w.fault("answer lost")
		return fmt.Errorf("%w: sim: after the write", engine.ErrUnknownOutcome)
	}
	return err
}

// callerKey is the context's key of the name of a client's call.
type callerKey struct{}

func caller(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}

func (v *view) Append(ctx context.Context, appends []engine.Append) ([]engine.Offset, error) {
	name := "append " + caller(ctx)
	if err := v.before(ctx, name, true); err != nil {
		return nil, err
	}
	firsts, err := v.Engine.Append(ctx, appends)
	if err := v.after(name, err); err != nil {
		return nil, err
	}
	return firsts, nil
}

func (v *view) Read(ctx context.Context, log engine.LogID, from engine.Offset, maxBytes int) ([]engine.Chunk, error) {
	if v.p.isDead() {
		return nil, engine.ErrClosed
	}
	if v.w.chance(v.w.plan.Faults.ReadError, "read "+log.String()) {
		v.w.fault("failed read")
		return nil, errRead
	}
	return v.Engine.Read(ctx, log, from, maxBytes)
}

// Tail implements engine.Tailer.
func (v *view) Tail(log engine.LogID, wanted func() bool, take func(engine.Chunk)) (cancel func()) {
	return v.Engine.(engine.Tailer).Tail(log, func() bool { return !v.p.isDead() && wanted() }, take)
}

func (v *view) Bounds(ctx context.Context, log engine.LogID) (engine.Bounds, error) {
	if v.p.isDead() {
		return engine.Bounds{}, engine.ErrClosed
	}
	return v.Engine.Bounds(ctx, log)
}

func (v *view) Trim(ctx context.Context, log engine.LogID, before engine.Offset) error {
	if v.p.isDead() {
		return engine.ErrClosed
	}
	return v.Engine.Trim(ctx, log, before)
}

func (v *view) Fence(ctx context.Context, id engine.ShardID, epoch engine.Epoch) (engine.Shard, error) {
	name := "fence " + id.String()
	if err := v.before(ctx, name, false); err != nil {
		return nil, err
	}
	e := Event{Group: id.Group, Topic: v.w.topicIDs[id.Topic], Partition: id.Partition, Epoch: uint64(epoch), Client: fmt.Sprintf("sidecar-%d.%d", v.p.id, v.p.number)}
	e.Kind = Fence
	v.w.record(e)
	began := v.w.gate.step()
	s, err := v.Engine.Fence(ctx, id, epoch)
	if err := v.after(name, err); err != nil {
		return nil, err
	}
	e.Kind, e.Bound = Fenced, int64(began)
	v.w.record(e)
	return &shardView{Shard: s, view: v, id: id, epoch: epoch}, nil
}

func (v *view) Close() error { return nil }

type shardView struct {
	engine.Shard
	view  *view
	id    engine.ShardID
	epoch engine.Epoch
}

func (s *shardView) Commit(ctx context.Context, b engine.Batch) ([]engine.Offset, error) {
	return s.view.Commit(ctx, []engine.Part{{Shard: s, Writes: b.Writes}}, b.Appends)
}

func (v *view) Commit(ctx context.Context, parts []engine.Part, appends []engine.Append) ([]engine.Offset, error) {
	name, yields := "commit "+caller(ctx), false
	inner := make([]engine.Part, len(parts))
	for i, p := range parts {
		s := p.Shard.(*shardView)
		name += " " + s.id.String()
		if s.id.Group == "__published" && len(p.Writes) > 0 { // several may be under way, of which no two write the same
			name += fmt.Sprintf(" %x", p.Writes[0].Key)
		}
		yields = yields || p.Yields
		p.Shard = s.Shard
		inner[i] = p
	}
	if err := v.before(ctx, name, yields); err != nil {
		return nil, err
	}
	began := v.w.gate.step()
	firsts, err := v.Engine.Commit(ctx, inner, appends)
	err = v.after(name, err)
	if err != nil {
		return firsts, err
	}
	for _, p := range parts {
		s := p.Shard.(*shardView)
		v.w.record(Event{
			Kind: Commit, Group: s.id.Group, Topic: v.w.topicIDs[s.id.Topic], Partition: s.id.Partition, Epoch: uint64(s.epoch), Count: int64(len(p.Writes)), Bound: int64(began),
		})
	}
	return firsts, nil
}

func (s *shardView) Get(ctx context.Context, key []byte) ([]byte, error) {
	if s.view.p.isDead() {
		return nil, engine.ErrClosed
	}
	if s.view.w.chance(s.view.w.plan.Faults.ReadError, "get "+s.id.String()) {
		s.view.w.fault("failed read")
		return nil, errRead
	}
	return s.Shard.Get(ctx, key)
}

func (s *shardView) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[engine.Pair, error] {
	if s.view.p.isDead() {
		return func(yield func(engine.Pair, error) bool) { yield(engine.Pair{}, engine.ErrClosed) }
	}
	return s.Shard.Scan(ctx, prefix, from)
}
