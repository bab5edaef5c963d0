package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// numbers is what is known of who numbers batches, under one claim of the ledger. A producer has one holder at a time, who alone looks at what is known of it and commits
// for it: the ledger's goroutine, or whoever publishes numbered batches without ids, which need nothing else of the ledger. Who waits for a producer gets it in
// the order in which he came.
type numbers struct {
	store engine.Shard

	mu struct {
		sync.Mutex
		producers *producers
		held      map[[16]byte]*queue
		fault     error // why nothing is begun any more: what is durable is not known
	}
}

// queue is who waits for a producer, in their order. What a waiter finds in his channel says that the producer is his, or that nothing is begun any more.
type queue struct{ waiters []chan error }

// errNumbersOver says that a producer has to be asked for again, under another claim of the ledger.
var errNumbersOver = errors.New("broker: the ledger is claimed anew")

func newNumbers(store engine.Shard) *numbers {
	n := &numbers{store: store}
	n.mu.producers = newProducers()
	n.mu.held = make(map[[16]byte]*queue)
	return n
}

// hold makes its caller the holder of a producer, who has to free it. It may have to wait: waited says that it did, so that the caller has to wait for its turn.
// Errors: that of ctx, errNumbersOver.
func (n *numbers) hold(ctx context.Context, id [16]byte) (waited bool, err error) {
	n.mu.Lock()
	if n.mu.fault != nil {
		n.mu.Unlock()
		return false, errNumbersOver
	}
	q := n.mu.held[id]
	if q == nil {
		n.mu.held[id] = &queue{}
		n.mu.Unlock()
		return false, nil
	}
	mine := make(chan error, 1)
	q.waiters = append(q.waiters, mine)
	n.mu.Unlock()
	select {
	case err := <-mine:
		return true, err
	case <-ctx.Done():
	}
	n.mu.Lock()
	i := slices.Index(q.waiters, mine)
	if i >= 0 {
		q.waiters = slices.Delete(q.waiters, i, i+1)
	}
	n.mu.Unlock()
	if i < 0 && <-mine == nil { // it became the holder at the same moment
		n.free(id)
	}
	return true, ctx.Err()
}

// free gives a producer to who waits for it, or to nobody.
func (n *numbers) free(id [16]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	q := n.mu.held[id]
	if q == nil { // nothing is held any more
		return
	}
	if len(q.waiters) == 0 {
		delete(n.mu.held, id)
		return
	}
	q.waiters[0] <- nil
	q.waiters = q.waiters[1:]
}

// get returns what is known of a producer, nothing of one that is new. Its caller holds it.
func (n *numbers) get(ctx context.Context, id [16]byte) (*producer, error) {
	n.mu.Lock()
	p := n.mu.producers.get(id)
	n.mu.Unlock()
	if p != nil {
		return p, nil
	}
	value, err := n.store.Get(ctx, producerKey(id))
	if errors.Is(err, engine.ErrNotFound) {
		return &producer{}, nil
	}
	if err != nil {
		return nil, err
	}
	if p, err = parseProducer(value); err != nil {
		return nil, err
	}
	n.set(id, p)
	return p, nil
}

// set notes what is durable of a producer. Its caller holds it, as that of drop.
func (n *numbers) set(id [16]byte, p *producer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.producers.set(id, p)
}

func (n *numbers) drop(id [16]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.producers.drop(id)
}

// fail has nothing begun any more, after a commit whose outcome is not known or a claim that is over. Its error may be nil, as that of a claim that ends with the
// sidecar: who holds a producer may still be at work, so that nobody else may have it then either.
func (n *numbers) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.fault != nil {
		return
	}
	if err == nil {
		err = errNumbersOver
	}
	n.mu.fault = err
	for _, q := range n.mu.held { // each waiter wakes by himself: their order is of no matter
		for _, w := range q.waiters {
			w <- errNumbersOver
		}
	}
	clear(n.mu.held)
}

// failed is the error of the first fail, nil if there was none.
func (n *numbers) failed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.fault
}

// numbering is what a commit adds to a producer.
type numbering struct {
	*producer
	added []*routed
}

