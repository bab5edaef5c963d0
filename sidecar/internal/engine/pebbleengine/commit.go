package pebbleengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

const (
	// queueLength is how many requests wait for the committer; further callers wait to hand theirs in.
	queueLength = 256
	// gatherBytes is the size at which a batch is full. A request that is larger still is a batch of its own.
	gatherBytes = 4 << 20
	// batchKept is how large a batch's memory may be to be used for the next one. Pebble's pool of batches leaves it to the garbage collector when the store is idle.
	batchKept = 2 * gatherBytes
	// mergeWithin is how far apart, in milliseconds, the times of appends may be that share a chunk and with it the earlier time.
	mergeWithin = 1000
	// marksEvery is how long a high-water mark may wait for its sync. With each commit would cost a lone writer more than half of its commits; this, nothing.
	marksEvery = 100 * time.Millisecond
)

// request is one call for the committer.
type request struct {
	// What to do: one of these, and for a commit none of them.
	plain bool
	fence bool
	trim  *trimTo
	sweep bool // delete what was trimmed
	// leftover has no answer: a log some of whose chunks were trimmed in an earlier life.
	leftover *logState

	yields  bool    // a commit is refused where an append would be
	claims  []claim // of a commit, or the one of a fence
	appends []preparedAppend

	claimed atomic.Bool   // by the committer, who then does it, or by the caller, who then gave up
	built   chan struct{} // set by the committer before it claims; closed when it no longer needs the caller's slices
	done    chan error    // gets the outcome
}

// claim is what a request writes in the name of a shard's claim.
type claim struct {
	shard  *shardState
	epoch  engine.Epoch
	writes []engine.Write
}

type preparedAppend struct {
	log    *logState
	timeMS int64
	runs   []engine.Run
	first  engine.Offset // set by the committer
}

type trimTo struct {
	log   *logState
	begin engine.Offset
	taken int64 // bytes of records before begin
}

// write checks a request with appends and has it committed.
func (e *Engine) write(ctx context.Context, r *request, appends []engine.Append) ([]engine.Offset, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !e.gate.enter() {
		return nil, engine.ErrClosed
	}
	defer e.gate.leave()
	r.appends = make([]preparedAppend, len(appends))
	all := make([]engine.Run, 0, len(appends)) // of all of them: almost always one for each
	for i, a := range appends {
		before := len(all)
		var err error
		if all, err = engine.AppendRuns(all, a); err != nil {
			return nil, err
		}
		runs := all[before:len(all):len(all)]
		log, err := e.logs.get(a.Log)
		if err != nil {
			return nil, err
		}
		r.appends[i] = preparedAppend{log: log, timeMS: a.TimeMS, runs: runs}
	}
	if err := e.submit(ctx, r); err != nil {
		return nil, err
	}
	firsts := make([]engine.Offset, len(r.appends))
	for i := range r.appends {
		firsts[i] = r.appends[i].first
	}
	return firsts, nil
}

// submit hands a request to the committer and waits for its outcome. The committer does not touch the request after submit has returned.
func (e *Engine) submit(ctx context.Context, r *request) error {
	r.done = make(chan error, 1)
	select {
	case e.queue <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
	}
	if mutant.On(mutant.BufferReused) {
		return ctx.Err()
	}
	if r.claimed.CompareAndSwap(false, true) {
		return ctx.Err() // The committer has not seen it and will pass it over.
	}
	<-r.built
	select {
	case err := <-r.done:
		return err
	default:
		return fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, ctx.Err())
	}
}

// runCommitter is the only writer of the database. It does what is queued, one batch after the other, until the engine is closed.
func (e *Engine) runCommitter() {
	defer close(e.committerDone)
	syncMarks := time.NewTimer(marksEvery) // runs while a mark waits for its sync: an idle store wakes nobody
	defer syncMarks.Stop()
	running := true
	sync := func() {
		e.marks.sync()
		running = false
	}
	for {
		select {
		case <-syncMarks.C: // before the next commit, however many wait
			sync()
		default:
		}
		select {
		case r := <-e.queue:
			e.commit(r)
			e.trims.arm(e.roomy())
			if e.marks.dirty && !running {
				syncMarks.Reset(marksEvery)
				running = true
			}
		case <-syncMarks.C:
			sync()
		case <-e.trims.timer.C:
			e.trims.armed = false
			if len(e.trims.logs) > 0 {
				e.commit(&request{sweep: true, done: make(chan error, 1)})
			}
			e.trims.arm(e.roomy())
		case <-e.stop:
			if len(e.trims.logs) > 0 && !e.trims.still {
				e.commit(&request{sweep: true, done: make(chan error, 1)})
			}
			return
		}
	}
}

