package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	// inboxBytes is how much waits for an inbox's stream; what comes then is read from the log when the stream is ready for it.
	inboxBytes = 1 << 20
)

// postboxes bring the replies of the logs to the inboxes that are open here. Each log that has one is read once, by a goroutine of its own.
type postboxes struct {
	broker *Broker
	boxes  [replyPartitions]postbox
	// lost counts replies that could not be stored, and unclaimed those that were read while their inbox was not open here.
	lost, unclaimed atomic.Uint64
}

// postbox is one log of replies.
type postbox struct {
	broker *Broker
	log    engine.LogID
	wake   chan struct{} // holds a token when there may be something to read, or nobody to read for
	work   work

	mu struct {
		sync.Mutex
		inboxes map[[InboxSize]byte]*Inbox
		running bool
		next    engine.Offset // of what the goroutine reads next
	}
}

func (p *postboxes) open(b *Broker) {
	p.broker = b
	for i := range p.boxes {
		box := &p.boxes[i]
		box.broker, box.log, box.wake = b, engine.LogID{Topic: repliesTopic, Partition: uint32(i)}, make(chan struct{}, 1)
		box.mu.inboxes = make(map[[InboxSize]byte]*Inbox)
	}
}

func (p *postboxes) idle() bool {
	for i := range p.boxes {
		if !p.boxes[i].idle() {
			return false
		}
	}
	return true
}

// Inbox is where the replies to a client's calls arrive, from OpenInbox to Close.
type Inbox struct {
	name [InboxSize]byte
	box  *postbox
	wake chan struct{} // holds a token when there is something to take
	gone chan struct{} // closed with the inbox
	once sync.Once
	err  *Error // written before gone is closed

	mu struct {
		sync.Mutex
		replies []Reply
		bytes   int
		// next is the offset after what was taken. live says that replies holds what follows, as far as the log was read; otherwise Next reads it.
		next, after engine.Offset // after is that of the last of replies
		live        bool
	}
}

// OpenInbox opens an inbox of InboxSize bytes. from is where to go on in its log, negative for now. An inbox of the name that is open is ended.
// The caller closes it.
func (b *Broker) OpenInbox(ctx context.Context, name []byte, from int64) (*Inbox, error) {
	if len(name) != InboxSize {
		return nil, badInbox("inbox", name)
	}
	box := &b.postboxes.boxes[replyLog(name).Partition]
	bounds, err := b.engine.Bounds(ctx, box.log)
	if err != nil {
		return nil, Refusal(err)
	}
	if from > int64(bounds.End) {
		return nil, fail(BadOffset, "from", "offset %d lies beyond the end of the replies, %d: open the inbox without it", from, bounds.End)
	}
	in := &Inbox{name: [InboxSize]byte(name), box: box, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	in.mu.next = engine.Offset(from)
	if from < 0 {
		in.mu.next = bounds.End
	}
	b.mu.RLock()
	closed := b.mu.closed
	if !closed {
		box.enter(in)
	}
	b.mu.RUnlock()
	if closed {
		return nil, fail(Draining, "", "the sidecar is shutting down")
	}
	return in, nil
}

func (p *postbox) enter(in *Inbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.mu.inboxes[in.name]; old != nil {
		old.end(fail(SessionLost, "", "the inbox was opened by another stream"))
	}
	p.mu.inboxes[in.name] = in
	if !p.mu.running {
		p.mu.running, p.mu.next = true, in.mu.next
		p.broker.work.Go(p.run)
	}
	p.signal()
}

// String names the goroutine that reads the log.
func (p *postbox) String() string { return fmt.Sprintf("postbox %d", p.log.Partition) }

func (p *postbox) signal() {
	p.work.asked.Add(1)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	p.broker.stir()
}

func (p *postbox) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.running {
		return true
	}
	for _, in := range p.mu.inboxes {
		if !in.idle() {
			return false
		}
	}
	return p.work.idle()
}

// run brings replies to inboxes until there is none left, or the broker stops.
func (p *postbox) run() {
	ctx := p.broker.running
	unwatch := p.broker.engine.Watch(p.log, func(engine.Offset) { p.signal() })
	defer unwatch()
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
		}
		p.broker.turn(p)
		select {
		case <-p.wake: // what it tells of is done in this turn
		default:
		}
		asked := p.work.asked.Load()
		if ctx.Err() != nil {
			p.endAll()
			return
		}
		p.deliver(ctx)
		over := p.over()
		p.work.ended.Store(asked)
		p.broker.stir()
		if over {
			return
		}
	}
}

// over ends the goroutine's time if nobody waits for replies.
func (p *postbox) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.inboxes) > 0 {
		return false
	}
	p.mu.running = false
	return true
}

func (p *postbox) endAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, in := range p.mu.inboxes {
		in.end(fail(Draining, "", "the sidecar is shutting down"))
	}
	p.mu.running = false
}

