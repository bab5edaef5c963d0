package mq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// DefaultCallTimeout is the deadline of a call whose context has none.
const DefaultCallTimeout = 30 * time.Second

// Caller makes calls: it publishes messages to one topic and waits for the answer of each. It is safe for concurrent use, and costs nothing to
// keep.
type Caller[M, R proto.Message] struct {
	publisher *Publisher[M]
	newReply  func() R
}

// NewCaller returns a caller of the topic, which is answered by messages of type R. Calls go through a [Client]: with another sender, which
// has no answer to wait for, each fails. Generated code makes callers.
func NewCaller[T any, R interface {
	*T
	proto.Message
}, M proto.Message](sender Sender, t Topic[M]) *Caller[M, R] {
	return &Caller[M, R]{publisher: NewPublisher(sender, t), newReply: func() R { return new(T) }}
}

// Call publishes a message and returns the answer to it. The call ends with ctx, after [DefaultCallTimeout] if ctx has no deadline, with an error
// that wraps that of the context: whether it was handled is not known then. A call that was not delivered by its deadline is not delivered
// any more. An answer that comes after the end of its call is dropped and counted, see [Client.LateReplies].
//
// The message waits in its topic like any other: for a consumer that is away, and in order if the topic has one. If a consumer vanishes while it
// handles the call, another gets it. The error of a handler is returned as an [*Error] with the code, reason and message that it gave; a
// refusal of the sidecar is one as well. A call of a topic that deduplicates, under an id that was used before, fails: it is not stored again, and the one answer is the
// first caller's. Options that say when a message is delivered or expires are refused: that follows from ctx.
func (c *Caller[M, R]) Call(ctx context.Context, msg M, opts ...PublishOption) (R, error) {
	reply, err := c.call(ctx, msg, opts)
	if err != nil {
		var none R
		return none, fmt.Errorf("call %q: %w", c.publisher.topic.name, err)
	}
	return reply, nil
}

func (c *Caller[M, R]) call(ctx context.Context, msg M, opts []PublishOption) (none R, err error) {
	client := c.publisher.client
	if client == nil {
		return none, &Error{Code: connect.CodeFailedPrecondition, Reason: "CALL_NEEDS_CLIENT", Message: "a call waits for its answer: make its publisher " +
			"with a Client, not with a transaction or an outbox"}
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultCallTimeout)
		defer cancel()
	}
	publication, err := c.publisher.prepare(msg, opts)
	if err != nil {
		return none, err
	}
	record := &publication.record
	if record.timing != nil {
		return none, invalid(reasonBadDelay, "delay", "a call is not kept back: somebody waits for it", 0)
	}
	if record.hasTTL {
		return none, invalid(reasonBadTTL, "ttl", "a call expires with its context: it has no ttl of its own", 0)
	}
	number, answer, err := client.inbox.begin(ctx)
	if err != nil {
		return none, err
	}
	defer client.inbox.end(number)
	deadline, _ := ctx.Deadline()
	record.replyTo, record.call = client.inbox.name[:], number
	record.ttl, record.hasTTL = max(time.Until(deadline).Truncate(time.Millisecond), time.Millisecond), true
	var receipt Receipt
	if client.publish != nil {
		receipt, err = client.publish(ctx, publication)
	} else {
		receipt, err = client.send(ctx, publication)
	}
	switch {
	case err != nil && !errors.Is(err, ErrUnknownOutcome):
		return none, err
	case err == nil && receipt.Duplicate: // what the client sends again by itself is told from that: this is another call
		return none, &Error{Code: connect.CodeAlreadyExists, Reason: "CALL_DUPLICATE", Field: "id", Message: "a call was made under this dedupe id before, and its answer " +
			"goes to whoever made that: repeat a call under an id of its own"}
	}
	// A call whose publishing has an unknown outcome may be answered in what is left of the time; mostly nothing is.
	select {
	case r := <-answer:
		reply := c.newReply()
		if err := decodeReply(r, reply); err != nil {
			return none, err
		}
		return reply, nil
	case <-ctx.Done():
		return none, errors.Join(err, context.Cause(ctx))
	case <-client.ctx.Done():
		return none, ErrClosed
	}
}
