package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	// rememberFor is how long a transaction is known at least.
	rememberFor = 10 * time.Minute
	// forgetMost bounds the transactions that are forgotten in one commit.
	forgetMost = 256
)

// transactions is the memory of what was applied, so that a transaction that is sent again is not applied again, and gets its answer. It is on disk, in a shard that is
// claimed with the first transaction and written in the commit of each. In memory are those that are under way.
type transactions struct {
	broker *Broker
	owning chan struct{} // holds a token while somebody claims the shard
	full   atomic.Bool   // a transaction found no room

	mu struct {
		sync.Mutex
		running map[transactionID]*transaction
		store   engine.Shard // nil while it is not owned
		lost    <-chan struct{}

		forgetting bool
		forgetAt   time.Time // by the time of day: there is nothing to forget before
		front      []byte    // no key of the order of age is before it
	}
}

func newTransactions(b *Broker) *transactions {
	t := &transactions{broker: b, owning: make(chan struct{}, 1)}
	t.mu.running = make(map[transactionID]*transaction)
	return t
}

// enter notes a transaction that is about to begin. If another is under way under its id, it returns that.
func (t *transactions) enter(tx *transaction) *transaction {
	t.mu.Lock()
	first := t.mu.running[tx.id]
	if first == nil {
		t.mu.running[tx.id] = tx
	}
	t.mu.Unlock()
	if first != nil {
		return first
	}
	t.broker.stir()
	return tx
}

func (t *transactions) leave(tx *transaction) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.mu.running, tx.id)
}

func (t *transactions) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.mu.running) == 0
}

