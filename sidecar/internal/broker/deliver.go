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
		sv.hungry.Store(true)
		for _, j := range candidates { // credits that came back before the flag was up
			if j.roomSince() {
				sv.signal()
				break
			}
		}
	}
	return granted
}

// deliver hands leases to their sessions, a slice for each run of one session in one chunk.
func (sv *serving) deliver(ctx context.Context, l *lane, all []dispatch.Delivery) error {
	sv.counted.Delivered += int64(len(all))
	var gone []dispatch.Token
	defer func() { sv.passTrimmed(l, gone) }()
	for len(all) > 0 {
		first := all[0]
		if first.Redriven {
			if err := sv.deliverRedriven(ctx, l, first); err != nil {
				return err
			}
			all = all[1:]
			continue
		}
		c, err := sv.chunkOf(ctx, l, first.Offset)
		if errors.Is(err, errTrimmed) {
			gone = append(gone, sv.token(first))
			all = all[1:]
			continue
		}
		if err != nil {
			return err
		}
		n := 1
		for n < len(all) && all[n].Session == first.Session && !all[n].Redriven && engine.Offset(all[n].Offset) >= c.First && engine.Offset(all[n].Offset) <= c.Last() {
			n++
		}
		slice := sv.slice(l, c.TimeMS)
		slice.Offsets, slice.Tokens, slice.Records = make([]int64, 0, n), make([]byte, 0, n*TokenSize), c.run(all[:n])
		for _, d := range all[:n] {
			sv.add(&slice, l, d)
		}
		sv.send(first.Session, slice)
		all = all[n:]
	}
	return nil
}

// slice is an empty slice of a lane.
func (sv *serving) slice(l *lane, appendMS int64) Slice {
	s := Slice{Partition: sv.partition, AppendMS: appendMS}
	if len(sv.lanes) > 1 {
		s.Priority = uint32(l.index) + 1
	}
	return s
}

// add puts a delivery into a slice that has its record.
func (sv *serving) add(s *Slice, l *lane, d dispatch.Delivery) {
	if d.Attempt > 1 && s.Attempts == nil {
		for range s.Offsets {
			s.Attempts = append(s.Attempts, 1)
		}
	}
	s.Offsets = append(s.Offsets, int64(d.Offset))
	if s.Attempts != nil || d.Attempt > 1 {
		s.Attempts = append(s.Attempts, d.Attempt)
	}
	s.Tokens = sv.group.tokens.append(s.Tokens, Token{
		Token: sv.token(d), Partition: sv.partition, Lane: l.index,
	})
}

func (sv *serving) send(id dispatch.SessionID, s Slice) {
	if j := sv.sessions[id]; j != nil {
		j.push(s)
	}
}

// deliverRedriven delivers a message whose record is kept beside the log.
func (sv *serving) deliverRedriven(ctx context.Context, l *lane, d dispatch.Delivery) error {
	r, err := loadRedriven(ctx, sv.store, laneNumber(l.index, d.Offset))
	if err != nil {
		return err
	}
	slice := sv.slice(l, r.GetAppendTimeMs())
	slice.Records = engine.AppendRecord(nil, r.GetRecord())
	sv.add(&slice, l, d)
	sv.send(d.Session, slice)
	return nil
}

func (sv *serving) token(d dispatch.Delivery) dispatch.Token {
	return dispatch.Token{Epoch: uint64(sv.claim.claim.Epoch), Offset: d.Offset, Lease: d.Lease}
}