// look looks a batch of a publication up by its number. If it is known, it has its answer, or will have it when the batch has that it repeats. An error refuses it.
func (n *numbering) look(pub *publication, r *routed) (known bool, _ *Error) {
	if r.number < n.below {
		return false, fail(BadRequest, "number", "batch %d was answered: the producer said that it has all answers below %d", r.number, n.below)
	}
	other := func(sum uint64) *Error {
		if sum == r.sum {
			return nil
		}
		return fail(BadRequest, "number", "batch %d is another one than before", r.number)
	}
	if a, ok := n.find(r.number); ok {
		if err := other(a.sum); err != nil {
			return false, err
		}
		*r.out = a.Placement
		return true, nil
	}
	for _, first := range n.added {
		if first.number == r.number {
			if err := other(first.sum); err != nil {
				return false, err
			}
			pub.again = append(pub.again, again{r.out, first.out})
			return true, nil
		}
	}
	if len(n.answers)+len(n.added) >= MaxUnanswered || n.records() > maxUnansweredRecords {
		return false, fail(BadRequest, "answered_below", "more than %d batches, or %d records in them, from the first one without an answer", MaxUnanswered, maxUnansweredRecords).
			with("bound", MaxUnanswered)
	}
	return false, nil
}

// writes stores what was added, and that the producer was heard of, if that was noted long ago. It is asked when parts know which append they are.
func (n *numbering) writes(dst []engine.Write, id [16]byte, timeMS int64, appends []engine.Append) []engine.Write {
	if timeMS-n.seenMS >= seenEvery.Milliseconds() {
		p := *n.producer
		p.seenMS = timeMS
		n.producer = &p
		dst = append(dst, engine.Write{Key: seenKey(timeMS, id[:])})
	}
	return append(dst, producerWrite(id, n.producer, n.added, appends))
}

// isNumbered tells whether numbers are all that may be known of a publication.
func (pub *publication) isNumbered() bool {
	return !slices.ContainsFunc(pub.routes, func(r *routed) bool { return r.number == 0 || len(r.ids) > 0 })
}

// String names who publishes, while he holds the producer.
func (pub *publication) String() string { return "producer " + hex.EncodeToString(pub.from.ID[:]) }

// direct stores a publication of numbered batches without ids from its caller's goroutine. It is not done, and nothing was looked at, if the ledger is not owned, or is claimed
// anew. What is begun is finished, also when ctx is done: a commit of which nobody knows what became of it would have the ledger claimed anew.
func (l *ledger) direct(ctx context.Context, pub *publication) (done bool, err error) {
	n := l.numbers.Load()
	if n == nil {
		return false, nil
	}
	id := pub.from.ID
	waited, err := n.hold(ctx, id)
	if waited {
		l.broker.turn(pub)
	}
	if errors.Is(err, errNumbersOver) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	defer n.free(id)
	work := context.WithoutCancel(ctx)
	p, err := n.get(work, id)
	if err != nil {
		return true, err
	}
	add := numbering{producer: p.since(pub.from.AnsweredBelow)}
	pub.restore()
	left := make([]*routed, 0, len(pub.routes))
	for _, r := range pub.routes {
		add.added = left
		switch known, refused := add.look(pub, r); {
		case refused != nil:
			r.out.Refused = refused
		case !known:
			left = append(left, r)
		}
	}
	add.added = left
	if len(left) < len(pub.routes) {
		pub.routes = left
		pub.gather()
	}
	if len(left) == 0 {
		pub.place(nil)
		return true, nil
	}
	for i, owner := range pub.owners {
		owner.at = i
	}
	writes := add.writes(nil, id, pub.timeMS, pub.appends)
	if len(writes) > 1 {
		defer l.signal() // it was noted that the producer was heard of: it may be time to forget others
	}
	parts := []engine.Part{{Shard: n.store, Writes: writes, Yields: true}}
	firsts, err := l.broker.store(work, parts, pub.appends, pub.scheduled)
	switch {
	case err == nil:
		pub.place(firsts[:len(pub.appends)])
		n.set(id, add.with(left))
		return true, nil
	case nothingWritten(err):
		return true, err
	}
	n.fail(err)
	l.signal()
	return true, err
}