// own returns the shard, claiming it if it is not owned.
func (t *transactions) own(tx *transaction) (engine.Shard, error) {
	if store := t.owned(); store != nil {
		return store, nil
	}
	t.owning <- struct{}{}
	defer func() { <-t.owning }()
	t.broker.turn(tx)
	if store := t.owned(); store != nil { // somebody else was at it
		return store, nil
	}
	ctx := t.broker.running
	got, err := t.broker.claims.acquire(ctx, transactionsShard)
	t.broker.turn(tx)
	if err != nil {
		return nil, notBegun(err)
	}
	store, err := t.broker.engine.Fence(ctx, transactionsShard, got.claim.Epoch)
	if err != nil {
		return nil, notBegun(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.store, t.mu.lost = store, got.lost
	t.mu.forgetAt, t.mu.front = time.Time{}, nil
	return store, nil
}

func (t *transactions) owned() engine.Shard {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.store == nil || over(t.mu.lost) {
		return nil
	}
	return t.mu.store
}

// disown has the shard claimed anew, at a later epoch, by the next that needs it. What was tried under the claim of store cannot be written from then on.
func (t *transactions) disown(store engine.Shard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.store == store {
		t.mu.store = nil
	}
}

// notBegun is the error of a transaction that could not begin: whatever the parts that it needs say of what they did before, nothing of it was written.
func notBegun(err error) error {
	var (
		own     *Error
		corrupt *engine.CorruptError
	)
	switch {
	case errors.As(err, &own), errors.As(err, &corrupt), errors.Is(err, engine.ErrFull):
		return err
	case errors.Is(err, engine.ErrUnknownOutcome):
		return errNotServing
	}
	return errors.Join(errNotServing, err)
}

// find returns what is remembered of a transaction, or nil.
func (t *transactions) find(ctx context.Context, store engine.Shard, id transactionID) (*storagev1.Transaction, error) {
	value, err := store.Get(ctx, appliedKey(id))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseApplied(id, value)
}

// forgotten is what a commit forgets: nothing, or the transactions up to a key in the order of age.
type forgotten struct {
	asked bool
	front []byte
	at    time.Time
}

// writes remembers a transaction, and forgets some that are old.
func (t *transactions) writes(ctx context.Context, store engine.Shard, tx *transaction) ([]engine.Write, forgotten) {
	now := t.broker.wall()
	writes := []engine.Write{
		{Key: appliedKey(tx.id), Value: tx.remember(now), Firsts: len(tx.pub.appends)},
		{Key: ageKey(minuteOf(now), tx.id)},
		clockWrite(now.UnixMilli()),
	}
	return t.forget(ctx, store, writes, now)
}

// forget deletes what is older than it must be. Nothing is while the sidecar has not run for as long, so that a clock that was set forward meanwhile forgets
// nothing either. What cannot be read now is looked at the next time.
func (t *transactions) forget(ctx context.Context, store engine.Shard, writes []engine.Write, now time.Time) ([]engine.Write, forgotten) {
	t.mu.Lock()
	if t.mu.forgetting || now.Before(t.mu.forgetAt) || t.broker.clock.Now().Sub(t.broker.origin) < rememberFor {
		t.mu.Unlock()
		return writes, forgotten{}
	}
	t.mu.forgetting = true
	out := forgotten{asked: true, front: t.mu.front, at: now.Add(time.Minute)}
	t.mu.Unlock()
	old := minuteOf(now.Add(-rememberFor)) // that minute is not over for those of its end
	kept := len(writes)
	n := 0
	for pair, err := range store.Scan(ctx, []byte{keyAge}, out.front) {
		if err != nil {
			return writes[:kept], forgotten{asked: true, front: t.front(), at: now.Add(time.Second)}
		}
		minute, id, err := parseAgeKey(pair.Key)
		if err != nil || minute >= old {
			break
		}
		if n == forgetMost {
			out.at = now
			break
		}
		n++
		key := append([]byte(nil), pair.Key...)
		writes = append(writes, engine.Write{Key: key, Delete: true}, engine.Write{Key: appliedKey(id), Delete: true})
		out.front = append(key[:len(key):len(key)], 0)
	}
	return writes, out
}

func (t *transactions) front() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.front
}

// forgot notes what a commit has forgotten, if it was made.
func (t *transactions) forgot(f forgotten, err error) {
	if !f.asked {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.forgetting = false
	if err == nil {
		t.mu.front, t.mu.forgetAt = f.front, f.at
	}
}

// remember is what is stored of the transaction.
func (tx *transaction) remember(now time.Time) []byte {
	m := &storagev1.Transaction{Fingerprint: tx.fingerprint[:], TimeMs: now.UnixMilli(), Publishes: tx.pub.remember()}
	for _, w := range tx.cancels {
		gone := &storagev1.Transaction_Withdrawn{}
		for i, id := range w.ids {
			if gone.Canceled += uint64(w.found[id]); w.found[id] == 0 {
				gone.Unknown = append(gone.Unknown, uint32(i))
			}
		}
		m.Cancels = append(m.Cancels, gone)
	}
	value, err := proto.Marshal(m)
	if err != nil {
		panic(err) // of bytes and numbers: cannot be
	}
	return appendFirsts(value, len(tx.pub.appends))
}

// recall answers a transaction from what is remembered of the one that was applied.
func (tx *transaction) recall(m *storagev1.Transaction) (Committed, error) {
	if string(m.GetFingerprint()) != string(tx.fingerprint[:]) {
		return Committed{}, conflict()
	}
	out := Committed{Duplicate: true}
	next, err := firstsOf(m)
	if err != nil {
		return Committed{}, err
	}
	var earlier []int64
	for _, p := range m.GetPublishes() {
		placed, err := recallPlaced(p, next, earlier)
		if err != nil {
			return Committed{}, err
		}
		out.Placements = append(out.Placements, placed)
		earlier = append(earlier, placed.Offsets...)
	}
	for i, w := range m.GetCancels() {
		c := CancelResult{N: int(w.GetCanceled())}
		for _, n := range w.GetUnknown() {
			if i < len(tx.cancels) && int(n) < len(tx.cancels[i].ids) { // which are the same, as the fingerprint is
				c.Unknown = append(c.Unknown, tx.cancels[i].ids[n])
			}
		}
		out.Canceled = append(out.Canceled, c)
	}
	return out, nil
}

// loadClock returns the latest time of day that the memory has seen, in milliseconds since 1970, or 0.
func (t *transactions) loadClock(ctx context.Context) (int64, error) {
	return loadClock(ctx, t.broker.engine.View(transactionsShard))
}
