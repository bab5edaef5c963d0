package mq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// lane carries frames to the sidecar on a stream of its own, one at a time: what arrives while a frame is on its way becomes the next. There is no
// timer, so a lone record leaves at once, and under load frames grow by themselves.
//
// One frame at a time is also what keeps order. Were a second frame sent before the first is answered, and the first then
// lost, sending the first again would place it behind the second.
//
// What is sent again, because the answer was lost, is stored once: its batches are the same and have the same numbers, by which a sidecar knows them
// also after its restart.
type lane struct {
	*pipeline
	index int
	work  chan struct{} // of capacity 1: frames may have grown, or may be sent now

	// Guarded by the pipeline's lock.
	frames  []*frame // the last one is open
	records int      // in frames
	begun   uint64   // frames, ever
	done    uint64   // those of them that were answered; in this order
	trouble error    // why the last attempt to send did not succeed; nil after one that did

	// What follows belongs to the goroutine in run.
	stream   *connect.BidiStreamForClient[brokerv1.PublishStreamRequest, brokerv1.PublishStreamResponse]
	hangUp   context.CancelFunc
	declared map[*topic]bool // since the last stream broke; the sidecar at the end of the next may be a new one
	sequence uint64
	producer []byte // names the lane to sidecars
	numbered uint64 // the last number that a batch was given
	aging    *time.Timer
}

func newLane(p *pipeline, index int) *lane {
	l := &lane{pipeline: p, index: index, work: make(chan struct{}, 1), declared: make(map[*topic]bool), producer: make([]byte, 16)}
	_, _ = rand.Read(l.producer) // it never fails
	l.aging = time.NewTimer(keepMemory)
	l.aging.Stop()
	return l
}

// run sends frames until ctx ends, then answers what is left with ErrClosed.
func (l *lane) run(ctx context.Context) {
	defer l.shut()
	for ctx.Err() == nil {
		l.gather()
		f := l.next()
		if f == nil {
			l.idle(ctx)
			continue
		}
		l.deliver(ctx, f)
		l.recycle(f)
	}
}

// gather lets callers run that are ready to, as long as they queue more: those that the last answer woke mostly have their next record at once, and
// records in one frame share its costs, a sync above all. Nobody is waited for: where there is nothing else to run, it returns at once.
func (l *lane) gather() {
	for n, rounds := l.queued(), 0; n > 0 && n < gathered && rounds < gatherings; rounds++ {
		runtime.Gosched()
		now := l.queued()
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

func (l *lane) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records
}

// idle returns when something was queued or ctx is done. After a while it gives back memory.
func (l *lane) idle(ctx context.Context) {
	var aged <-chan time.Time
	if l.keepsMuch() {
		l.aging.Reset(keepMemory)
		defer l.aging.Stop()
		aged = l.aging.C
	}
	select {
	case <-l.work:
	case <-aged:
		l.giveBack()
	case <-ctx.Done():
	}
}

// next takes the oldest frame, or nil if none may be sent.
func (l *lane) next() *frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takeLocked()
}

// deliver sends a frame until each of its records is answered or abandoned, or ctx ends.
func (l *lane) deliver(ctx context.Context, f *frame) {
	var pause backoff
	for ctx.Err() == nil && l.live(f) {
		err := l.attempt(ctx, f)
		l.note(err)
		if err == nil {
			pause.reset()
			continue
		}
		if pause.loud() {
			l.client.log.Warn("cannot publish at the moment, trying again", "failures", pause.failures+1, "error", err)
		}
		if !pause.wait(ctx) {
			break
		}
	}
	for _, b := range f.batches {
		l.refuse(b, ErrClosed)
	}
	f.batches = f.batches[:0]
}

// live drops what was abandoned, as far as it may, and reports whether anything is left.
func (l *lane) live(f *frame) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range f.batches {
		b.drop()
	}
	f.batches = slices.DeleteFunc(f.batches, func(b *batch) bool { return len(b.ends) == 0 })
	return len(f.batches) > 0
}

// note remembers why publishing does not work at the moment, for the errors of calls that give up.
func (l *lane) note(err error) {
	l.mu.Lock()
	l.trouble = err
	l.mu.Unlock()
}

