package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// transaction is one on its way: checked, cut by whom it concerns, and brought to its end by a goroutine of its own. That asks every shard that has a part in it to
// stand still, the schedule among them, in the one order of their ids, so that no two transactions wait for each other; when all hold what they are to
// give up, each yields its writes, one commit makes them durable together with the records, and all go on.
type transaction struct {
	broker      *Broker
	id          transactionID
	fingerprint hash
	items       int

	pub     *publication
	groups  map[*shard]*loan // what is to be acknowledged
	cancels []*withdrawal

	done   chan struct{} // closed at the end, after what follows is set
	answer Committed
	err    error
}

type transactionID [TransactionIDSize]byte

// withdrawal is one Cancellation.
type withdrawal struct {
	topic engine.TopicID
	ids   []string       // distinct
	found map[string]int // entries of each id, set by the schedule
}

// String names the transaction's goroutine.
func (tx *transaction) String() string { return "transaction " + hex.EncodeToString(tx.id[:]) }

// item says which item of a transaction a refusal is about.
func item(err *Error, list string, i int) *Error {
	at := fmt.Sprintf("%s[%d]", list, i)
	if err.Field != "" {
		at += "." + err.Field
	}
	err.Field = at
	return err
}

func (tx *transaction) takePublishes(batches []Batch) *Error {
	tx.pub = tx.broker.prepare(batches)
	for i := range tx.pub.out {
		if err := tx.pub.out[i].Refused; err != nil {
			return item(err, "publishes", i)
		}
	}
	for _, r := range tx.pub.routes {
		tx.items += len(r.order)
	}
	return nil
}

func (tx *transaction) takeAcks(all []Acks) *Error {
	tx.groups = make(map[*shard]*loan)
	seen := make(map[groupToken]bool)
	for i, acks := range all {
		g, err := tx.broker.group(acks.Group, acks.Topic)
		if err != nil {
			return item(err, "acknowledgements", i)
		}
		if len(acks.Tokens)%TokenSize != 0 {
			return item(fail(BadToken, "tokens", "tokens of %d bytes: must be a multiple of %d", len(acks.Tokens), TokenSize), "acknowledgements", i)
		}
		for n := range len(acks.Tokens) / TokenSize {
			t, ok := g.tokens.read(acks.Tokens[n*TokenSize : (n+1)*TokenSize])
			if !ok || int(t.Partition) >= len(g.shards) || int(t.Lane) >= g.levels() {
				return item(fail(BadToken, "tokens", "token %d was not made by this group's sidecar, or is damaged", n), "acknowledgements", i).with("index", n)
			}
			tx.items++
			if seen[groupToken{g, t}] { // twice in one transaction is once
				continue
			}
			seen[groupToken{g, t}] = true
			s := g.shards[t.Partition]
			if tx.groups[s] == nil {
				tx.groups[s] = newLoan(s.id)
			}
			tx.groups[s].acks = append(tx.groups[s].acks, loanAck{lane: t.Lane, token: t.Token, list: i, index: n})
		}
	}
	return nil
}

type groupToken struct {
	group *group
	token Token
}

func (tx *transaction) takeCancels(all []Cancellation) *Error {
	for i, c := range all {
		t, err := tx.broker.topic(c.Topic)
		if err != nil {
			return item(err, "cancels", i)
		}
		if len(c.IDs) == 0 {
			return item(fail(BadRequest, "ids", "0 ids: must be at least 1"), "cancels", i)
		}
		tx.items += len(c.IDs)
		w := &withdrawal{topic: t.id, found: make(map[string]int, len(c.IDs))}
		for _, id := range c.IDs {
			if _, seen := w.found[id]; !seen {
				w.found[id] = 0
				w.ids = append(w.ids, id)
			}
		}
		tx.cancels = append(tx.cancels, w)
	}
	return nil
}

// run brings the transaction to its end.
func (tx *transaction) run(ctx context.Context) {
	tx.broker.turn(tx)
	answer, err := tx.apply(ctx)
	tx.end(answer, err)
}

// end tells everybody who waits what became of the transaction.
func (tx *transaction) end(answer Committed, err error) {
	tx.answer, tx.err = answer, err
	tx.broker.transactions.leave(tx)
	close(tx.done)
	tx.broker.stir()
}

