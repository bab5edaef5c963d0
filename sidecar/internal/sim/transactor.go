package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// transaction is one of a client's: what it is to do, as it is sent, and as the history tells of it.
type transaction struct {
	number int
	op     int
	asked  broker.Transaction
	told   []Event // invocations: of the records in order, then of the tokens, then of the ids
}

// compose makes a transaction of records for one topic or several, of tokens, and of scheduled messages that are taken back.
func (c *client) compose(g *Group, acks []choice) *transaction {
	w := c.w
	w.lastTx++
	t := &transaction{number: w.lastTx, op: w.op()}
	t.asked.ID = binary.BigEndian.AppendUint64(make([]byte, 8), uint64(t.number))
	for range 1 + c.rng.IntN(3) {
		topic := &w.plan.Topics[c.rng.IntN(len(w.plan.Topics))]
		var delay time.Duration
		if c.rng.IntN(6) == 0 {
			delay = c.between(time.Millisecond, 8*time.Second).Truncate(time.Millisecond)
		}
		var records []byte
		for range 1 + c.rng.IntN(2) {
			w.lastUID++
			e := Event{Kind: Publish, Op: t.op, Tx: t.number, Client: c.name, Topic: topic.Name, UID: w.lastUID, Key: c.key(), Offset: noOffset, After: delay}
			records = engine.AppendRecord(records, record(e.UID, e.Key, delay, 0))
			t.told = append(t.told, e)
		}
		t.asked.Publishes = append(t.asked.Publishes, broker.Batch{Topic: topic.Name, Records: records})
	}
	if len(acks) > 0 {
		a := broker.Acks{Group: g.Name, Topic: g.Topic}
		for _, ch := range acks {
			e := ch.Event
			e.Kind, e.Op, e.Tx, e.Client, e.Outcome, e.Result = Settle, t.op, t.number, c.name, Acked, OK
			t.told = append(t.told, e)
			a.Tokens = append(a.Tokens, ch.token...)
		}
		t.asked.Acks = []broker.Acks{a}
	}
	if n := len(c.takeable); n > 0 && c.rng.IntN(2) == 0 {
		e := c.takeable[n-1]
		c.takeable = c.takeable[:n-1]
		e.Kind, e.Op, e.Tx, e.Client, e.After, e.Offset, e.Result = Cancel, t.op, t.number, c.name, 0, noOffset, OK
		t.told = append(t.told, e)
		t.asked.Cancels = []broker.Cancellation{{Topic: e.Topic, IDs: []string{idOf(e.UID)}}}
	}
	return t
}

// transact commits a transaction, at a sidecar first and then at whichever is up, again and again while it is not known what became of it.
func (c *client) transact(p *process, t *transaction) {
	w := c.w
	for _, e := range t.told {
		w.record(e)
	}
	r, done := Unknown, broker.Committed{}
	began := false // a try was sent and its outcome is not known
	for try := 0; try < 6; try++ {
		if try > 0 {
			w.stats.Transactions["sent again"]++
			if !w.rest(c.between(0, 2*time.Second), c.name+" waits") {
				break
			}
			p = c.sidecar(c.rng.IntN(8))
		}
		var lost bool
		if done, r, lost = c.commit(p, t); r == Unknown || r == Fail && began && !lost { // one that was sent before may still come
			r = Unknown
			began = began || p != nil
			continue
		}
		break
	}
	w.stats.Transactions[r.String()]++
	c.complete(t, r, done)
	if r == OK && c.rng.IntN(8) == 0 { // the answer was lost, as far as the client is concerned
		again, r, _ := c.commit(c.sidecar(c.rng.IntN(8)), t)
		switch {
		case r == Fail && w.live[0] != nil && c.refusedFor != "" && c.refusedFor != broker.DiskFull:
			w.record(Event{Kind: Unservable, Bound: 13, Detail: "a transaction that was applied is refused when it comes again: " + string(c.refusedFor), Tx: t.number})
		case r == OK && !again.Duplicate:
			w.record(Event{Kind: Unservable, Bound: 13, Detail: "a transaction was applied again", Tx: t.number})
		case r == OK && !slices.EqualFunc(again.Placements, done.Placements, samePlaces):
			w.record(Event{Kind: Unservable, Bound: 13, Detail: "a transaction that comes again gets another answer", Tx: t.number})
		}
	}
}

func samePlaces(a, b broker.Placement) bool {
	return slices.Equal(a.Partitions, b.Partitions) && slices.Equal(a.Offsets, b.Offsets)
}

// commit sends a transaction once. lost says that it is refused for good: a lease is over.
func (c *client) commit(p *process, t *transaction) (done broker.Committed, r Result, lost bool) {
	type answer struct {
		done broker.Committed
		err  error
	}
	c.refusedFor = ""
	got, r := call(c, p, func(ctx context.Context, b *broker.Broker) answer {
		mine := t.asked
		mine.Publishes, mine.Acks = slices.Clone(mine.Publishes), slices.Clone(mine.Acks)
		for i := range mine.Publishes {
			mine.Publishes[i].Records = bytes.Clone(mine.Publishes[i].Records)
		}
		for i := range mine.Acks {
			mine.Acks[i].Tokens = bytes.Clone(mine.Acks[i].Tokens)
		}
		done, err := b.Commit(ctx, mine)
		for _, p := range mine.Publishes { // the buffers are the caller's again
			for i := range p.Records {
				p.Records[i] = 0xa5
			}
		}
		for _, a := range mine.Acks {
			for i := range a.Tokens {
				a.Tokens[i] = 0xa5
			}
		}
		return answer{done, err}
	})
	if r == OK && got.err != nil {
		r, c.refusedFor = judge(got.err), broker.Refusal(got.err).Reason
		lost = c.refusedFor == broker.LeaseLost
	}
	return got.done, r, lost
}

// complete tells what became of a transaction.
func (c *client) complete(t *transaction, r Result, done broker.Committed) {
	n, batch := 0, 0 // record n of the batch
	for _, e := range t.told {
		e.Result = r
		switch e.Kind {
		case Publish:
			e.Kind, e.Detail = Published, string(c.refusedFor)
			if r == OK {
				for n == len(done.Placements[batch].Offsets) {
					n, batch = 0, batch+1
				}
				e.Partition, e.Offset = done.Placements[batch].Partitions[n], done.Placements[batch].Offsets[n]
				n++
				if e.After > time.Second && idOf(e.UID) != "" {
					c.takeable = append(c.takeable, e)
				}
			}
		case Settle:
			e.Kind = Settled
		case Cancel:
			e.Kind = Canceled
			if r == OK && len(done.Canceled[0].Unknown) > 0 {
				e.Result = Fail
			}
		}
		c.w.record(e)
	}
}
