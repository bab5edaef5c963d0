package mq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Bounds of what waits to be sent. Beyond them Publish waits for space.
const (
	maxQueuedBytes   = 16 << 20
	maxQueuedRecords = 65_536
)

// pipeline carries the records of all publishers of a client to the sidecar, on one stream, one frame at a time: what
// arrives while a frame is on its way becomes the next. There is no timer, so a lone record leaves at once, and under load
// frames grow by themselves.
//
// One frame at a time is also what keeps order. Were a second frame sent before the first is answered, and the first then
// lost, sending the first again would place it behind the second.
//
// What is sent again, because the answer was lost, is stored once: its batches are the same and have the same numbers, by which a sidecar knows them
// also after its restart.
type pipeline struct {
	client *Client
	work   chan struct{} // of capacity 1: frames may have grown

	mu struct {
		sync.Mutex
		frames  []*frame // the last one is open
		spare   []*batch // done with, for reuse of their memory
		kept    int      // bytes of it
		frame   *frame   // done with, for reuse; nil if there is none
		bytes   int
		records int
		space   chan struct{} // closed when there is less queued or no more is taken; nil if nobody waits
		closed  bool
		begun   uint64        // frames that were begun, ever
		done    uint64        // those of them that were answered; in this order
		flushes chan struct{} // closed and replaced when done grows; nil if nobody waits
		trouble error         // why the last attempt to send did not succeed; nil after one that did
	}

	// What follows belongs to the goroutine in run.
	stream   *connect.BidiStreamForClient[brokerv1.PublishStreamRequest, brokerv1.PublishStreamResponse]
	hangUp   context.CancelFunc
	declared map[*topic]bool // since the last stream broke; the sidecar at the end of the next may be a new one
	sequence uint64
	producer []byte // names the client to sidecars
	numbered uint64 // the last number that a batch was given
	aging    *time.Timer
}

func newPipeline(c *Client) *pipeline {
	p := &pipeline{client: c, work: make(chan struct{}, 1), declared: make(map[*topic]bool), producer: make([]byte, 16)}
	_, _ = rand.Read(p.producer) // it never fails
	p.aging = time.NewTimer(keepMemory)
	p.aging.Stop()
	return p
}

