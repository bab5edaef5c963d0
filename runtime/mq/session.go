package mq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/typedmq/typedmq/internal/hook"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// closeGrace is how long the sidecar may take to end a stream that the consumer has closed.
const closeGrace = 5 * time.Second

// session is one Consume stream and the leases that live as long as it does.
//
// Three goroutines serve it: read receives, control sends, settle reports outcomes by calls of their own, so that a stream full
// of deliveries cannot hold up acknowledgements. Handlers are called in goroutines of the consumer.
type session struct {
	consumer *consumer
	policy   policy // written by read before the first delivery
	limit    int    // of handlers
	window   int    // of unsettled messages, those that wait for a handler included; at least limit
	timedOut error  // cause of contexts that end by the processing timeout

	stream *connect.BidiStreamForClient[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]
	ctx    context.Context // of the stream
	lose   context.CancelCauseFunc
	opened time.Time
	heard  atomic.Int64 // when the sidecar last said something, in nanoseconds since opened

	handling context.Context // handlers' contexts end with it, and have its values
	endings  endings         // written by read before the first delivery

	joined  chan time.Duration // of capacity 1: the lease in force
	adjust  chan struct{}      // of capacity 1: the credit has changed
	drained chan struct{}      // closed when draining and nothing is unsettled
	wake    chan struct{}      // of capacity 1: settle has something to look at

	// Guarded by consumer.mu.
	state struct {
		joined      bool
		draining    bool        // nothing is started any more
		lost        bool        // the stream is gone
		interrupted bool        // handling has ended
		deaf        bool        // settle has ended
		handlers    int         // handlers that have not returned
		handlings   handlings   // their calls, but for those whose contexts have ended
		deadline    *time.Timer // calls expireDue; nil until it was needed
		armed       bool        // deadline is set
		active      int         // their deliveries that are not settled
		open        int         // deliveries whose outcome the sidecar has not confirmed
		early       int         // deliveries that their handlers settled themselves, and have not returned from
		waiting     waiting
		filling     hook.Timer // for a batch that is not full; nil until one was
		parked      int        // deliveries that wait for filling alone
		outcomes    outcomes
		answers     map[string]chan error // by token: handlers that wait for what becomes of their outcome
	}
}

// newSession returns a session whose stream is not open. It ends with interrupt.
func (c *consumer) newSession(l life) (s *session, interrupt context.CancelCauseFunc) {
	s = &session{
		consumer: c,
		policy:   c.policy,
		limit:    c.limit(),
		window:   c.window(),
		opened:   time.Now(),
		joined:   make(chan time.Duration, 1),
		adjust:   make(chan struct{}, 1),
		drained:  make(chan struct{}),
		wake:     make(chan struct{}, 1),
	}
	s.ctx, s.lose = context.WithCancelCause(l.streams)
	s.handling, interrupt = context.WithCancelCause(l.handling)
	s.endings = endings{returned: endedByReturn(s.handling), interrupted: ending{s.handling}, never: make(chan struct{})}
	s.setTimeout()
	context.AfterFunc(s.handling, s.interrupt)
	return s, interrupt
}

// session opens a stream and serves it until it ends. Joined reports that the sidecar took the consumer in; err is nil if the
// stream ended in good order.
func (c *consumer) session(l life) (joined bool, err error) {
	s, interrupt := c.newSession(l)
	settling, giveUp := context.WithCancel(l.streams)

	c.mu.Lock()
	c.mu.current = s
	credits := s.creditsLocked()
	c.mu.Unlock()
	s.stream = c.worker.client.broker.Consume(s.ctx)
	defer context.AfterFunc(s.ctx, func() { _ = s.stream.CloseRequest() })() // see lane.connect
	err = s.stream.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Start_{Start: &brokerv1.ConsumeRequest_Start{
		Group: c.subscription.Group, Topic: c.subscription.Topic, Credits: credits, ClientName: c.worker.client.name,
		CreditBytes: uint64(c.worker.options.maxBytes)}}})

	c.settlers.Go(func() {
		defer giveUp()
		s.settle(settling)
	})
	var control sync.WaitGroup
	if err == nil || errors.Is(err, io.EOF) { // of an EOF, Receive knows the reason
		control.Go(func() { s.control(l.stop, c.policy.lease) })
		err = s.read()
	} else {
		err = fromCall(err)
	}

	c.mu.Lock()
	c.mu.current = nil
	s.state.lost = true
	s.state.waiting = waiting{} // nobody started on them, and the lease is gone
	if s.state.filling != nil {
		s.state.filling.Stop()
	}
	s.parkLocked(0)
	joined = s.state.joined
	c.mu.Unlock()
	interrupt(ErrLeaseLost)
	signal(s.wake)
	// A lease that the sidecar has not yet noticed to be lost can still be settled. It is worth a few attempts.
	grace := time.AfterFunc(min(s.policy.lease, closeGrace), giveUp)
	context.AfterFunc(settling, func() { grace.Stop() })

	s.lose(err)
	control.Wait()
	_ = s.stream.CloseRequest()
	_ = s.stream.CloseResponse()
	return joined, err
}

