package mq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// inbox is where the answers to a client's calls arrive: one stream for all of them, opened with the first call and open from then on, as far as
// the sidecar is there. No other client knows its name.
type inbox struct {
	client *Client
	name   [16]byte
	next   int64 // where to go on after a reconnect, -1 at first; of the goroutine in run
	late   atomic.Uint64

	mu struct {
		sync.Mutex
		started bool
		opened  chan struct{} // closed once the inbox was open: later answers are kept for it
		trouble error         // why it does not open
		last    uint64
		calls   map[uint64]chan *brokerv1.Reply
	}
}

func newInbox(c *Client) *inbox {
	in := &inbox{client: c, next: -1}
	_, _ = rand.Read(in.name[:]) // which never fails
	in.mu.opened = make(chan struct{})
	in.mu.calls = make(map[uint64]chan *brokerv1.Reply)
	return in
}

// LateReplies returns how many answers came after the end of their calls, and were dropped.
func (c *Client) LateReplies() uint64 { return c.inbox.late.Load() }

// begin returns the number of a new call, and where its answer will be, once the inbox is open.
func (in *inbox) begin(ctx context.Context) (uint64, <-chan *brokerv1.Reply, error) {
	in.mu.Lock()
	if in.client.ctx.Err() != nil {
		in.mu.Unlock()
		return 0, nil, ErrClosed
	}
	if !in.mu.started {
		in.mu.started = true
		in.client.pipelines.Go(func() { in.run(in.client.ctx) })
	}
	in.mu.Unlock()
	select {
	case <-in.mu.opened:
	case <-ctx.Done():
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.mu.trouble != nil {
			return 0, nil, fmt.Errorf("%w (the sidecar's last answer: %w)", context.Cause(ctx), in.mu.trouble)
		}
		return 0, nil, context.Cause(ctx)
	case <-in.client.ctx.Done():
		return 0, nil, ErrClosed
	}
	answer := make(chan *brokerv1.Reply, 1)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.last++
	in.mu.calls[in.mu.last] = answer
	return in.mu.last, answer, nil
}

// end forgets a call.
func (in *inbox) end(number uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.mu.calls, number)
}

// run receives answers, from one stream to the next, until ctx ends.
func (in *inbox) run(ctx context.Context) {
	var pause backoff
	for ctx.Err() == nil {
		err := in.receive(ctx, pause.reset)
		if ctx.Err() != nil {
			return
		}
		err = fromCall(err)
		var refused *Error
		if errors.As(err, &refused) && refused.Reason == reasonBadOffset {
			in.next = -1 // the sidecar's store is another one
		}
		in.mu.Lock()
		in.mu.trouble = err
		in.mu.Unlock()
		if pause.loud() {
			in.client.log.Warn("cannot receive answers at the moment, trying again", "failures", pause.failures+1, "error", err)
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// receive opens one stream and hands out what comes, until it ends.
func (in *inbox) receive(ctx context.Context, opened func()) error {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	request := &brokerv1.RepliesRequest{Inbox: in.name[:]}
	if in.next >= 0 {
		request.From = proto.Int64(in.next)
	}
	stream, err := in.client.broker.Replies(ctx, connect.NewRequest(request))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		if opened != nil {
			opened()
			opened = nil
			in.open()
		}
		for _, r := range stream.Msg().GetReplies() {
			in.deliver(r)
		}
		in.next = stream.Msg().GetNext()
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return errors.New("the sidecar ended the stream")
}

func (in *inbox) open() {
	in.mu.Lock()
	defer in.mu.Unlock()
	select {
	case <-in.mu.opened:
	default:
		close(in.mu.opened)
	}
}

// deliver hands an answer to its call, if that is still there.
func (in *inbox) deliver(r *brokerv1.Reply) {
	in.mu.Lock()
	answer := in.mu.calls[r.GetCall()]
	delete(in.mu.calls, r.GetCall())
	in.mu.Unlock()
	if answer == nil {
		in.late.Add(1)
		return
	}
	answer <- r
}
