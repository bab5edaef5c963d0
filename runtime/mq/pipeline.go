package mq

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Bounds of what waits to be sent. Beyond them Publish waits for space.
const (
	maxQueuedBytes   = 16 << 20
	maxQueuedRecords = 65_536
)

// pipeline queues the records of all publishers of a client, in frames that lanes send to the sidecar.
//
// As a rule all records go together in the first lane, one frame at a time. When so much is queued that it is worth several frames, they are spread
// over all lanes, so that one frame is encoded while another is synced: all records of a partition in one lane, which keeps their order, and those
// without a key in the first one. When frames have become small again, they go together again: a sync shared is cheaper than two. Between the two, frames
// wait for those before them: see frame.after.
type pipeline struct {
	client *Client
	lanes  []*lane

	mu struct {
		sync.Mutex
		bytes   int
		records int
		space   chan struct{} // closed when there is less queued or no more is taken; nil if nobody waits
		closed  bool
		flushes chan struct{} // closed when a frame was answered; nil if nobody waits

		spread   bool   // records go to the lanes of their partitions, not together
		era      uint64 // counts the changes of spread
		together uint64 // frames of the first lane that were begun by when records last went together
		small    int    // frames, one after the other, that were hardly worth a lane

		spare  []*batch // done with, for reuse of their memory
		kept   int      // bytes of it
		frames []*frame // done with, for reuse, at most one for each lane
	}
}

// lanesPerClient are streams, each with a frame on its way.
const lanesPerClient = 4

// When records are spread, and when they go together again.
const (
	spreadRecords = 1024
	spreadBytes   = 512 << 10
	smallRecords  = 128
	smallBytes    = 64 << 10
	smallFrames   = 16
)

func newPipeline(c *Client) *pipeline {
	p := &pipeline{client: c}
	for i := range lanesPerClient {
		p.lanes = append(p.lanes, newLane(p, i))
	}
	return p
}

// queue queues an encoded record. It does not keep encoded.
func (p *pipeline) queue(ctx context.Context, t *topic, record *Record, encoded []byte) (ticket, error) {
	if n := len(encoded) + len(t.name) + batchOverhead; n > maxFrameBytes {
		return ticket{}, messageTooLarge(n, maxFrameBytes)
	}
	own := p.lanes[int(t.partition(record.Key))%len(p.lanes)]
	for {
		if err := ctx.Err(); err != nil {
			return ticket{}, err
		}
		queued, space, err := p.offer(t, own, encoded)
		if err != nil {
			return ticket{}, err
		}
		if space == nil {
			queued.id, queued.priority = record.ID, uint32(record.priority)
			return queued, nil
		}
		select {
		case <-space:
		case <-ctx.Done():
		}
	}
}

// wait returns the answer to a record, or abandons it when ctx ends.
func (p *pipeline) wait(ctx context.Context, t ticket) (Receipt, error) {
	if receipt, err, answered := t.wait(ctx); answered {
		return receipt, err
	}
	return p.abandon(ctx, t)
}

// offer queues the record, which has that lane of its own, or returns a channel that closes when there may be space for it.
func (p *pipeline) offer(t *topic, own *lane, encoded []byte) (queued ticket, space <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return ticket{}, nil, ErrClosed
	}
	if p.mu.records == maxQueuedRecords || (p.mu.bytes > 0 && p.mu.bytes+len(encoded) > maxQueuedBytes) {
		if p.mu.space == nil {
			p.mu.space = make(chan struct{})
		}
		return ticket{}, p.mu.space, nil
	}
	if !p.mu.spread && (p.mu.records >= spreadRecords || p.mu.bytes >= spreadBytes) {
		p.spreadLocked(true)
	}
	if !p.mu.spread {
		own = p.lanes[0]
	}
	f := own.openLocked(t, len(encoded))
	b := f.batch(t)
	if b == nil {
		b = own.newBatchLocked(t)
		f.begin(b)
	}
	index := f.add(b, encoded)
	own.records++
	p.mu.records++
	p.mu.bytes += len(encoded)
	return ticket{answers: b.answers, index: uint32(index)}, nil, nil
}

// spreadLocked has later records spread over all lanes, or go together.
func (p *pipeline) spreadLocked(spread bool) {
	p.mu.spread, p.mu.small = spread, 0
	p.mu.era++
}

// openLocked returns the lane's open frame, if it has room for n bytes of the topic, else a new one.
func (l *lane) openLocked(t *topic, n int) *frame {
	last := len(l.frames) - 1
	if last >= 0 && l.frames[last].era == l.mu.era && l.frames[last].fits(t, n) {
		return l.frames[last]
	}
	if last < 0 {
		signal(l.work)
	}
	f := l.newFrameLocked()
	f.era = l.mu.era
	l.frames = append(l.frames, f)
	l.begun++
	if l.mu.spread {
		f.after[0] = l.mu.together
	} else {
		l.mu.together = l.begun
		for i, other := range l.lanes {
			f.after[i] = other.begun
		}
	}
	f.after[l.index] = 0 // these are before it anyway
	return f
}