// creditsLocked is how many messages may be unsettled here: places not taken by handlers whose message is settled already or
// belongs to an earlier session.
func (s *session) creditsLocked() uint32 {
	if s.state.draining {
		return 0
	}
	return uint32(max(0, s.window-s.consumer.mu.held+s.state.active))
}

// roomLocked is how many messages may wait for a handler. One that comes while a handler goes on that has settled already waits: it was
// leased before the sidecar heard of the credit without it.
func (s *session) roomLocked() int {
	if s.state.draining {
		return 0
	}
	return s.window - s.consumer.mu.held + s.state.early
}

// read receives until the stream ends.
func (s *session) read() error {
	for {
		response, err := s.stream.Receive()
		if err != nil {
			if s.ctx.Err() != nil {
				return context.Cause(s.ctx)
			}
			if !errors.Is(err, io.EOF) {
				return fromCall(err)
			}
			select {
			case <-s.drained:
				return nil
			default:
				return fmt.Errorf("the sidecar ended the stream: %w", err)
			}
		}
		s.heard.Store(int64(time.Since(s.opened)))
		switch m := response.GetMessage().(type) {
		case *brokerv1.ConsumeResponse_Joined_:
			s.join(m.Joined)
		case *brokerv1.ConsumeResponse_Deliveries_:
			s.join(nil) // does nothing unless the sidecar left out Joined
			if err := s.accept(m.Deliveries.GetSlices()); err != nil {
				return err
			}
		case *brokerv1.ConsumeResponse_Draining_:
			s.drain()
		}
	}
}

// join takes over the policy that the sidecar names. It is read by handlers, so only a first Joined, before all deliveries, counts.
func (s *session) join(m *brokerv1.ConsumeResponse_Joined) {
	s.consumer.mu.Lock()
	first := !s.state.joined
	s.state.joined = true
	s.consumer.mu.Unlock()
	if !first {
		return
	}
	s.policy.adopt(m.GetLease(), m.GetProcessingTimeout())
	s.setTimeout()
	s.joined <- s.policy.lease
	s.consumer.log.Info("consuming", "lease", s.policy.lease, "max_in_flight", s.window, "handlers", s.limit)
}

// setTimeout takes over the processing timeout of the policy.
func (s *session) setTimeout() {
	s.timedOut = fmt.Errorf("%w after %v", ErrProcessingTimeout, s.policy.timeout)
	s.endings.timedOut = endedBy(s.handling, s.timedOut)
}

// control sends heartbeats and credit, watches for silence, and closes the stream once it is drained. Lease is the lease in
// force until the sidecar names another.
func (s *session) control(stop context.Context, lease time.Duration) {
	beat := time.NewTimer(lease / 3)
	defer beat.Stop()
	stopping, drained := stop.Done(), s.drained
	var closed <-chan time.Time
	for {
		var request *brokerv1.ConsumeRequest
		select {
		case <-s.ctx.Done():
			return
		case lease = <-s.joined:
			beat.Reset(lease / 3)
		case <-beat.C:
			if silence := time.Since(s.opened) - time.Duration(s.heard.Load()); silence >= lease {
				s.lose(fmt.Errorf("the sidecar was silent for %v", silence))
				return
			}
			beat.Reset(lease / 3)
			request = heartbeat()
		case <-s.adjust:
			request = s.credit()
		case <-stopping:
			stopping = nil
			if !s.drain() {
				s.lose(context.Cause(stop))
				return
			}
			request = s.credit()
		case <-drained:
			drained = nil
			_ = s.stream.CloseRequest()
			timer := time.NewTimer(closeGrace)
			defer timer.Stop()
			closed = timer.C
		case <-closed:
			s.lose(errors.New("the sidecar does not end the stream"))
			return
		}
		if request != nil && closed == nil {
			// If this does not work, the stream has ended, and read finds out why.
			_ = s.stream.Send(request)
		}
	}
}

func heartbeat() *brokerv1.ConsumeRequest {
	return &brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Heartbeat_{Heartbeat: &brokerv1.ConsumeRequest_Heartbeat{}}}
}

func (s *session) credit() *brokerv1.ConsumeRequest {
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	return &brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Credit_{
		Credit: &brokerv1.ConsumeRequest_Credit{Credits: s.creditsLocked()}}}
}

// drain starts no more handlers and gives back what no handler has started on. It returns false if the consumer has not joined, so that there is nothing to drain.
func (s *session) drain() bool {
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	if !s.state.draining {
		s.state.draining = true
		s.startLocked()
		s.checkDrainedLocked()
	}
	return s.state.joined
}

// checkDrainedLocked closes drained when that is so. It is called when draining begins and when open falls to 0 after that.
func (s *session) checkDrainedLocked() {
	if !s.state.draining || s.state.open > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}
