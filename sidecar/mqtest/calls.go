package mqtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// Step is an instant at which a sidecar can crash.
type Step int

// The steps of a message.
const (
	// BeforePublish: the message has arrived, nothing is stored. The SDK sends it again.
	BeforePublish Step = iota + 1
	// AfterPublish: the message is stored, its publisher does not know. The SDK sends it again, and it is stored once. A handler that had it by then has it once more, if
	// its outcome was not stored yet.
	AfterPublish
	// BeforeDelivery: the message is leased to a consumer and was not sent. It is delivered after the restart.
	BeforeDelivery
	// BeforeSettle: the handler has returned, its outcome is not stored. The message is delivered again.
	BeforeSettle
	// AfterSettle: the outcome is stored, the consumer does not know.
	AfterSettle
	// BeforeCommit: a transaction has arrived, nothing of it is applied. The SDK sends it again; if it acknowledges a message, that comes again.
	BeforeCommit
	// AfterCommit: a transaction is applied, who sent it does not know. The SDK sends it again, and it is applied once.
	AfterCommit
)

// String is the step in words.
func (s Step) String() string {
	if names := [...]string{"before publish", "after publish", "before delivery", "before settle", "after settle", "before commit", "after commit"}; s >= BeforePublish && int(s) <= len(names) {
		return names[s-1]
	}
	return fmt.Sprintf("Step(%d)", int(s))
}

// CrashAt makes the sidecar crash the next time that a message is at that step, once, and start again on what it had stored. Clients reconnect by themselves, and calls
// that wait for an answer go on; no attempt is used. A crash that has not happened at the end of the test, or at the next CrashAt, fails the test: it has tested nothing.
func (s *Sidecar) CrashAt(step Step) {
	s.t.Helper()
	s.mu.Lock()
	missed := s.mu.crashAt
	s.mu.crashAt = step
	s.mu.Unlock()
	s.checkCrashed(missed)
}

// checkCrashed fails the test if a crash was still to come at a step, 0 for none.
func (s *Sidecar) checkCrashed(missed Step) {
	s.t.Helper()
	if missed != 0 && !s.t.Failed() {
		s.t.Errorf("mqtest: the crash %v did not happen: no message was at that step after CrashAt", missed)
	}
}

// errCrashed is what a call returns whose sidecar is gone; nobody gets to see it.
var errCrashed = connect.NewError(connect.CodeUnavailable, errors.New("mqtest: the sidecar has crashed"))

// delivery is a message that was delivered to a group.
type delivery struct {
	subscription
	partition, priority uint32
	offset              int64
}

// calls watches the calls to a run, and carries out the modes that disturb them. It implements connect.Interceptor.
type calls struct {
	*Sidecar
	run *run
}

// crashIf crashes if this is the step. The call must go no further then: its answer is lost with the connection.
func (c *calls) crashIf(ctx context.Context, step Step) error {
	c.mu.Lock()
	now := c.mu.crashAt == step
	if now {
		c.mu.crashAt = 0
	}
	c.mu.Unlock()
	if !now {
		return nil
	}
	if step > AfterPublish {
		c.awaitAnswers(ctx)
	}
	c.crash(c.run)
	<-ctx.Done() // with the connection
	return errCrashed
}

// awaitAnswers returns when all publishes are answered: a message can be handled before its publisher has the answer, and steps of
// the one must not befall the other.
func (c *calls) awaitAnswers(ctx context.Context) {
	for {
		seen := c.changes.seen()
		c.mu.Lock()
		n, clients := c.mu.publishing, c.mu.clients
		c.mu.Unlock()
		if n == 0 {
			for _, client := range clients {
				_ = client.Flush(ctx) // an answer that was sent may not have arrived
			}
			return
		}
		select {
		case <-c.changes.after(seen):
		case <-ctx.Done():
			return
		}
	}
}

// publishing notes that publishes came or were answered.
func (c *calls) publishing(n int) {
	c.mu.Lock()
	c.mu.publishing += n
	c.mu.Unlock()
	c.changes.note()
}

// settling notes that a call that settles came or was answered: what it settles is stored before AfterSettle.
func (c *calls) settling(n int) {
	c.mu.Lock()
	c.mu.settling += n
	c.mu.Unlock()
	c.changes.note()
}

// around crashes before or after do, if one of these is the step.
func (c *calls) around(ctx context.Context, before, after Step, do func() error) error {
	if err := c.crashIf(ctx, before); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return c.crashIf(ctx, after)
}

// WrapUnary implements connect.Interceptor.
func (c *calls) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (answer connect.AnyResponse, err error) {
		do := func() error {
			answer, err = next(ctx, r)
			return err
		}
		switch m := r.Any().(type) {
		case *brokerv1.DeclareRequest:
			recall(m)
		case *brokerv1.PublishRequest:
			c.publishing(+1)
			defer c.publishing(-1)
			return answer, c.around(ctx, BeforePublish, AfterPublish, do)
		case *brokerv1.CommitRequest:
			c.settling(+1)
			defer c.settling(-1)
			if c.options.duplicate {
				c.loseFirst(ctx, m)
			}
			return answer, c.around(ctx, BeforeCommit, AfterCommit, func() error {
				c.publishing(+1)
				defer c.publishing(-1)
				return do()
			})
		case *brokerv1.SettleRequest:
			c.settling(+1)
			defer c.settling(-1)
			if c.options.duplicate {
				c.dropFirst(m)
			}
			return answer, c.around(ctx, BeforeSettle, AfterSettle, do)
		}
		return answer, do()
	}
}