// apply applies the transaction, unless it is known.
func (tx *transaction) apply(ctx context.Context) (Committed, error) {
	memory := tx.broker.transactions
	store, err := memory.own(tx)
	if err != nil {
		return Committed{}, err
	}
	if known, err := memory.find(ctx, store, tx.id); err != nil {
		return Committed{}, err
	} else if known != nil && !mutant.On(mutant.TransactionTwice) {
		return tx.recall(known)
	}
	tx.wake()
	if err := tx.broker.reserve(ctx, tx.pub); err != nil { // before anybody stands still: it may wait for others
		return Committed{}, err
	}
	for i := range tx.pub.out {
		if err := tx.pub.out[i].Refused; err != nil { // an id that another message has
			tx.pub.end(errAborted)
			return Committed{}, item(err, "publishes", i)
		}
	}
	firsts, err := tx.together(ctx, store)
	if errors.Is(err, engine.ErrUnknownOutcome) {
		answer, err := tx.resolve(ctx, store, err)
		tx.pub.end(err)
		return answer, err
	}
	tx.pub.end(err)
	if errors.Is(err, engine.ErrFenced) {
		memory.disown(store)
	}
	if err != nil {
		return Committed{}, err
	}
	tx.pub.place(firsts)
	return Committed{Placements: tx.pub.out, Canceled: tx.canceled()}, nil
}

// together has the shards stand still, and commits.
func (tx *transaction) together(ctx context.Context, store engine.Shard) ([]engine.Offset, error) {
	loans, err := tx.enlist()
	if err == nil {
		err = tx.ready(ctx, store)
	}
	if err != nil {
		release(loans)
		return nil, notBegun(err)
	}
	return tx.commit(ctx, store, loans)
}

// wake sees to it that the groups of the transaction serve. It may wait for the coordinator, so it comes before anything that others wait for.
func (tx *transaction) wake() {
	var last *group
	for _, s := range slices.SortedFunc(maps.Keys(tx.groups), func(a, b *shard) int { return compareShards(a.id, b.id) }) {
		if s.group != last {
			last = s.group
			last.wakeUp()
			last.await(tx.broker.running)
		}
	}
}

// enlist has all shards of the transaction stand still that hold what it takes from them. After an error those that it returns stand still.
func (tx *transaction) enlist() (loans []*loan, err error) {
	shards := slices.SortedFunc(maps.Keys(tx.groups), func(a, b *shard) int { return compareShards(a.id, b.id) })
	scheduled := func() error {
		if len(tx.pub.scheduled)+len(tx.cancels) == 0 {
			return nil
		}
		l := newLoan(scheduleShard)
		l.add, l.cancel = tx.pub.scheduled, tx.cancels
		tx.broker.schedule.enlist(l)
		if err := tx.await(l); err != nil {
			return err
		}
		loans = append(loans, l)
		return nil
	}
	asked := false
	for _, s := range shards {
		if !asked && compareShards(scheduleShard, s.id) < 0 { // its turn in the order
			asked = true
			if err := scheduled(); err != nil {
				return loans, err
			}
		}
		l := tx.groups[s]
		s.call(task{loan: l, done: l.refuse})
		if err := tx.await(l); err != nil {
			return loans, err
		}
		loans = append(loans, l)
	}
	if !asked {
		return loans, scheduled()
	}
	return loans, nil
}

// await waits for what a lender has to say.
func (tx *transaction) await(l *loan) error {
	s := <-l.said
	tx.broker.turn(tx)
	l.part = s.part
	return s.err
}

// ready looks for what would have the commit refused, while nothing was changed yet: a shard that has stepped and cannot save has to begin anew, and its leases end.
func (tx *transaction) ready(ctx context.Context, store engine.Shard) error {
	if !tx.broker.clock.Now().Before(tx.broker.cluster.Deadline()) {
		return errors.Join(errNotServing, errLeaseOver)
	}
	if len(tx.groups) == 0 {
		return nil
	}
	for _, a := range tx.pub.appends {
		if _, err := tx.broker.engine.Bounds(ctx, a.Log); err != nil {
			return err
		}
	}
	if memory := tx.broker.transactions; len(tx.pub.routes) > 0 && memory.full.Load() { // one that found no room made its shards begin anew: that is enough
		probe := engine.Part{Shard: store, Writes: []engine.Write{clockWrite(tx.broker.wall().UnixMilli())}, Yields: true}
		_, err := tx.broker.engine.Commit(ctx, []engine.Part{probe}, nil)
		memory.full.Store(errors.Is(err, engine.ErrFull))
		tx.broker.turn(tx)
		if err != nil {
			return err
		}
	}
	return nil
}