// cycle is one batch on its way to the disk.
type cycle struct {
	batch    *pebble.Batch
	requests []*request
	logs     []*logState // those with a plan, sorted by build
	trimmed  []*logState
	size     int
	built    chan struct{}
}

// commit does one cycle: what is here now shares a batch and a sync.
func (e *Engine) commit(first *request) {
	c := &cycle{built: make(chan struct{})}
	e.take(c, first)
	e.gather(c)
	c.batch = e.db.NewBatch(pebble.WithInitialSizeBytes(c.size+c.size/8+1<<10), pebble.WithMaxRetainedSizeBytes(batchKept))
	defer c.batch.Close()
	err := e.build(c)
	close(c.built)
	if len(c.requests) == 0 {
		return
	}
	if err == nil {
		err = e.save(c.batch, c.syncs())
	}
	if err != nil {
		err = e.fatal.set(err)
		for _, r := range c.requests {
			r.done <- fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, err)
		}
		return
	}
	e.commits++
	e.mark(c)
	e.publish(c)
	for _, l := range c.logs {
		l.tail()
	}
	for _, r := range c.requests {
		r.done <- nil
	}
	for _, l := range c.logs {
		l.watchers.tell(l.next)
	}
	e.trims.written(e)
	e.trims.add(c.trimmed)
}

func (e *Engine) gather(c *cycle) {
	for c.size < gatherBytes {
		select {
		case r := <-e.queue:
			e.take(c, r)
		default:
			return
		}
	}
}

// take adds a request to the cycle's plan, or answers it if it must not be done.
func (e *Engine) take(c *cycle, r *request) {
	if r.leftover != nil {
		e.trims.add([]*logState{r.leftover})
		return
	}
	r.built = c.built
	if !r.claimed.CompareAndSwap(false, true) {
		return
	}
	if err := e.refuse(r); err != nil {
		r.done <- err
		return
	}
	c.requests = append(c.requests, r)
	switch {
	case r.fence:
		r.claims[0].shard.epoch = r.claims[0].epoch
	case r.trim != nil:
		c.trim(r.trim)
	}
	for i := range r.appends {
		c.append(&r.appends[i])
	}
	for _, claim := range r.claims {
		for _, w := range claim.writes {
			c.size += len(w.Key) + len(w.Value) + 8*w.Firsts
		}
	}
}

// refuse is the reason not to do a request. Nothing of the request has been planned when it is asked.
func (e *Engine) refuse(r *request) error {
	if err := e.fatal.err(); err != nil {
		return fmt.Errorf("pebbleengine: no more writes after: %w", err)
	}
	for _, c := range r.claims {
		if !mutant.On(mutant.EpochUnchecked) && (c.epoch < c.shard.epoch || !r.fence && c.epoch != c.shard.epoch) {
			return engine.ErrFenced
		}
	}
	for i := range r.appends {
		if _, bad := r.appends[i].log.status(); bad != nil {
			return bad
		}
	}
	if r.trim == nil && !r.sweep {
		return e.space.refuse(r.plain || r.yields)
	}
	return nil
}

// plannedChunk gathers small appends to one log into one chunk.
type plannedChunk struct {
	first  engine.Offset
	count  int
	timeMS int64 // of the first append in it
	size   int
	runs   []engine.Run
}

// fits is asked with a time that is not before the chunk's.
func (p *plannedChunk) fits(run engine.Run, timeMS int64) bool {
	return p.count+run.Count <= engine.MaxChunkRecords && p.size+len(run.Records) <= engine.MaxChunkBytes && timeMS-p.timeMS <= mergeWithin
}

// append gives the records their offsets and chunks.
func (c *cycle) append(a *preparedAppend) {
	l := a.log
	if len(l.plan) == 0 {
		c.logs = append(c.logs, l)
	}
	a.first = l.next
	timeMS := max(a.timeMS, l.timeMS)
	for _, run := range a.runs {
		n := len(l.plan)
		if n == 0 || !l.plan[n-1].fits(run, timeMS) {
			l.plan = append(l.plan, plannedChunk{first: l.next, timeMS: timeMS})
			l.timeMS = timeMS
			n++
		}
		p := &l.plan[n-1]
		p.runs = append(p.runs, run)
		p.count += run.Count
		p.size += len(run.Records)
		l.next += engine.Offset(run.Count)
		c.size += len(run.Records)
	}
}