// queue queues an encoded record, which has that id and priority. It does not keep encoded.
func (p *pipeline) queue(ctx context.Context, t *topic, encoded []byte, id string, priority uint32) (ticket, error) {
	if n := len(encoded) + len(t.name) + batchOverhead; n > maxFrameBytes {
		return ticket{}, messageTooLarge(n, maxFrameBytes)
	}
	for {
		if err := ctx.Err(); err != nil {
			return ticket{}, err
		}
		queued, space, err := p.offer(t, encoded)
		if err != nil {
			return ticket{}, err
		}
		if space == nil {
			queued.id, queued.priority = id, priority
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

// offer queues the record, or returns a channel that closes when there may be space for it.
func (p *pipeline) offer(t *topic, encoded []byte) (queued ticket, space <-chan struct{}, err error) {
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
	last := len(p.mu.frames) - 1
	if last < 0 {
		select {
		case p.work <- struct{}{}:
		default:
		}
	}
	if last < 0 || !p.mu.frames[last].fits(t, len(encoded)) {
		p.mu.frames = append(p.mu.frames, p.newFrameLocked())
		p.mu.begun++
		last++
	}
	f := p.mu.frames[last]
	b := f.batch(t)
	if b == nil {
		b = p.newBatchLocked(t)
		f.begin(b)
	}
	index := f.add(b, encoded)
	p.mu.bytes += len(encoded)
	p.mu.records++
	return ticket{answers: b.answers, index: uint32(index)}, nil, nil
}

// abandon is the end of a call whose context ended before the answer. If its record was not sent yet, it will not be from now on.
func (p *pipeline) abandon(ctx context.Context, t ticket) (Receipt, error) {
	p.mu.Lock()
	for t.answers.halves != nil {
		t = t.half()
	}
	b, trouble := t.answers.batch, p.mu.trouble
	if b == nil { // answered meanwhile
		p.mu.Unlock()
		return t.answer()
	}
	b.abandon(t.answers.place(int(t.index)))
	sent := b.sent
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

// run sends frames until ctx ends, then answers what is left with ErrClosed.
func (p *pipeline) run(ctx context.Context) {
	defer p.shut()
	for ctx.Err() == nil {
		p.gather()
		f := p.next()
		if f == nil {
			p.idle(ctx)
			continue
		}
		p.deliver(ctx, f)
		p.recycle(f)
	}
}

// gather lets callers run that are ready to, as long as they queue more: those that the last answer woke mostly have their next record at once, and
// records in one frame share its costs, a sync above all. Nobody is waited for: where there is nothing else to run, it returns at once.
func (p *pipeline) gather() {
	for n, rounds := p.queued(), 0; n > 0 && n < gathered && rounds < gatherings; rounds++ {
		runtime.Gosched()
		now := p.queued()
		if now == n {
			return
		}
		n = now
	}
}

const (
	gathered   = 1024 // records that are enough for a frame
	gatherings = 16
)

func (p *pipeline) queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.records
}

// idle returns when something was queued or ctx is done. After a while it gives back memory.
func (p *pipeline) idle(ctx context.Context) {
	var aged <-chan time.Time
	if p.keepsMuch() {
		p.aging.Reset(keepMemory)
		defer p.aging.Stop()
		aged = p.aging.C
	}
	select {
	case <-p.work:
	case <-aged:
		p.giveBack()
	case <-ctx.Done():
	}
}

// next takes the oldest frame, or nil if nothing is queued.
func (p *pipeline) next() *frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.frames) == 0 {
		return nil
	}
	f := p.mu.frames[0]
	p.mu.frames = slices.Delete(p.mu.frames, 0, 1)
	p.mu.records -= f.records
	for _, b := range f.batches {
		p.mu.bytes -= len(b.records)
	}
	p.hasSpaceLocked()
	return f
}

// hasSpaceLocked has those try again that found none.
func (p *pipeline) hasSpaceLocked() {
	if p.mu.space != nil {
		close(p.mu.space)
		p.mu.space = nil
	}
}

// doneLocked notes that frames were answered.
func (p *pipeline) doneLocked(n int) {
	p.mu.done += uint64(n)
	if p.mu.flushes != nil {
		close(p.mu.flushes)
		p.mu.flushes = nil
	}
}

// flush returns when all frames that were begun until now are answered.
func (p *pipeline) flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for last := p.mu.begun; p.mu.done < last; {
		if p.mu.flushes == nil {
			p.mu.flushes = make(chan struct{})
		}
		flushes := p.mu.flushes
		p.mu.Unlock()
		select {
		case <-flushes:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if p.mu.closed || p.client.ctx.Err() != nil { // which has answered frames before it is closed
		return ErrClosed
	}
	return nil
}

// deliver sends a frame until each of its records is answered or abandoned, or ctx ends.
func (p *pipeline) deliver(ctx context.Context, f *frame) {
	var pause backoff
	for ctx.Err() == nil && p.live(f) {
		err := p.attempt(ctx, f)
		p.note(err)
		if err == nil {
			pause.reset()
			continue
		}
		if pause.loud() {
			p.client.log.Warn("cannot publish at the moment, trying again", "failures", pause.failures+1, "error", err)
		}
		if !pause.wait(ctx) {
			break
		}
	}
	for _, b := range f.batches {
		p.refuse(b, ErrClosed)
	}
	f.batches = f.batches[:0]
}

// live drops what was abandoned, as far as it may, and reports whether anything is left.
func (p *pipeline) live(f *frame) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range f.batches {
		b.drop()
	}
	f.batches = slices.DeleteFunc(f.batches, func(b *batch) bool { return len(b.ends) == 0 })
	return len(f.batches) > 0
}

// note remembers why publishing does not work at the moment, for the errors of calls that give up.
func (p *pipeline) note(err error) {
	p.mu.Lock()
	p.mu.trouble = err
	p.mu.Unlock()
}

// attempt sends the frame once. Batches that are answered leave the frame; an error means that those left are to be sent
// again after a pause.
func (p *pipeline) attempt(ctx context.Context, f *frame) error {
	if err := p.declare(ctx, f); err != nil {
		return err
	}
	batches := p.launch(f)
	if len(batches) == 0 {
		return nil
	}
	p.connect(ctx)
	response, err := p.exchange(f, batches)
	if err != nil {
		p.disconnect()
		err = fromCall(err)
		if ctx.Err() != nil || transient(err) {
			return err
		}
		for _, b := range batches {
			p.refuse(b, err)
		}
		f.batches = slices.Delete(f.batches, 0, len(batches))
		return nil
	}
	return p.resolve(f, batches, response)
}

func (p *pipeline) connect(ctx context.Context) {
	if p.stream != nil {
		return
	}
	ctx, p.hangUp = context.WithCancel(ctx)
	stream := p.client.broker.PublishStream(ctx)
	p.stream = stream
	// While the request is open, the transport waits for more of it and does not look at the context: Receive would go on
	// waiting. Closing the request may overlap any other use of the stream.
	context.AfterFunc(ctx, func() { _ = stream.CloseRequest() })
}

func (p *pipeline) disconnect() {
	if p.stream == nil {
		return
	}
	p.hangUp()
	_ = p.stream.CloseRequest()
	_ = p.stream.CloseResponse()
	p.stream = nil
	clear(p.declared)
}

// declare declares the frame's topics that were not declared since the last stream broke. It refuses the batches of a
// topic that the sidecar refuses.
func (p *pipeline) declare(ctx context.Context, f *frame) error {
	for i := 0; i < len(f.batches); {
		b := f.batches[i]
		if !p.declared[b.topic] {
			err := p.client.declareTopic(ctx, b.topic)
			if err != nil && (ctx.Err() != nil || transient(err)) {
				return err
			}
			if err != nil {
				p.refuse(b, err)
				f.batches = slices.Delete(f.batches, i, i+1)
				continue
			}
			p.declared[b.topic] = true
		}
		i++
	}
	return nil
}

// launch chooses the batches of the next frame on the wire and marks them: from here on the outcome of those who give up is unknown.
func (p *pipeline) launch(f *frame) []*batch {
	if !p.live(f) {
		return nil
	}
	var head []*batch
	head, p.numbered = f.head(p.numbered)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range head {
		b.sent = true
	}
	return head
}

// exchange sends one frame and waits for its answer.
func (p *pipeline) exchange(f *frame, batches []*batch) (*brokerv1.PublishStreamResponse, error) {
	p.sequence++
	if err := p.stream.Send(request(p.sequence, p.producer, f.unanswered(), batches)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// After an EOF the sidecar ended the stream, and Receive says why.
	return p.stream.Receive()
}

// resolve hands the results of a frame to its callers and removes from f the batches that are done.
func (p *pipeline) resolve(f *frame, batches []*batch, response *brokerv1.PublishStreamResponse) error {
	if response.GetSequence() != p.sequence || len(response.GetResults()) != len(batches) {
		p.disconnect()
		for _, b := range batches {
			p.refuse(b, fmt.Errorf("%w: the sidecar's answer does not match the frame", ErrUnknownOutcome))
		}
		f.batches = slices.Delete(f.batches, 0, len(batches))
		return nil
	}
	var left []*batch
	var later error
	for i, b := range batches {
		result := response.GetResults()[i]
		if result.GetRefusal() == nil {
			p.accept(b, result)
			continue
		}
		refused := fromRefusal(result.GetRefusal())
		switch {
		case transient(refused):
			left = append(left, b)
			later = refused
		case undeclared(refused) && !b.redeclared:
			// The sidecar was replaced after the declaration and before the stream was opened.
			b.redeclared = true
			delete(p.declared, b.topic)
			left = append(left, b)
		case len(b.ends) > 1 && concernsOneRecord(refused):
			first, second := p.split(b)
			left = append(left, first, second)
		default:
			p.refuse(b, refused)
		}
	}
	f.batches = append(left, f.batches[len(batches):]...)
	return later
}

// concernsOneRecord reports whether a batch may have been refused for one of its records. Then it is sent again in halves,
// until the refusal falls on the call that caused it and on no other.
func concernsOneRecord(e *Error) bool {
	switch e.Code {
	case connect.CodeInvalidArgument, connect.CodeAlreadyExists, connect.CodeOutOfRange:
		return true
	case connect.CodeResourceExhausted:
		return errors.Is(e, ErrTooLarge)
	default:
		return false
	}
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

// shut refuses what is queued and everything later.
func (p *pipeline) shut() {
	p.disconnect()
	p.mu.Lock()
	frames := p.mu.frames
	p.mu.frames, p.mu.closed = nil, true
	p.hasSpaceLocked() // whoever waits for space finds the pipeline closed
	p.mu.Unlock()
	for _, f := range frames {
		for _, b := range f.batches {
			p.refuse(b, ErrClosed)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doneLocked(len(frames))
}
