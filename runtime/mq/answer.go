package mq

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// maxReplyBytes bounds the payload of an answer.
const maxReplyBytes = 1 << 20

// HandleCall registers a handler that answers each message, which is a call: its caller waits for the answer. It is otherwise as [Handle]. The
// answer and the acknowledgement of the message are one: the caller gets an answer if and only if the call is not delivered again.
//
// An error is an answer too. An [*Error] or a Connect error keeps its code, reason and message; another error has the code unknown, a panic internal, a
// processing timeout deadline_exceeded, a payload that does not decode invalid_argument. So nothing is tried again and nothing becomes a
// dead letter, but for errors made by [RetryAfter] and [Snooze], which mean what they always do, and for consumers that vanish.
// A message that was published without a caller is acknowledged, or tried again, as by [Handle].
func HandleCall[T any, P interface {
	*T
	proto.Message
}, R proto.Message](w *Worker, s Subscription, handler func(context.Context, P) (R, error)) {
	var handle HandlerFunc
	if handler != nil {
		handle = func(ctx context.Context, c *Call) error {
			if c.Failure(0) != nil {
				return nil
			}
			reply, err := handler(ctx, c.items[0].message.(P))
			if err != nil {
				return err
			}
			if any(reply) == nil || !reply.ProtoReflect().IsValid() {
				return &Error{Code: connect.CodeInternal, Reason: reasonBadMessage, Message: "the handler returned neither an answer nor an error"}
			}
			if size := proto.Size(reply); size > maxReplyBytes {
				return messageTooLarge(size, maxReplyBytes)
			}
			c.reply = reply
			return nil
		}
	}
	w.register(&subscription{Subscription: s, style: answering, decode: decode[T, P], handle: handle})
}

// answer makes the answer of a call of what its handler returned. Outcomes that let the call be delivered again stay as they are.
func (d *delivery) answer(ctx context.Context, c *Call, outcome *brokerv1.Settlement) (answered *brokerv1.Settlement) {
	reply := d.replyAddress()
	if reply == nil {
		return outcome
	}
	defer func() {
		if p := recover(); p != nil { // in the methods of the error, or of the answer
			reply.Error = asRefusal(&Error{Code: connect.CodeInternal, Message: firstLine(errorOf(panicOutcome(p)))})
			answered = answerOf(reply)
		}
	}()
	switch o := outcome.GetOutcome().(type) {
	case nil:
		if c.reply == nil {
			reply.Error = asRefusal(&Error{Code: connect.CodeInternal, Reason: reasonBadMessage, Message: "an interceptor returned nil and there is no answer"})
			return answerOf(reply)
		}
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.reply)
		if err == nil {
			reply.Type, reply.Payload = string(c.reply.ProtoReflect().Descriptor().FullName()), payload
			return answerOf(reply)
		}
		reply.Error = asRefusal(err)
		return answerOf(reply)
	case *brokerv1.Settlement_Snooze_, *brokerv1.Settlement_Release_:
		return outcome
	case *brokerv1.Settlement_Retry_:
		if o.Retry.After != nil || errors.Is(context.Cause(ctx), ErrLeaseLost) {
			return outcome
		}
		reply.Error = failure(ctx, c, o.Retry.GetError())
	case *brokerv1.Settlement_Reject_:
		reply.Error = failure(ctx, c, o.Reject.GetError())
		if o.Reject.GetReason() == brokerv1.RejectReason_REJECT_REASON_UNDECODABLE {
			reply.Error = asRefusal(&Error{Code: connect.CodeInvalidArgument, Reason: reasonSchemaMismatch, Field: "payload", Message: o.Reject.GetError()})
		}
	default:
		reply.Error = failure(ctx, c, "the message was skipped")
	}
	return answerOf(reply)
}

// failure is the error of a handler as an answer. Text is what would be kept of it elsewhere, and all there is of a panic.
func failure(ctx context.Context, c *Call, text string) *brokerv1.Refusal {
	switch cause := context.Cause(ctx); {
	case c.failed == nil:
		return asRefusal(&Error{Code: connect.CodeInternal, Message: firstLine(text)})
	case errors.Is(cause, ErrProcessingTimeout):
		return asRefusal(&Error{Code: connect.CodeDeadlineExceeded, Message: cause.Error()})
	default:
		return asRefusal(c.failed)
	}
}

// firstLine leaves out the stack of a panic, which is no business of the caller.
func firstLine(text string) string {
	for i := range len(text) {
		if text[i] == '\n' {
			return text[:i]
		}
	}
	return text
}

// timedOut is the outcome of a delivery whose handler takes too long.
func (d *delivery) timedOut(cause error) *brokerv1.Settlement {
	if d.session.consumer.subscription.style == answering {
		if reply := d.replyAddress(); reply != nil {
			reply.Error = asRefusal(&Error{Code: connect.CodeDeadlineExceeded, Message: cause.Error()})
			return answerOf(reply)
		}
	}
	return retry(cause.Error())
}

func answerOf(r *brokerv1.Reply) *brokerv1.Settlement {
	return &brokerv1.Settlement{Outcome: &brokerv1.Settlement_Answer_{Answer: &brokerv1.Settlement_Answer{Reply: r}}}
}

// replyAddress is an answer to the call without its content, nil if nobody waits for one.
func (d *delivery) replyAddress() *brokerv1.Reply {
	r := &brokerv1.Reply{}
	for b := d.encoding; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		m := protowire.ConsumeFieldValue(number, kind, b[n:])
		if m < 0 {
			return nil
		}
		value := b[n : n+m]
		b = b[n+m:]
		switch {
		case number == recordReplyTo && kind == protowire.BytesType:
			r.ReplyTo, _ = protowire.ConsumeBytes(value)
		case number == recordCall && kind == protowire.VarintType:
			r.Call, _ = protowire.ConsumeVarint(value)
		}
	}
	if len(r.ReplyTo) == 0 {
		return nil
	}
	return r
}

// asRefusal is an error as data.
func asRefusal(err error) *brokerv1.Refusal {
	var own *Error
	if errors.As(err, &own) {
		return &brokerv1.Refusal{
			Code: own.Code.String(), Message: clip(own.Message),
			Info: &brokerv1.ErrorInfo{Reason: own.Reason, Field: own.Field, Metadata: own.Metadata},
		}
	}
	r := &brokerv1.Refusal{Code: connect.CodeUnknown.String(), Message: clip(err.Error())}
	var call *connect.Error
	if errors.As(err, &call) {
		r.Code, r.Message = call.Code().String(), clip(call.Message())
	}
	return r
}

// decodeReply makes of an answer what the caller gets. The message is new.
func decodeReply(r *brokerv1.Reply, into proto.Message) error {
	if r.GetError() != nil {
		return fromRefusal(r.GetError())
	}
	want := into.ProtoReflect().Descriptor().FullName()
	mismatch := func(format string, args ...any) error {
		return &Error{Code: connect.CodeInternal, Reason: reasonSchemaMismatch, Field: "payload", Message: fmt.Sprintf(format, args...)}
	}
	if got := r.GetType(); got != string(want) {
		return mismatch("the answer is a %s, the caller's file says %s", got, want)
	}
	if err := proto.Unmarshal(r.GetPayload(), into); err != nil {
		return mismatch("the answer does not decode: %v", err)
	}
	return nil
}