// deliver reads to the log's end.
func (p *postbox) deliver(ctx context.Context) {
	for {
		p.mu.Lock()
		from := p.mu.next
		p.mu.Unlock()
		chunks, err := p.broker.engine.Read(ctx, p.log, from, fetchBytes)
		if err != nil && ctx.Err() == nil {
			p.fail(err)
			return
		}
		if len(chunks) == 0 {
			return
		}
		p.mu.Lock()
		for _, c := range chunks {
			p.mu.next = max(p.mu.next, c.Last()+1)
			for offset, raw := range c.All() {
				if offset >= from {
					p.bring(offset, raw)
				}
			}
		}
		next := p.mu.next
		for _, in := range p.mu.inboxes {
			in.reached(next)
		}
		p.mu.Unlock()
	}
}

// bring gives a reply to its inbox, if that is open. The postbox is locked.
func (p *postbox) bring(offset engine.Offset, raw []byte) {
	r, err := parseReply(raw)
	if err != nil || len(r.Inbox) != InboxSize {
		return // no sidecar wrote this
	}
	in := p.mu.inboxes[[InboxSize]byte(r.Inbox)]
	if in == nil {
		p.broker.postboxes.unclaimed.Add(1)
		return
	}
	in.put(offset, r)
}

// fail ends the inboxes of a log that cannot be read: their clients open them again.
func (p *postbox) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broker.log.Warn("replies cannot be read", "partition", p.log.Partition, "error", err)
	for name, in := range p.mu.inboxes {
		in.end(Refusal(err))
		delete(p.mu.inboxes, name)
	}
}

// put queues a reply if all before it are queued.
func (in *Inbox) put(offset engine.Offset, r Reply) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if offset < in.mu.next {
		return
	}
	if !in.mu.live || in.mu.bytes > inboxBytes {
		in.mu.live = false
		in.signal()
		return
	}
	in.mu.replies = append(in.mu.replies, r)
	in.mu.bytes += len(r.Encoding)
	in.mu.after = offset + 1
	in.signal()
}

// reached tells how far the postbox has read, once it has brought all of it.
func (in *Inbox) reached(next engine.Offset) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.mu.live && len(in.mu.replies) == 0 {
		in.mu.next = max(in.mu.next, next)
	}
}

func (in *Inbox) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// idle tells whether the inbox has nothing to tell.
func (in *Inbox) idle() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.mu.live && len(in.mu.replies) == 0
}

// String names the goroutine that takes the replies.
func (in *Inbox) String() string { return fmt.Sprintf("inbox %x", in.name[:4]) }

// At is where to go on after what Next has returned.
func (in *Inbox) At() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return int64(in.mu.next)
}

// Next returns the replies that came since the last call, waiting for one.
// Errors: *Error when the inbox has ended, and that of ctx.
func (in *Inbox) Next(ctx context.Context) ([]Reply, error) {
	for {
		in.box.broker.turn(in)
		select {
		case <-in.wake: // what it tells of is looked at now
		default:
		}
		select {
		case <-in.gone:
			if in.err != nil {
				return nil, in.err
			}
			return nil, fail(SessionLost, "", "the inbox is closed")
		default:
		}
		replies, err := in.take(ctx)
		if err != nil {
			return nil, Refusal(err)
		}
		in.box.broker.stir()
		if len(replies) > 0 {
			return replies, nil
		}
		select {
		case <-in.wake:
		case <-in.gone:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns what is queued, or what is behind in the log.
func (in *Inbox) take(ctx context.Context) ([]Reply, error) {
	in.mu.Lock()
	replies, live, next := in.mu.replies, in.mu.live, in.mu.next
	if len(replies) > 0 {
		in.mu.replies, in.mu.bytes, in.mu.next = nil, 0, in.mu.after
	}
	in.mu.Unlock()
	if len(replies) > 0 || live {
		return replies, nil
	}
	for {
		found, after, err := in.read(ctx, next)
		if err != nil {
			return nil, err
		}
		if len(found) > 0 || in.catchUp(after) {
			return found, nil
		}
		next = after
	}
}

// read returns the inbox's replies of a piece of the log, and where it ends.
func (in *Inbox) read(ctx context.Context, from engine.Offset) (found []Reply, next engine.Offset, err error) {
	chunks, err := in.box.broker.engine.Read(ctx, in.box.log, from, fetchBytes)
	if err != nil {
		return nil, from, err
	}
	next = from
	for _, c := range chunks {
		for offset, raw := range c.All() {
			if r, err := parseReply(raw); offset >= from && err == nil && slices.Equal(r.Inbox, in.name[:]) {
				found = append(found, r)
			}
		}
		next = c.Last() + 1
	}
	in.mu.Lock()
	in.mu.next = next
	in.mu.Unlock()
	if len(found) > 0 {
		in.signal() // there may be more
	}
	return found, next, nil
}

// catchUp makes the inbox live if all that the postbox has read is taken.
func (in *Inbox) catchUp(next engine.Offset) bool {
	in.box.mu.Lock()
	defer in.box.mu.Unlock()
	if next < in.box.mu.next {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.live = true // what it has read ahead of the postbox it will not take again
	return true
}

// end is the end of the inbox. err is what Next returns from then on.
func (in *Inbox) end(err *Error) {
	in.once.Do(func() {
		in.err = err
		close(in.gone)
	})
}

// Close ends the inbox.
func (in *Inbox) Close() {
	in.end(nil)
	in.box.mu.Lock()
	defer in.box.mu.Unlock()
	if in.box.mu.inboxes[in.name] == in {
		delete(in.box.mu.inboxes, in.name)
		in.box.signal()
	}
}