func (c *cycle) trim(t *trimTo) {
	if t.begin > t.log.begin {
		t.log.begin, t.log.taken = t.begin, t.taken
		c.trimmed = append(c.trimmed, t.log)
	}
}

// build writes the plan into the batch.
func (e *Engine) build(c *cycle) error {
	if len(c.requests) == 0 {
		return nil
	}
	var errs []error
	set := func(key, value []byte) { errs = append(errs, c.batch.Set(key, value, nil)) }
	for _, l := range c.trimmed {
		var sum uint32
		if l.begin == l.next-l.planned() {
			sum = l.sum
		}
		key := logKey(l.id)
		set(key, sealed(key, logBegin{l.begin, sum, l.taken}.encode()))
	}
	errs = append(errs, e.trims.build(c.batch, e.roomy(), c.requests[0].sweep))
	slices.SortFunc(c.logs, byID) // a memtable takes neighbours faster
	for _, l := range c.logs {
		errs = append(errs, l.build(c.batch))
	}
	for _, r := range c.requests {
		for _, claim := range r.claims {
			if r.fence {
				key := fenceKey(claim.shard.id)
				set(key, sealed(key, be64(uint64(claim.epoch))))
			}
			for _, w := range claim.writes {
				errs = append(errs, claim.shard.build(c.batch, w, r.appends))
			}
		}
	}
	set(commitsKey(), sealed(commitsKey(), be64(e.commits+1)))
	return errors.Join(errs...)
}

func byID(a, b *logState) int {
	return cmp.Or(cmp.Compare(a.id.Topic, b.id.Topic), cmp.Compare(a.id.Partition, b.id.Partition), cmp.Compare(a.id.Lane, b.id.Lane))
}

// planned is how many records of the log this cycle adds.
func (l *logState) planned() engine.Offset {
	if len(l.plan) == 0 {
		return 0
	}
	return l.next - l.plan[0].first
}

// build writes the log's plan into the batch, copying each record once.
func (l *logState) build(batch *pebble.Batch) error {
	tailed := l.tailers.wanted()
	for i := range l.plan {
		p := &l.plan[i]
		op := batch.SetDeferred(chunkKeyLen, chunkHeaderLen+p.size)
		copy(op.Key, chunkKey(l.id, p.first+engine.Offset(p.count)-1))
		at := chunkHeaderLen
		for _, run := range p.runs {
			at += copy(op.Value[at:], run.Records)
		}
		if tailed {
			l.keep(p, op.Value[chunkHeaderLen:], l.total)
		}
		l.sum = fillChunk(op.Key, op.Value, l.sum, p.count, p.first, p.timeMS, l.total)
		l.total += int64(p.size)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	clear(l.plan) // which drops the callers' slices
	l.plan = l.plan[:0]
	return nil
}

// syncs is how a cycle has to be written.
func (c *cycle) syncs() *pebble.WriteOptions {
	for _, r := range c.requests {
		switch {
		case mutant.On(mutant.NoSyncOnPublish) && (r.plain || r.yields):
		case mutant.On(mutant.NoSyncOnAck) && len(r.claims) > 0 && !r.fence && !r.yields:
		case mutant.On(mutant.DelayLostOnCrash) && len(r.claims) > 0 && !r.fence && !r.yields && r.claims[0].shard.id.Topic == 0:
		default:
			return pebble.Sync
		}
	}
	return pebble.NoSync
}

// save returns when the batch is on the disk.
func (e *Engine) save(batch *pebble.Batch, syncs *pebble.WriteOptions) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.fatal.panicked.Store(true)
			err = fmt.Errorf("pebble panicked: %v", p)
		}
	}()
	if err := batch.Commit(syncs); err != nil {
		return err
	}
	return e.fatal.err() // Pebble tells a failed commit to its logger, and returns nil if that returns.
}

// mark notes how far the logs are durable, so that a store that comes back shorter is known for it.
func (e *Engine) mark(c *cycle) {
	for _, l := range c.logs {
		e.marks.set(l.id, mark{end: l.next, sum: l.sum})
	}
	e.marks.setCommits(e.commits)
	e.marks.write()
}

// publish lets readers see what is durable.
func (e *Engine) publish(c *cycle) {
	for _, l := range c.logs {
		l.publish()
	}
	for _, l := range c.trimmed {
		l.publish()
	}
}
