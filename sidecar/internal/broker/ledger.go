package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Bounds of the publications that share a commit of the ledger.
const (
	ledgerRecords = 1 << 16
	ledgerBytes   = 4 << 20
)

// ledger keeps what was published under a number or an id, so that it is known when it comes again: a goroutine that owns the ledger's shard. What it
// knows is written in the commit of the records themselves. It goes on after the sidecar's lease has ended: whoever claims the shard after it makes its commits fail, and
// what it answers without a commit stays true.
type ledger struct {
	broker *Broker
	wake   chan struct{} // holds a token when there is something to do
	work   work

	numbers atomic.Pointer[numbers] // while the shard is served, else nil

	mu struct {
		sync.Mutex
		calls []*ledgerCall
		fault error // why it does not serve, nil if it does
	}
}

// ledgerCall is a publication to be stored or, with lent, to be looked at for somebody who stores it.
type ledgerCall struct {
	pub    *publication
	lent   chan error // takes what became of the commit; nil if the ledger makes it
	size   int
	count  int
	begun  atomic.Bool // set by the goroutine, which then does it, or by the caller, who then gave up
	answer chan error
}

func newLedger(b *Broker) *ledger {
	l := &ledger{broker: b, wake: make(chan struct{}, 1)}
	l.mu.fault = errNotServing
	return l
}

// String names the ledger's goroutine.
func (*ledger) String() string { return "ledger" }

func (l *ledger) signal() {
	l.work.asked.Add(1)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	l.broker.stir()
}

// store stores a publication without what was published before, and gives it its places.
func (l *ledger) store(ctx context.Context, pub *publication) error {
	if pub.isNumbered() {
		if done, err := l.direct(ctx, pub); done {
			return err
		}
	}
	return l.publish(ctx, pub)
}

// publish has the ledger's goroutine store a publication.
func (l *ledger) publish(ctx context.Context, pub *publication) error {
	err, _ := l.do(ctx, &ledgerCall{pub: pub})
	return err
}

// lend is reserve.
func (l *ledger) lend(ctx context.Context, pub *publication) error {
	lent := make(chan error, 1)
	err, late := l.do(ctx, &ledgerCall{pub: pub, lent: lent})
	switch {
	case late: // the caller commits nothing, if the ledger waits for that
		lent <- errNotServing
		return ctx.Err()
	case err == nil:
		pub.lent = lent
	}
	return err
}

// do hands a call to the goroutine and waits for what becomes of it. It is late if the call was begun when ctx was done.
func (l *ledger) do(ctx context.Context, c *ledgerCall) (err error, late bool) {
	for _, r := range c.pub.routes {
		c.count += len(r.order)
	}
	for _, a := range c.pub.appends {
		c.size += len(a.Records)
	}
	c.answer = make(chan error, 1)
	l.mu.Lock()
	if err := l.mu.fault; err != nil {
		l.mu.Unlock()
		return err, false
	}
	l.mu.calls = append(l.mu.calls, c)
	l.mu.Unlock()
	l.signal()
	select {
	case err := <-c.answer:
		return err, false
	case <-ctx.Done():
	}
	if c.begun.CompareAndSwap(false, true) {
		return ctx.Err(), false
	}
	select {
	case err := <-c.answer:
		return err, false
	default:
		return fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, ctx.Err()), true
	}
}

// take returns the calls that fit into one commit, in the order in which they came, and whether there are more. One that is lent is alone.
func (l *ledger) take() (calls []*ledgerCall, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count, size, n := 0, 0, 0
	for _, c := range l.mu.calls {
		count += c.count
		size += c.size
		if len(calls) > 0 && (count > ledgerRecords || size > ledgerBytes || c.lent != nil || calls[0].lent != nil) {
			break
		}
		n++
		if c.begun.CompareAndSwap(false, true) {
			calls = append(calls, c)
		}
	}
	rest := l.mu.calls[n:]
	l.mu.calls = append([]*ledgerCall(nil), rest...)
	return calls, len(rest) > 0
}

// open lets calls in; close refuses those that are waiting and all to come.
func (l *ledger) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.fault = nil
}

func (l *ledger) close(fault error) {
	l.mu.Lock()
	calls := l.mu.calls
	l.mu.calls, l.mu.fault = nil, fault
	l.mu.Unlock()
	for _, c := range calls {
		c.answer <- fault
	}
}

// run serves the shard that was claimed, and then owns it again and again until ctx is done. Calls that were not begun wait until it is owned again,
// unless that fails.
func (l *ledger) run(ctx context.Context, owned *recording) {
	b := l.broker
	wait := retryFirst
	for {
		l.numbers.Store(owned.numbers)
		err := owned.serve(ctx)
		l.numbers.Store(nil)
		owned.numbers.fail(err)
		for {
			if ctx.Err() != nil {
				l.close(fail(Draining, "", "the sidecar is shutting down"))
				return
			}
			if !errors.Is(err, errOwned) {
				b.log.Warn("what was published has to be read again", "error", err)
			}
			if owned, err = l.own(ctx); err == nil {
				wait = retryFirst
				l.open()
				break
			}
			if errors.Is(err, engine.ErrUnknownOutcome) { // which is not so for what was not tried yet
				err = errNotServing
			}
			l.close(errors.Join(errNotServing, err))
			b.sleep(ctx, wait)
			wait = min(2*wait, retryMost)
		}
	}
}

// own claims the shard and reads what has to be known of it.
func (l *ledger) own(ctx context.Context) (*recording, error) {
	l.broker.turn(l)
	got, err := l.broker.claims.acquire(ctx, ledgerShard)
	if err != nil {
		return nil, err
	}
	store, err := l.broker.engine.Fence(ctx, ledgerShard, got.claim.Epoch)
	if err != nil {
		return nil, err
	}
	return l.load(ctx, store)
}
