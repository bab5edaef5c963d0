package broker

import (
	"context"
	"errors"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// errTrimmed says that retention has deleted a message before the group settled it.
var errTrimmed = errors.New("broker: message was deleted by retention")

// grant lets the machine lease messages to the sessions that have credits, the one that this partition belongs to first: so a partition
// stays with one consumer while that one keeps up, and others help when it does not. It returns false if nothing was leased.
func (sv *serving) grant() bool {
	granted := false
	if sv.group.policy.Load().paused { // resuming replaces the policy, which wakes the shard
		return granted
	}
	now := sv.broker.now()
	sv.roomAt = 0
	if !sv.broker.roomToLease() {
		if sv.machine.Backlog() > 0 {
			sv.roomAt = now.Add(roomEvery)
		}
		return granted
	}
	candidates := sv.candidates()
	for _, j := range candidates {
		backlog := sv.machine.Backlog()
		if backlog == 0 {
			return granted
		}
		if sv.lease(now, j, backlog) > 0 {
			granted = true
		}
	}
	if sv.machine.Backlog() > 0 {
		sv.queueUp(sv.machine.Backlog())
		for _, j := range candidates { // credits that came back before it was in the queue
			if j.roomSince() {
				sv.signal()
				break
			}
		}
	}
	return granted
}

// deliver hands leases to their sessions, a run for each row of one session in one chunk.
func (sv *serving) deliver(ctx context.Context, l *lane, all []dispatch.Delivery) error {
	if len(all) == 0 {
		return nil
	}
	sv.counted.Delivered += int64(len(all))
	var gone []dispatch.Token
	defer func() { sv.passTrimmed(l, gone) }()
	leases := make([]lease, 0, len(all)) // of all runs
	var c *chunk
	for len(all) > 0 {
		first := all[0]
		if first.Redriven {
			if err := sv.deliverRedriven(ctx, l, first); err != nil {
				return err
			}
			all = all[1:]
			continue
		}
		if c == nil || !c.has(first.Offset) {
			var err error
			c, err = sv.chunkOf(ctx, l, first.Offset)
			if errors.Is(err, errTrimmed) {
				gone = append(gone, sv.token(first))
				all = all[1:]
				continue
			}
			if err != nil {
				return err
			}
		}
		n, from := 0, len(leases)
		for n < len(all) && all[n].Session == first.Session && !all[n].Redriven && c.has(all[n].Offset) {
			leases = append(leases, leaseOf(all[n]))
			n++
		}
		sv.send(first.Session, sv.newRun(l, c.TimeMS).of(c, leases[from:len(leases):len(leases)]))
		all = all[n:]
	}
	return nil
}

// newRun is an empty run of a lane.
func (sv *serving) newRun(l *lane, appendMS int64) Run {
	r := Run{Partition: sv.partition, AppendMS: appendMS, epoch: uint64(sv.claim.claim.Epoch), tokens: sv.group.tokens, lane: l.index}
	if len(sv.lanes) > 1 {
		r.Priority = uint32(l.index) + 1
	}
	return r
}

func (sv *serving) send(id dispatch.SessionID, r Run) {
	if j := sv.sessions[id]; j != nil {
		j.push(r)
	}
}

// deliverRedriven delivers a message whose record is kept beside the log.
func (sv *serving) deliverRedriven(ctx context.Context, l *lane, d dispatch.Delivery) error {
	stored, err := loadRedriven(ctx, sv.store, laneNumber(l.index, d.Offset))
	if err != nil {
		return err
	}
	r := sv.newRun(l, stored.GetAppendTimeMs())
	r.records, r.leases = engine.AppendRecord(nil, stored.GetRecord()), []lease{leaseOf(d)}
	r.size, r.again = len(r.records), d.Attempt > 1
	sv.send(d.Session, r)
	return nil
}

func (sv *serving) token(d dispatch.Delivery) dispatch.Token {
	return dispatch.Token{Epoch: uint64(sv.claim.claim.Epoch), Offset: d.Offset, Lease: d.Lease}
}
