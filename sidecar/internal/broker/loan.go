package broker

import (
	"context"
	"errors"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// maxWithdrawn bounds the scheduled messages that one transaction cancels.
const maxWithdrawn = 100_000

// errAborted says that a transaction came to nothing after some of its shards had stepped. Nothing was written.
var errAborted = errors.New("broker: transaction aborted")

// loan is one shard's part in a transaction. While the shard's goroutine stands still for it, its state is the transaction's: nobody else steps it.
//
//	lender: looks whether it has what is asked for          ─ said ─▶
//	                                                        ◀ begin ─  false: it goes on as if nothing had been
//	lender: steps, and gives what has to be written         ─ said ─▶
//	                                                        ◀ over ─   how the commit ended
//
// Each channel has room for what is sent, so that nobody who sends waits.
type loan struct {
	shard engine.ShardID

	acks   []loanAck         // of a partition's shard
	add    []scheduledRecord // of the schedule
	cancel []*withdrawal     // of the schedule

	said  chan said
	begin chan bool
	over  chan error

	part engine.Part // what was said last
}

// loanAck is a lease that a transaction ends: token index of list of its acknowledgements.
type loanAck struct {
	lane        uint8
	token       dispatch.Token
	list, index int
}

type said struct {
	part engine.Part
	err  error
}

func newLoan(id engine.ShardID) *loan {
	return &loan{shard: id, said: make(chan said, 1), begin: make(chan bool, 1), over: make(chan error, 1)}
}

// refuse answers for a lender that does not serve.
func (l *loan) refuse(err error) { l.said <- said{err: err} }

// lendAll stands still for the transactions that asked for it, one after the other.
func (sv *serving) lendAll(ctx context.Context) error {
	if len(sv.loans) > 0 && len(sv.replies) > 0 { // replies go with the commit of what they answer, and a transaction's has no place for them
		ready := sv.ready(false)
		if err := sv.commit(ctx, ready); err != nil {
			return err
		}
		if err := sv.deliverAll(ctx, ready); err != nil {
			return err
		}
		sv.answer()
	}
	for len(sv.loans) > 0 {
		t := sv.loans[0]
		sv.loans = sv.loans[1:]
		if err := sv.lend(ctx, t.loan); err != nil {
			return err
		}
		sv.hear() // it may have taken longer than a lease
	}
	return nil
}

// lend stands still for one transaction. What calls of this turn have changed is saved with it. An error means that what the machine knows is not what is durable.
func (sv *serving) lend(ctx context.Context, l *loan) error {
	if lost := sv.holdsAll(l); lost != nil {
		l.said <- said{err: lost}
		sv.broker.turn(sv.shard)
		return nil
	}
	l.said <- said{}
	begin := <-l.begin
	sv.broker.turn(sv.shard)
	if !begin {
		return nil
	}
	sv.hear()
	sv.settleLoan(l)
	ready := sv.ready(false)
	writes, err := sv.writes(ctx, ready)
	l.said <- said{part: engine.Part{Shard: sv.store, Writes: writes}, err: err}
	err = <-l.over
	sv.broker.turn(sv.shard)
	if err != nil {
		return err
	}
	sv.saved(writes)
	if err := sv.deliverAll(ctx, ready); err != nil {
		return err
	}
	sv.answer()
	return nil
}

// enlist asks the schedule to stand still for a transaction.
func (s *schedule) enlist(l *loan) {
	s.mu.Lock()
	if !s.mu.serving {
		err := s.mu.fault
		s.mu.Unlock()
		l.refuse(err)
		return
	}
	s.mu.calls = append(s.mu.calls, &scheduleCall{loan: l})
	s.mu.Unlock()
	s.signal()
}

// lend stands still for a transaction. An error means that what is durable is not known.
func (sv *scheduling) lend(ctx context.Context, l *loan) error {
	writes, err := sv.loanWrites(ctx, l)
	l.said <- said{err: err}
	if err != nil {
		sv.broker.turn(sv.schedule)
		return nil
	}
	begin := <-l.begin
	sv.broker.turn(sv.schedule)
	if !begin {
		return nil
	}
	now := sv.broker.wall().UnixMilli()
	l.said <- said{part: engine.Part{Shard: sv.store, Writes: append(writes, clockWrite(now))}}
	err = <-l.over
	sv.broker.turn(sv.schedule)
	switch {
	case refused(err), errors.Is(err, errAborted):
		return nil
	case err != nil:
		return err
	}
	sv.mark = now
	return nil
}

// loanWrites is what a transaction changes in the schedule. A number that it draws and does not use leaves a gap.
func (sv *scheduling) loanWrites(ctx context.Context, l *loan) (writes []engine.Write, err error) {
	gone := make(map[scheduledPlace]bool)
	left := maxWithdrawn
	for i, w := range l.cancel {
		call, answer := &scheduleCall{topic: w.topic, cancel: w.ids}, new(scheduleAnswer)
		if writes, err = sv.cancelIDs(ctx, writes, call, answer, gone, left); err != nil {
			return nil, err
		}
		if answer.more {
			return nil, item(fail(BatchTooLarge, "ids", "the ids have too many messages: a transaction cancels fewer than %d", maxWithdrawn).
				with("bound", maxWithdrawn), "cancels", i)
		}
		for n, found := range answer.canceled {
			w.found[w.ids[n]] = found
			left -= found
		}
	}
	return sv.addAll(writes, l.add), nil
}