// takeLocked takes the lane's oldest frame, or nil if there is none that may be sent.
func (l *lane) takeLocked() *frame {
	if len(l.frames) == 0 {
		return nil
	}
	f := l.frames[0]
	for i, other := range l.lanes {
		if other.done < f.after[i] {
			return nil // the end of what it waits for signals work
		}
	}
	l.frames = slices.Delete(l.frames, 0, 1)
	l.records -= f.records
	l.mu.records -= f.records
	bytes := 0
	for _, b := range f.batches {
		bytes += len(b.records)
	}
	l.mu.bytes -= bytes
	if l.mu.spread {
		if l.mu.small++; f.records >= smallRecords || bytes >= smallBytes {
			l.mu.small = 0
		}
		if l.mu.small == smallFrames {
			l.spreadLocked(false)
		}
	}
	l.hasSpaceLocked()
	return f
}

// doneLocked notes that frames of the lane were answered.
func (l *lane) doneLocked(n int) {
	l.done += uint64(n)
	for _, other := range l.lanes {
		if other != l && len(other.frames) > 0 {
			signal(other.work)
		}
	}
	if l.mu.flushes != nil {
		close(l.mu.flushes)
		l.mu.flushes = nil
	}
}

// hasSpaceLocked has those try again that found none.
func (p *pipeline) hasSpaceLocked() {
	if p.mu.space != nil {
		close(p.mu.space)
		p.mu.space = nil
	}
}

// flush returns when all frames that were begun until now are answered.
func (p *pipeline) flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	begun := make([]uint64, len(p.lanes))
	for i, l := range p.lanes {
		begun[i] = l.begun
	}
	for i, l := range p.lanes {
		for l.done < begun[i] {
			if err := p.awaitFrameLocked(ctx); err != nil {
				return err
			}
		}
	}
	if p.mu.closed || p.client.ctx.Err() != nil { // which has answered frames before it is closed
		return ErrClosed
	}
	return nil
}

// awaitFrameLocked releases the lock until a frame was answered, or returns the error of ctx.
func (p *pipeline) awaitFrameLocked(ctx context.Context) error {
	if p.mu.flushes == nil {
		p.mu.flushes = make(chan struct{})
	}
	flushes := p.mu.flushes
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-flushes:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// abandon is the end of a call whose context ended before the answer. If its record was not sent yet, it will not be from now on.
func (p *pipeline) abandon(ctx context.Context, t ticket) (Receipt, error) {
	p.mu.Lock()
	for t.answers.halves != nil {
		t = t.half()
	}
	b := t.answers.batch
	if b == nil { // answered meanwhile
		p.mu.Unlock()
		return t.answer()
	}
	b.abandon(t.answers.place(int(t.index)))
	sent, trouble := b.sent, b.lane.trouble
	for _, l := range p.lanes { // its own may wait for another
		trouble = cmp.Or(trouble, l.trouble)
	}
	p.mu.Unlock()
	err := ctx.Err()
	if sent {
		err = fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	if trouble != nil {
		err = fmt.Errorf("%w (the sidecar's last answer: %v)", err, trouble)
	}
	return Receipt{}, err
}

// accept answers the calls of a batch with its result.
func (p *pipeline) accept(b *batch, result *brokerv1.BatchResult) {
	if len(result.GetPartitions()) != len(b.ends) || len(result.GetOffsets()) != len(b.ends) {
		p.refuse(b, fmt.Errorf("%w: the sidecar's answer does not match the batch", ErrUnknownOutcome))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b.answers.result = result
	b.doneLocked()
}

// refuse answers the calls of a batch with the error. With ErrClosed, the outcome of what was on its way is unknown as well.
func (p *pipeline) refuse(b *batch, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == ErrClosed && b.sent {
		err = fmt.Errorf("%w: %w", ErrUnknownOutcome, ErrClosed)
	}
	b.answers.err = err
	b.doneLocked()
}

// split halves a batch and tells its calls.
func (p *pipeline) split(b *batch) (first, second *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first, second = b.split()
	b.answers.halves, b.answers.middle = &[2]*answers{first.answers, second.answers}, len(first.ends)
	b.doneLocked()
	return first, second
}

// doneLocked ends the batch. Its calls run on after the lock is released.
func (b *batch) doneLocked() {
	b.answers.batch = nil
	close(b.answers.done)
}
