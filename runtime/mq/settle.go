package mq

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Bounds of one Settle call: some 3 MiB at most.
const (
	maxSettledAcks   = 8192
	maxSettledOthers = 512
	maxSettledBytes  = 2 << 20 // of answers
)

// outcomes are decided and not yet confirmed by the sidecar.
type outcomes struct {
	acks   []byte // tokens, joined
	others []*brokerv1.Settlement
}

func (o outcomes) count() int { return len(o.acks)/tokenBytes + len(o.others) }

// reportLocked queues the outcome of a delivery, nil for a plain acknowledgement. The queue is bounded by the deliveries in hand.
func (s *session) reportLocked(d *delivery, outcome *brokerv1.Settlement) {
	if s.state.deaf {
		s.consumer.worker.counts.unsettled.Add(1)
		return
	}
	if outcome == nil {
		s.state.outcomes.acks = append(s.state.outcomes.acks, d.token[:]...)
	} else {
		outcome.Token = d.token[:]
		s.state.outcomes.others = append(s.state.outcomes.others, outcome)
	}
	signal(s.wake)
}

// settle reports outcomes, all there are at a time, until the session is lost and none can follow, or ctx is done.
func (s *session) settle(ctx context.Context) {
	var spare []byte
	for {
		batch, over := s.take(spare)
		switch {
		case batch.count() > 0:
			s.report(ctx, batch)
			if len(batch.acks) > 0 { // and spare is in use, or smaller
				spare = batch.acks[:0]
			}
		case over:
			return
		default:
			select {
			case <-s.wake:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			s.abandon()
			return
		}
	}
}

// take returns outcomes for one call. Over reports that there will be no more. If there are acknowledgements, those to come are
// written into spare, which nobody else may use from then on, and theirs are the caller's: once a call has returned, it has encoded its request.
func (s *session) take(spare []byte) (batch outcomes, over bool) {
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	queue := &s.state.outcomes
	if n := maxSettledAcks * tokenBytes; len(queue.acks) > n {
		batch.acks, queue.acks = queue.acks[:n:n], queue.acks[n:]
	} else if len(queue.acks) > 0 {
		batch.acks, queue.acks = queue.acks, spare
	}
	if n := leading(queue.others); len(queue.others) > n {
		batch.others, queue.others = queue.others[:n:n], queue.others[n:]
	} else {
		batch.others, queue.others = queue.others, nil
	}
	return batch, s.state.lost && s.state.handlers == 0
}

// leading is how many of the outcomes go into one call.
func leading(others []*brokerv1.Settlement) int {
	size := 0
	for i, o := range others {
		if size += len(o.GetAnswer().GetReply().GetPayload()); i == maxSettledOthers || i > 0 && size > maxSettledBytes {
			return i
		}
	}
	return len(others)
}

// abandon gives up what is queued and what may follow.
func (s *session) abandon() {
	s.consumer.mu.Lock()
	s.state.deaf = true
	left := s.state.outcomes.count()
	s.state.outcomes = outcomes{}
	for token, answer := range s.state.answers {
		delete(s.state.answers, token)
		answer <- ErrLeaseLost
	}
	s.consumer.mu.Unlock()
	s.giveUp(left, context.Cause(s.ctx))
}

func (s *session) giveUp(n int, err error) {
	if n == 0 {
		return
	}
	s.consumer.worker.counts.unsettled.Add(uint64(n))
	s.consumer.log.Warn("outcomes could not be settled, the messages will be delivered again", "count", n, "error", err)
}

// report settles a batch. It tries again while the sidecar is away, until ctx is done. A batch that is refused as a whole ends
// the session: that gives up leases which heartbeats would otherwise keep for nothing.
func (s *session) report(ctx context.Context, batch outcomes) {
	var pause backoff
	for batch.count() > 0 {
		left, err := s.send(ctx, batch)
		if err != nil && !transient(err) {
			s.giveUp(batch.count(), err)
			s.answerAll(batch, err)
			s.confirm(batch.count())
			s.lose(err)
			return
		}
		s.confirm(batch.count() - left.count())
		batch = left
		if err == nil {
			continue
		}
		if pause.loud() {
			s.consumer.log.Warn("cannot settle at the moment, trying again", "failures", pause.failures+1, "error", err)
		}
		if !pause.wait(ctx) {
			s.giveUp(batch.count(), err)
			s.confirm(batch.count())
			return
		}
	}
}

// confirm notes that n deliveries are off our hands.
func (s *session) confirm(n int) {
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	s.state.open -= n
	s.checkDrainedLocked()
}

// send makes one call. It returns what to try again, with the reason.
func (s *session) send(ctx context.Context, batch outcomes) (left outcomes, err error) {
	c := s.consumer
	response, err := c.worker.client.broker.Settle(ctx, connect.NewRequest(&brokerv1.SettleRequest{
		Group: c.subscription.Group, Topic: c.subscription.Topic, Acks: batch.acks, Settlements: batch.others}))
	if err != nil {
		return batch, fromCall(err)
	}
	refused := make(map[string]*Error, len(response.Msg.GetRefusals()))
	for _, r := range response.Msg.GetRefusals() {
		refused[string(r.GetToken())] = fromRefusal(r.GetRefusal())
	}
	lost := 0
	// again sorts one outcome by what the sidecar made of it, and reports whether to try again.
	again := func(token []byte, outcome *brokerv1.Settlement) bool {
		refusal := refused[string(token)]
		switch {
		case refusal == nil:
			c.worker.counts.add(outcome)
			s.answer(token, nil)
		case errors.Is(refusal, ErrLeaseLost):
			lost++
			s.answer(token, refusal)
		case transient(refusal):
			err = refusal
			return true
		default:
			s.giveUp(1, refusal)
			s.answer(token, refusal)
			s.lose(refusal) // heartbeats would keep a lease that nothing can settle
		}
		return false
	}
	acks := batch.acks
	if len(refused) == 0 && c.subscription.style != bySelf {
		c.worker.counts.acked.Add(uint64(len(acks) / tokenBytes))
		acks = nil
	}
	for ; len(acks) > 0; acks = acks[tokenBytes:] {
		if token := acks[:tokenBytes]; again(token, nil) {
			left.acks = append(left.acks, token...)
		}
	}
	for _, outcome := range batch.others {
		if again(outcome.GetToken(), outcome) {
			left.others = append(left.others, outcome)
		}
	}
	if lost > 0 {
		c.worker.counts.leaseLost.Add(uint64(lost))
		c.log.Warn("leases were lost before their outcomes were settled, the messages are delivered again", "count", lost)
	}
	return left, err
}
