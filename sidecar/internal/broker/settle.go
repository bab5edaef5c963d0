package broker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

const (
	// MaxDelay bounds snoozes and retry delays that a consumer asks for.
	MaxDelay = 7 * 24 * time.Hour
	// MaxLease bounds how far a lease is extended at a time.
	MaxLease = 12 * time.Hour
	// MaxErrorBytes bounds what is kept of an error's text.
	MaxErrorBytes = 4 << 10
	// MaxSettlements bounds the tokens of one call.
	MaxSettlements = 65_536
)

// Outcome is what became of a delivery.
type Outcome uint8

// The outcomes.
const (
	Acked Outcome = iota
	Skipped
	Retried
	Rejected
	Undecodable
	Snoozed
	Released
	Extended
	Answered
)

// Settlement is the outcome of one delivery.
type Settlement struct {
	Token   []byte
	Outcome Outcome
	// Error is the text of Retried, Rejected and Undecodable.
	Error string
	// After is the delay of Snoozed, the new lease of Extended, and, if HasAfter, the wait of Retried.
	After    time.Duration
	HasAfter bool
	// Reply is that of Answered.
	Reply Reply
}

// SettleRefusal says that a token was refused.
type SettleRefusal struct {
	Token []byte
	Error *Error
}

// Settle applies outcomes and returns when they are durable. acks are tokens of TokenSize bytes each, joined. Refusals are per token.
func (b *Broker) Settle(ctx context.Context, groupName, topicName string, acks []byte, others []Settlement) ([]SettleRefusal, error) {
	g, refused := b.awake(ctx, groupName, topicName)
	if refused != nil {
		return nil, refused
	}
	if len(acks)%TokenSize != 0 {
		return nil, fail(BadToken, "acks", "acks of %d bytes: must be a multiple of %d", len(acks), TokenSize)
	}
	if n := len(acks)/TokenSize + len(others); n > MaxSettlements {
		return nil, fail(BatchTooLarge, "acks", "%d tokens in one call: at most %d are allowed", n, MaxSettlements).with("bound", MaxSettlements)
	}
	call := &settleCall{group: g, parts: make(map[uint32]*settlePart)}
	call.makeRoom(acks)
	for ; len(acks) > 0; acks = acks[TokenSize:] {
		raw := acks[:TokenSize:TokenSize]
		if t, ok := call.read(raw, "acks"); ok {
			acks := &call.part(t.Partition).acks[t.Lane]
			acks.Tokens = append(acks.Tokens, t.Token)
		}
	}
	for _, s := range others {
		t, ok := call.read(s.Token, "settlements.token")
		if !ok {
			continue
		}
		if err := s.check(); err != nil {
			call.refusals = append(call.refusals, SettleRefusal{s.Token, err})
			continue
		}
		part := call.part(t.Partition)
		part.others = append(part.others, tokenSettlement{t, s})
	}
	if err := call.run(ctx); err != nil {
		return nil, err
	}
	return call.refusals, nil
}

// check holds the outcome against its bounds.
func (s *Settlement) check() *Error {
	if len(s.Error) > MaxErrorBytes {
		s.Error = s.Error[:MaxErrorBytes]
	}
	s.Error = strings.ToValidUTF8(s.Error, "") // the cut may have gone through a character
	switch {
	case (s.Outcome == Snoozed || s.Outcome == Retried && s.HasAfter) && (s.After < 0 || s.After > MaxDelay):
		return fail(BadDelay, "settlements", "delay %v: must be 0 to %v", s.After, MaxDelay).with("bound", MaxDelay)
	case s.Outcome == Extended && (s.After < time.Second || s.After > MaxLease):
		return fail(BadLease, "settlements", "lease %v: must be 1s to %v", s.After, MaxLease).with("bound", MaxLease)
	case s.Outcome == Answered:
		return s.Reply.check()
	}
	return nil
}

// settleCall is one Settle, cut by partition.
type settleCall struct {
	group    *group
	parts    map[uint32]*settlePart
	refusals []SettleRefusal
}

type settlePart struct {
	acks    []dispatch.Ack // by lane
	others  []tokenSettlement
	refused []SettleRefusal // written in the shard's goroutine until it is done
	err     error
}

type tokenSettlement struct {
	token Token
	Settlement
}

func (c *settleCall) read(raw []byte, field string) (Token, bool) {
	t, ok := c.group.tokens.read(raw)
	if !ok || int(t.Partition) >= len(c.group.shards) || int(t.Lane) >= c.group.levels() {
		c.refusals = append(c.refusals, SettleRefusal{raw, fail(BadToken, field, "the token was not made by this group's sidecar, or is damaged")})
		return t, false
	}
	return t, true
}

func (c *settleCall) part(p uint32) *settlePart {
	if c.parts[p] == nil {
		c.parts[p] = &settlePart{acks: make([]dispatch.Ack, c.group.levels())}
	}
	return c.parts[p]
}

