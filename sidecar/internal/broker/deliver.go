package broker

import (
	"context"
	"errors"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// errTrimmed says that retention has deleted a message before the group settled it.
var errTrimmed = errors.New("broker: message was deleted by retention")

// grant lets the machine lease messages to the sessions that have credits, the one that this partition prefers first: so a partition
// stays with one consumer while that one keeps up, and others help when it does not. It returns false if nothing was leased.
func (sv *serving) grant() bool {
	granted := false
	now := sv.broker.now()
	for _, j := range sv.order {
		backlog := sv.machine.Backlog()
		if backlog == 0 {
			return granted
		}
		n := j.take(backlog)
		if n == 0 {
			continue
		}
		g := dispatch.Grant{Session: j.ID, Messages: n}
		_ = sv.machine.Step(now, &g)
		j.leases += g.Used
		j.give(n - g.Used)
		granted = granted || g.Used > 0
	}
	if sv.machine.Backlog() > 0 {
		sv.hungry.Store(true)
		for _, j := range sv.order { // credits that came back before the flag was up
			if j.credits.Load() > j.outstanding.Load() && !sv.broker.draining.Load() {
				sv.signal()
				break
			}
		}
	}
	return granted
}

// deliver hands leases to their sessions, a slice for each run of one session in one chunk.
func (sv *serving) deliver(ctx context.Context, all []dispatch.Delivery) error {
	sv.counted.Delivered += int64(len(all))
	var gone []dispatch.Token
	defer func() { sv.passTrimmed(gone) }()
	for len(all) > 0 {
		first := all[0]
		if first.Redriven {
			if err := sv.deliverRedriven(ctx, first); err != nil {
				return err
			}
			all = all[1:]
			continue
		}
		c, err := sv.chunkOf(ctx, first.Offset)
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
		slice := Slice{Partition: sv.partition, AppendMS: c.TimeMS}
		for _, d := range all[:n] {
			sv.add(&slice, d, c.framed(engine.Offset(d.Offset)))
		}
		sv.send(first.Session, slice)
		all = all[n:]
	}
	return nil
}

// add puts a delivery into a slice.
func (sv *serving) add(s *Slice, d dispatch.Delivery, framed []byte) {
	if d.Attempt > 1 && s.Attempts == nil {
		for range s.Offsets {
			s.Attempts = append(s.Attempts, 1)
		}
	}
	s.Offsets = append(s.Offsets, int64(d.Offset))
	if s.Attempts != nil || d.Attempt > 1 {
		s.Attempts = append(s.Attempts, d.Attempt)
	}
	s.Records = append(s.Records, framed...)
	s.Tokens = sv.group.tokens.append(s.Tokens, Token{
		Token: sv.token(d), Partition: sv.partition,
	})
}

func (sv *serving) send(id dispatch.SessionID, s Slice) {
	if j := sv.sessions[id]; j != nil {
		j.push(s)
	}
}

// deliverRedriven delivers a message whose record is kept beside the log.
func (sv *serving) deliverRedriven(ctx context.Context, d dispatch.Delivery) error {
	r, err := loadRedriven(ctx, sv.store, d.Offset)
	if err != nil {
		return err
	}
	slice := Slice{Partition: sv.partition, AppendMS: r.GetAppendTimeMs()}
	sv.add(&slice, d, engine.AppendRecord(nil, r.GetRecord()))
	sv.send(d.Session, slice)
	return nil
}

// passTrimmed settles messages that are gone. It is said in the log: the group was too slow for the topic's retention.
func (sv *serving) passTrimmed(gone []dispatch.Token) {
	if len(gone) == 0 {
		return
	}
	sv.broker.log.Warn("retention deleted messages before their group settled them", "group", sv.group.name,
		"topic", sv.group.topic.decl.Name, "partition", sv.partition, "first", gone[0].Offset, "messages", len(gone))
	_ = sv.machine.Step(sv.broker.now(), &dispatch.Ack{Tokens: gone})
	sv.signal()
}

func (sv *serving) token(d dispatch.Delivery) dispatch.Token {
	return dispatch.Token{Epoch: uint64(sv.claim.claim.Epoch), Offset: d.Offset, Lease: d.Lease}
}