// attempt sends the frame once. Batches that are answered leave the frame; an error means that those left are to be sent
// again after a pause.
func (l *lane) attempt(ctx context.Context, f *frame) error {
	if err := l.declare(ctx, f); err != nil {
		return err
	}
	batches := l.launch(f)
	if len(batches) == 0 {
		return nil
	}
	l.connect(ctx)
	response, err := l.exchange(f, batches)
	if err != nil {
		l.disconnect()
		err = fromCall(err)
		if ctx.Err() != nil || transient(err) {
			return err
		}
		for _, b := range batches {
			l.refuse(b, err)
		}
		f.batches = slices.Delete(f.batches, 0, len(batches))
		return nil
	}
	return l.resolve(f, batches, response)
}

func (l *lane) connect(ctx context.Context) {
	if l.stream != nil {
		return
	}
	ctx, l.hangUp = context.WithCancel(ctx)
	stream := l.client.broker.PublishStream(ctx)
	l.stream = stream
	// While the request is open, the transport waits for more of it and does not look at the context: Receive would go on
	// waiting. Closing the request may overlap any other use of the stream.
	context.AfterFunc(ctx, func() { _ = stream.CloseRequest() })
}

func (l *lane) disconnect() {
	if l.stream == nil {
		return
	}
	l.hangUp()
	_ = l.stream.CloseRequest()
	_ = l.stream.CloseResponse()
	l.stream = nil
	clear(l.declared)
}

// declare declares the frame's topics that were not declared since the last stream broke. It refuses the batches of a
// topic that the sidecar refuses.
func (l *lane) declare(ctx context.Context, f *frame) error {
	for i := 0; i < len(f.batches); {
		b := f.batches[i]
		if !l.declared[b.topic] {
			err := l.client.declareTopic(ctx, b.topic)
			if err != nil && (ctx.Err() != nil || transient(err)) {
				return err
			}
			if err != nil {
				l.refuse(b, err)
				f.batches = slices.Delete(f.batches, i, i+1)
				continue
			}
			l.declared[b.topic] = true
		}
		i++
	}
	return nil
}

// launch chooses the batches of the next frame on the wire and marks them: from here on the outcome of those who give up is unknown.
func (l *lane) launch(f *frame) []*batch {
	if !l.live(f) {
		return nil
	}
	var head []*batch
	head, l.numbered = f.head(l.numbered)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range head {
		b.sent = true
	}
	return head
}

// exchange sends one frame and waits for its answer.
func (l *lane) exchange(f *frame, batches []*batch) (*brokerv1.PublishStreamResponse, error) {
	l.sequence++
	if err := l.stream.Send(request(l.sequence, l.producer, f.unanswered(), batches)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// After an EOF the sidecar ended the stream, and Receive says why.
	return l.stream.Receive()
}

// resolve hands the results of a frame to its callers and removes from f the batches that are done.
func (l *lane) resolve(f *frame, batches []*batch, response *brokerv1.PublishStreamResponse) error {
	if response.GetSequence() != l.sequence || len(response.GetResults()) != len(batches) {
		l.disconnect()
		for _, b := range batches {
			l.refuse(b, fmt.Errorf("%w: the sidecar's answer does not match the frame", ErrUnknownOutcome))
		}
		f.batches = slices.Delete(f.batches, 0, len(batches))
		return nil
	}
	var left []*batch
	var later error
	for i, b := range batches {
		result := response.GetResults()[i]
		if result.GetRefusal() == nil {
			l.accept(b, result)
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
			delete(l.declared, b.topic)
			left = append(left, b)
		case len(b.ends) > 1 && concernsOneRecord(refused):
			first, second := l.split(b)
			left = append(left, first, second)
		default:
			l.refuse(b, refused)
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

// shut refuses what is queued and everything later.
func (l *lane) shut() {
	l.disconnect()
	l.mu.Lock()
	frames := l.frames
	l.frames, l.mu.closed = nil, true
	l.hasSpaceLocked() // whoever waits for space finds the pipeline closed
	l.mu.Unlock()
	for _, f := range frames {
		for _, b := range f.batches {
			l.refuse(b, ErrClosed)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doneLocked(len(frames))
}