// makeRoom gives each part the room that its acks need, out of one piece of memory: tokens come by the thousand.
func (c *settleCall) makeRoom(acks []byte) {
	const worthwhile = 16
	if len(acks) < worthwhile*TokenSize {
		return
	}
	partitions, levels := len(c.group.shards), c.group.levels()
	counts := make([]int, partitions*levels)
	for raw := acks; len(raw) > 0; raw = raw[TokenSize:] {
		if p, lane := tokenPlace(raw); int(p) < partitions && int(lane) < levels {
			counts[int(p)*levels+int(lane)]++
		}
	}
	room := make([]dispatch.Token, 0, len(acks)/TokenSize)
	for i, n := range counts {
		if n > 0 {
			c.part(uint32(i / levels)).acks[i%levels].Tokens, room = room[:0:n], room[n:n:cap(room)]
		}
	}
}

// run lets every shard settle its part and waits for all of them.
func (c *settleCall) run(ctx context.Context) error {
	partitions := slices.Sorted(maps.Keys(c.parts))
	finished := make(chan struct{})
	var left atomic.Int64
	left.Store(int64(len(partitions)))
	for _, p := range partitions {
		part := c.parts[p]
		c.group.shards[p].call(task{
			do: func(sv *serving) { part.settle(sv) },
			done: func(err error) {
				part.err = err
				if left.Add(-1) == 0 {
					close(finished)
				}
			},
		})
	}
	if len(partitions) == 0 {
		return nil
	}
	select {
	case <-finished:
	case <-ctx.Done():
		return Refusal(ctx.Err())
	}
	for _, p := range partitions {
		part := c.parts[p]
		if part.err != nil {
			c.refuseAll(p, part)
			continue
		}
		c.refusals = append(c.refusals, part.refused...)
	}
	return nil
}

// refuseAll says of every token of a partition that its shard could not settle it.
func (c *settleCall) refuseAll(p uint32, part *settlePart) {
	why := Refusal(part.err)
	for lane, acks := range part.acks {
		for _, t := range acks.Tokens {
			c.refusals = append(c.refusals, SettleRefusal{c.group.tokens.append(nil, Token{t, p, uint8(lane)}), why})
		}
	}
	for _, s := range part.others {
		c.refusals = append(c.refusals, SettleRefusal{s.Settlement.Token, why})
	}
}

// settle steps the machine. It runs in the shard's goroutine.
func (part *settlePart) settle(sv *serving) {
	now := sv.broker.now()
	for i := range part.acks {
		acks := &part.acks[i]
		if len(acks.Tokens) == 0 {
			continue
		}
		_ = sv.lanes[i].machine.Step(now, acks)
		sv.counted.Acknowledged += int64(acks.Settled)
		for _, t := range acks.Refused {
			part.refused = append(part.refused, SettleRefusal{sv.group.tokens.append(nil, Token{t, sv.partition, uint8(i)}), leaseLost()})
		}
	}
	for _, s := range part.others {
		if err := sv.settleOne(now, s); err != nil {
			part.refused = append(part.refused, SettleRefusal{s.Settlement.Token, leaseLost()})
		}
	}
}

func leaseLost() *Error {
	return fail(LeaseLost, "", "the lease is over: it ran out, was settled already, or belongs to another owner")
}

// settleOne steps the machine by one outcome that is not a plain acknowledgement.
func (sv *serving) settleOne(now dispatch.Instant, s tokenSettlement) error {
	machine, token := sv.lanes[s.token.Lane].machine, s.token.Token
	step := func(ev dispatch.Event, count *int64) error {
		err := machine.Step(now, ev)
		if err == nil && count != nil {
			*count++
		}
		return err
	}
	switch s.Outcome {
	case Retried:
		after := s.After
		if !s.HasAfter {
			after = -1
		}
		return step(dispatch.Nack{Token: token, Error: s.Error, After: after}, &sv.counted.Retried)
	case Rejected:
		return step(dispatch.Reject{Token: token, Error: s.Error, Reason: dispatch.Permanent}, nil)
	case Undecodable:
		return step(dispatch.Reject{Token: token, Error: s.Error, Reason: dispatch.Undecodable}, nil)
	case Snoozed:
		return step(dispatch.Snooze{Token: token, Delay: s.After}, nil)
	case Released:
		return step(dispatch.Release{Token: token}, nil)
	case Extended:
		return step(dispatch.Extend{Token: token, Until: now.Add(s.After)}, nil)
	}
	ack := dispatch.Ack{Tokens: []dispatch.Token{token}}
	_ = machine.Step(now, &ack)
	if len(ack.Refused) > 0 {
		return dispatch.ErrLeaseLost
	}
	switch {
	case ack.Settled == 0: // it was settled before
	case s.Outcome == Skipped:
		sv.counted.Skipped++
	case s.Outcome == Answered:
		sv.replies = append(sv.replies, s.Reply)
		sv.counted.Acknowledged++
	default:
		sv.counted.Acknowledged++
	}
	return nil
}