// release lets shards go on as if they had not been asked.
func release(loans []*loan) {
	for _, l := range loans {
		l.begin <- false
	}
}

// commit lets the lenders step, and makes durable what all of them give, with the records and the memory of the transaction. It tells them how that ended.
func (tx *transaction) commit(ctx context.Context, store engine.Shard, loans []*loan) (firsts []engine.Offset, err error) {
	var parts []engine.Part
	for i, l := range loans {
		l.begin <- true
		if err := tx.await(l); err != nil {
			for _, begun := range loans[:i+1] {
				begun.over <- fmt.Errorf("%w: %w", errAborted, err)
			}
			release(loans[i+1:])
			return nil, err
		}
		parts = append(parts, l.part)
	}
	memory := tx.broker.transactions
	remembered, forgotten := memory.writes(ctx, store, tx)
	parts = append(parts, tx.pub.parts...)
	parts = append(parts, engine.Part{Shard: store, Writes: remembered, Yields: len(tx.pub.routes) > 0})
	if mutant.On(mutant.TransactionVisibleEarly) && len(loans) > 0 {
		if firsts, err = tx.broker.engine.Commit(ctx, parts[len(loans):], tx.pub.appends); err == nil {
			_, err = tx.broker.engine.Commit(ctx, parts[:len(loans)], nil)
		}
	} else {
		firsts, err = tx.broker.engine.Commit(ctx, parts, tx.pub.appends)
	}
	memory.forgot(forgotten, err)
	if errors.Is(err, engine.ErrFull) {
		memory.full.Store(true)
	}
	tx.broker.turn(tx)
	for _, l := range loans {
		l.over <- err
	}
	return firsts, err
}

// resolve finds out what became of a commit whose outcome is not known. A new claim of the memory keeps it from being made from then on, so that what the memory
// says is so for good. What keeps it from finding out is told in words alone: a full disk, say, is not what became of the commit.
func (tx *transaction) resolve(ctx context.Context, store engine.Shard, why error) (Committed, error) {
	memory := tx.broker.transactions
	memory.disown(store)
	store, err := memory.own(tx)
	if err != nil {
		return Committed{}, fmt.Errorf("%w (%v)", why, err)
	}
	known, err := memory.find(ctx, store, tx.id)
	if err != nil {
		return Committed{}, fmt.Errorf("%w (%v)", why, err)
	}
	if known == nil {
		return Committed{}, fail(PartitionAway, "", "nothing was applied: try again (%v)", why)
	}
	answer, err := tx.recall(known)
	answer.Duplicate = false // it was this call
	return answer, err
}

// canceled says what became of the cancellations.
func (tx *transaction) canceled() (out []CancelResult) {
	for _, w := range tx.cancels {
		var c CancelResult
		for _, id := range w.ids {
			if c.N += w.found[id]; w.found[id] == 0 {
				c.Unknown = append(c.Unknown, id)
			}
		}
		out = append(out, c)
	}
	return out
}

// holdsAll tells whether a partition's leases are what a transaction takes them for.
func (sv *serving) holdsAll(l *loan) *Error {
	for _, a := range l.acks {
		if !sv.lanes[a.lane].machine.Holds(a.token) {
			return item(leaseLost(), "acknowledgements", a.list).with("index", a.index).
				with("group", sv.group.name).with("topic", sv.group.topicName()).with("partition", sv.partition).with("offset", a.token.Offset)
		}
	}
	return nil
}

// settleLoan acknowledges what a transaction does.
func (sv *serving) settleLoan(l *loan) {
	now := sv.broker.now()
	for lane := range sv.lanes {
		var ack dispatch.Ack
		for _, a := range l.acks {
			if int(a.lane) == lane {
				ack.Tokens = append(ack.Tokens, a.token)
			}
		}
		if len(ack.Tokens) > 0 {
			_ = sv.lanes[lane].machine.Step(now, &ack)
			sv.counted.Acknowledged += int64(ack.Settled)
		}
	}
}
