package mq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// maxErrorBytes is how much of an error's text is reported.
const maxErrorBytes = 4 << 10

// Permanent marks an error that another attempt cannot change: the message becomes a dead letter now. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

// MaxDelay bounds the delays of RetryAfter and Snooze: a longer one is cut to it.
const MaxDelay = 7 * 24 * time.Hour

// RetryAfter marks an error after which the message is tried again in d, instead of the retry policy's wait. The attempt
// counts. A negative d is 0, one over MaxDelay is that. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &retryAfter{err, min(max(d, 0), MaxDelay)}
}

// Snooze asks for the message to be delivered again in d, without using an attempt. A negative d is 0, one over
// MaxDelay is that.
func Snooze(d time.Duration) error { return &snooze{min(max(d, 0), MaxDelay)} }

// Skip acknowledges the message and has it counted as skipped for the reason.
func Skip(reason string) error { return &skip{reason} }

var errGoexit = errors.New("the handler ended its goroutine")

// outcome is an error that says itself what becomes of the message. The outermost one in an error's tree decides.
type outcome interface {
	error
	// settle puts the outcome in s. Text is that of the whole error.
	settle(s *brokerv1.Settlement, text string)
}

type permanent struct{ error }

func (e *permanent) Unwrap() error { return e.error }

func (e *permanent) settle(s *brokerv1.Settlement, text string) {
	s.Outcome = &brokerv1.Settlement_Reject_{Reject: &brokerv1.Settlement_Reject{
		Error: text, Reason: brokerv1.RejectReason_REJECT_REASON_PERMANENT}}
}

type retryAfter struct {
	error
	after time.Duration
}

func (e *retryAfter) Unwrap() error { return e.error }

func (e *retryAfter) settle(s *brokerv1.Settlement, text string) {
	s.Outcome = &brokerv1.Settlement_Retry_{Retry: &brokerv1.Settlement_Retry{Error: text, After: durationpb.New(e.after)}}
}

type snooze struct{ delay time.Duration }

func (e *snooze) Error() string { return fmt.Sprintf("snoozed for %v", e.delay) }

func (e *snooze) settle(s *brokerv1.Settlement, _ string) {
	s.Outcome = &brokerv1.Settlement_Snooze_{Snooze: &brokerv1.Settlement_Snooze{Delay: durationpb.New(e.delay)}}
}

type skip struct{ reason string }

func (e *skip) Error() string { return "skipped: " + e.reason }

func (e *skip) settle(s *brokerv1.Settlement, _ string) {
	s.Outcome = &brokerv1.Settlement_Ack_{Ack: &brokerv1.Settlement_Ack{SkipReason: cmp.Or(clip(e.reason), "skipped")}}
}

// undecodable is a payload that is not of the topic's message type.
type undecodable struct{ error }

func (e *undecodable) settle(s *brokerv1.Settlement, text string) {
	s.Outcome = &brokerv1.Settlement_Reject_{Reject: &brokerv1.Settlement_Reject{
		Error: text, Reason: brokerv1.RejectReason_REJECT_REASON_UNDECODABLE}}
}

// release gives a message back that no handler has seen, or whose handler was interrupted by the worker's end.
func release() *brokerv1.Settlement {
	return &brokerv1.Settlement{Outcome: &brokerv1.Settlement_Release_{Release: &brokerv1.Settlement_Release{}}}
}

func retry(text string) *brokerv1.Settlement {
	return &brokerv1.Settlement{Outcome: &brokerv1.Settlement_Retry_{Retry: &brokerv1.Settlement_Retry{Error: clip(text)}}}
}

// verdict is what a handler's return means, given the handler's context: nil for a plain acknowledgement.
func verdict(ctx context.Context, err error) *brokerv1.Settlement {
	if err == nil {
		return nil
	}
	s := &brokerv1.Settlement{}
	var o outcome
	if errors.As(err, &o) {
		o.settle(s, clip(err.Error()))
		return s
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrShutdown):
		return release()
	case errors.Is(cause, ErrProcessingTimeout):
		return retry(cause.Error())
	default:
		return retry(err.Error())
	}
}

// panicOutcome is the outcome of a panic that is being recovered from.
func panicOutcome(value any) *brokerv1.Settlement {
	return retry(fmt.Sprintf("panic: %v\n\n%s", value, debug.Stack()))
}

// clip makes text fit for a report: valid UTF-8 of at most 4 KiB.
func clip(text string) string {
	const mark = "…"
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxErrorBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxErrorBytes-len(mark)], "") + mark
}