// WrapStreamingClient implements connect.Interceptor. Clients are none of its business.
func (c *calls) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (c *calls) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		w := &stream{StreamingHandlerConn: conn, ctx: ctx, calls: c}
		defer w.left()
		return next(ctx, w)
	}
}

// stream is one stream's connection. Received messages come from one goroutine and sent ones from another.
type stream struct {
	connect.StreamingHandlerConn
	ctx    context.Context
	calls  *calls
	of     subscription
	joined bool
	owed   atomic.Int64 // answers to publishes
}

// Receive implements connect.StreamingHandlerConn.
func (w *stream) Receive(m any) error {
	if err := w.StreamingHandlerConn.Receive(m); err != nil {
		return err
	}
	switch m := m.(type) {
	case *brokerv1.PublishStreamRequest:
		w.owe(+1)
		return w.calls.crashIf(w.ctx, BeforePublish)
	case *brokerv1.RepliesRequest:
		w.calls.startWorkers() // somebody is about to wait for their answers
	case *brokerv1.ConsumeRequest:
		if start := m.GetStart(); start != nil {
			w.of = subscription{start.GetGroup(), start.GetTopic()}
		}
	}
	return nil
}

// Send implements connect.StreamingHandlerConn.
func (w *stream) Send(m any) error {
	switch m := m.(type) {
	case *brokerv1.PublishStreamResponse:
		defer w.owe(-1)
		if err := w.calls.crashIf(w.ctx, AfterPublish); err != nil {
			return err
		}
	case *brokerv1.ConsumeResponse:
		if d := m.GetDeliveries(); d != nil {
			if err := w.calls.crashIf(w.ctx, BeforeDelivery); err != nil {
				return err
			}
			w.calls.sent(w.of, d.GetSlices())
		}
		if m.GetJoined() != nil {
			w.joined = true
			w.calls.count(w.of, +1)
		}
	}
	return w.StreamingHandlerConn.Send(m)
}

// owe notes that a frame of publishes came or was answered.
func (w *stream) owe(n int) {
	w.owed.Add(int64(n))
	w.calls.publishing(n)
}

func (w *stream) left() {
	w.calls.publishing(-int(w.owed.Load()))
	if w.joined {
		w.calls.count(w.of, -1)
	}
}

// count notes that consumers of the run came or went.
func (c *calls) count(of subscription, n int) {
	c.mu.Lock()
	c.run.joined[of] += n
	c.mu.Unlock()
	c.changes.note()
}

// sent notes which message each lease is of.
func (s *Sidecar) sent(to subscription, slices []*brokerv1.Slice) {
	if !s.options.duplicate {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slice := range slices {
		tokens := slice.GetTokens()
		for i, offset := range slice.GetOffsets() {
			token := string(tokens[i*broker.TokenSize : (i+1)*broker.TokenSize])
			s.mu.deliveries[token] = delivery{to, slice.GetPartition(), slice.GetPriority(), offset}
		}
	}
}

// firstLocked reports whether this is the first final outcome of the message that a lease is of.
func (s *Sidecar) firstLocked(token []byte) bool {
	d, ok := s.mu.deliveries[string(token)]
	if !ok || s.mu.repeated[d] {
		return false
	}
	s.mu.repeated[d] = true
	return true
}

// loseFirst takes the leases from a transaction that acknowledges a message for the first time, so that it fails.
func (c *calls) loseFirst(ctx context.Context, m *brokerv1.CommitRequest) {
	lose := false
	c.mu.Lock()
	for _, a := range m.GetAcknowledgements() {
		for token := range slices.Chunk(a.GetTokens(), broker.TokenSize) {
			lose = c.firstLocked(token) || lose
		}
	}
	c.mu.Unlock()
	if !lose {
		return
	}
	for _, a := range m.GetAcknowledgements() {
		var releases []broker.Settlement
		for token := range slices.Chunk(a.GetTokens(), broker.TokenSize) {
			releases = append(releases, broker.Settlement{Token: token, Outcome: broker.Released})
		}
		// What is refused here is refused to the transaction too.
		_, _ = c.run.broker.Settle(ctx, a.GetGroup(), a.GetTopic(), nil, releases)
	}
}

// dropFirst makes a release of the first final outcome of each message.
func (s *Sidecar) dropFirst(m *brokerv1.SettleRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var acks []byte
	others := m.GetSettlements()
	for _, o := range others {
		switch o.GetOutcome().(type) {
		case *brokerv1.Settlement_Ack_, *brokerv1.Settlement_Reject_, *brokerv1.Settlement_Answer_:
			if s.firstLocked(o.GetToken()) {
				o.Outcome = &brokerv1.Settlement_Release_{Release: &brokerv1.Settlement_Release{}}
			}
		}
	}
	for all := m.GetAcks(); len(all) >= broker.TokenSize; all = all[broker.TokenSize:] {
		if token := all[:broker.TokenSize]; s.firstLocked(token) {
			others = append(others, &brokerv1.Settlement{
				Token: token, Outcome: &brokerv1.Settlement_Release_{Release: &brokerv1.Settlement_Release{}},
			})
		} else {
			acks = append(acks, token...)
		}
	}
	m.Acks, m.Settlements = acks, others
}
