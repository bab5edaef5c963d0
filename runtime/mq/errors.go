package mq

import (
	"errors"
	"maps"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Refusals that programs tell apart. Each matches, by errors.Is, an [*Error] of the reason it names.
var (
	// ErrTopicUnknown: the sidecar has no such topic.
	ErrTopicUnknown error = refusal(reasonTopicUnknown)
	// ErrSchemaMismatch: the payload is not of the topic's message type.
	ErrSchemaMismatch error = refusal(reasonSchemaMismatch)
	// ErrTopicIncompatible: the topic is declared already, with another message, key, partition count, ordering or delivery.
	ErrTopicIncompatible error = refusal("TOPIC_INCOMPATIBLE")
	// ErrQueueHasGroup: a QUEUE topic serves one group, and it is another one.
	ErrQueueHasGroup error = refusal("QUEUE_HAS_GROUP")
	// ErrLeaseLost: the message is no longer leased to this consumer. It is also the cause of a handler's cancelled context
	// when the connection, and with it the lease, is lost.
	ErrLeaseLost error = refusal(reasonLeaseLost)
	// ErrTooLarge: a key, the headers, a message or a batch exceeds its bound: every reason that ends in "_TOO_LARGE".
	ErrTooLarge error = refusal(tooLargeSuffix)
	// ErrBadHeader: a header's name or value is malformed.
	ErrBadHeader error = refusal(reasonBadHeader)
	// ErrDedupeConflict: another message was published under the same dedupe id.
	ErrDedupeConflict error = refusal("DEDUPE_CONFLICT")
	// ErrDedupeFull: the sidecar can remember no more dedupe ids within their windows.
	ErrDedupeFull error = refusal("DEDUPE_FULL")
	// ErrMessageUnknown: no scheduled message has the id that is to be cancelled.
	ErrMessageUnknown error = refusal(reasonMessageUnknown)
	// ErrInvalid: the message violates its own rules. Package mqvalidate checks them.
	ErrInvalid error = refusal(reasonInvalid)
	// ErrBadAnnotation: the annotations of the topic or the subscription are not in order.
	ErrBadAnnotation error = refusal("BAD_ANNOTATION")
	// ErrUnsupported: the sidecar is too old for what an annotation asks for.
	ErrUnsupported error = refusal("UNSUPPORTED_OPTION")
	// ErrKeyMissing: the topic has a key, and the message none.
	ErrKeyMissing error = refusal("KEY_MISSING")
	// ErrBadDelay, ErrBadTTL and ErrBadPriority: what was asked for is out of bounds.
	ErrBadDelay    error = refusal(reasonBadDelay)
	ErrBadTTL      error = refusal(reasonBadTTL)
	ErrBadPriority error = refusal(reasonBadPriority)
	// ErrGroupUnknown: the topic has no such group.
	ErrGroupUnknown error = refusal(reasonGroupUnknown)
	// ErrDataLoss: what the sidecar has stored is damaged.
	ErrDataLoss error = refusal("DATA_LOSS")
	// ErrDiskFull: the sidecar has no room for new messages.
	ErrDiskFull error = refusal("DISK_FULL")
	// ErrDraining: the sidecar is going away. Publishers and workers wait for the next one by themselves.
	ErrDraining error = refusal(reasonDraining)
)

var (
	// ErrUnknownOutcome: a message or a transaction was sent and no answer came. It may have been published, or applied, or not.
	ErrUnknownOutcome = errors.New("mq: the outcome is unknown: it may or may not have happened")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("mq: client closed")
	// ErrProcessingTimeout is the cause of a handler's context that ends because the handler took too long.
	ErrProcessingTimeout = errors.New("mq: processing timeout")
	// ErrShutdown is the cause of a handler's context that ends because the worker stops and the drain timeout has passed.
	ErrShutdown = errors.New("mq: worker is shutting down")
)

// Reasons of the checks that this package does itself, before anything is sent. They are the sidecar's own for the same fault.
const (
	reasonMessageTooLarge = "MESSAGE" + tooLargeSuffix
	reasonKeyTooLarge     = "KEY" + tooLargeSuffix
	reasonHeadersTooLarge = "HEADERS" + tooLargeSuffix
	reasonBadHeader       = "BAD_HEADER"
	reasonBadID           = "BAD_NAME"
	reasonBadMessage      = "BAD_MESSAGE"
	reasonBadDelay        = "BAD_DELAY"
	reasonBadTTL          = "BAD_TTL"
	reasonBadPriority     = "BAD_PRIORITY"
	reasonInvalid         = "INVALID"
	reasonBatchTooLarge   = "BATCH" + tooLargeSuffix

	tooLargeSuffix = "_TOO_LARGE"
)

// Reasons that decide whether to try again.
const (
	reasonLeaseLost      = "LEASE_LOST"
	reasonSessionLost    = "SESSION_LOST"
	reasonDraining       = "DRAINING"
	reasonOutcomeUnknown = "OUTCOME_UNKNOWN"
	reasonTopicUnknown   = "TOPIC_UNKNOWN"
	reasonGroupUnknown   = "GROUP_UNKNOWN"
	reasonMessageUnknown = "MESSAGE_UNKNOWN"
	reasonSchemaMismatch = "SCHEMA_MISMATCH"
	reasonBadOffset      = "BAD_OFFSET"
)

// refusal is a sentinel: it stands for every Error of that reason.
type refusal string

func (r refusal) Error() string {
	return "mq: " + strings.ToLower(strings.TrimSpace(strings.ReplaceAll(string(r), "_", " ")))
}

// Error is a refusal: the request was understood and was not carried out.
type Error struct {
	// Code is the class of the refusal.
	Code connect.Code
	// Reason is stable and meant for programs: "TOPIC_UNKNOWN". Empty if the answer did not come from a sidecar.
	Reason string
	// Field is the offending field as a path, if there is one.
	Field string
	// Message is meant for people.
	Message string
	// Metadata holds the bounds and names that Message speaks of. It may be nil.
	Metadata map[string]string

	cause error
}

// Error describes the refusal in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("mq: ")
	b.WriteString(e.Code.String())
	if e.Reason != "" {
		b.WriteString(" " + e.Reason)
	}
	if e.Field != "" {
		b.WriteString(" (" + e.Field + ")")
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	return b.String()
}

// Is reports whether target is the sentinel of e's reason.
func (e *Error) Is(target error) bool {
	r, ok := target.(refusal)
	return ok && (string(r) == e.Reason || r == tooLargeSuffix && strings.HasSuffix(e.Reason, tooLargeSuffix))
}

// Unwrap returns the error of the transport, if that is where e comes from.
func (e *Error) Unwrap() error { return e.cause }

// undeclared reports whether what was used is not known to the sidecar. If it was just declared, that was to another one.
func undeclared(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Reason == reasonTopicUnknown || e.Reason == reasonGroupUnknown)
}

// invalid is a refusal by this package's own checks, with the code that the sidecar would give. A bound other than 0 goes into
// the metadata.
func invalid(reason, field, message string, bound int) *Error {
	e := &Error{Code: connect.CodeInvalidArgument, Reason: reason, Field: field, Message: message}
	if reason == reasonHeadersTooLarge || reason == reasonMessageTooLarge || reason == reasonBatchTooLarge {
		e.Code = connect.CodeResourceExhausted
	}
	if bound != 0 {
		e.Metadata = map[string]string{"bound": strconv.Itoa(bound)}
	}
	return e
}

// fromCall turns an error of a call into an *Error. An error that is not Connect's is returned as it is.
func fromCall(err error) error {
	var call *connect.Error
	if !errors.As(err, &call) {
		return err
	}
	e := &Error{Code: call.Code(), Message: call.Message(), cause: err}
	for _, detail := range call.Details() {
		value, err := detail.Value()
		if err != nil {
			continue
		}
		if info, ok := value.(*brokerv1.ErrorInfo); ok {
			e.Reason, e.Field, e.Metadata = info.GetReason(), info.GetField(), maps.Clone(info.GetMetadata())
			break
		}
	}
	return e
}

// fromRefusal turns a refusal that came as data into an *Error.
func fromRefusal(r *brokerv1.Refusal) *Error {
	e := &Error{
		Reason:   r.GetInfo().GetReason(),
		Field:    r.GetInfo().GetField(),
		Message:  r.GetMessage(),
		Metadata: maps.Clone(r.GetInfo().GetMetadata()),
	}
	if e.Code.UnmarshalText([]byte(r.GetCode())) != nil {
		e.Code = connect.CodeUnknown
	}
	return e
}

// transient reports whether the same request may succeed later, without anybody changing it: the connection broke, the
// sidecar is away, starting or draining, or it lost the state that the request was based on. A nil error is transient.
func transient(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return true // of the transport, not an answer
	}
	switch e.Reason {
	case reasonLeaseLost, reasonSessionLost, reasonDraining, reasonOutcomeUnknown:
		return true
	}
	switch e.Code {
	case connect.CodeUnavailable, connect.CodeCanceled, connect.CodeDeadlineExceeded, connect.CodeAborted:
		return true
	case connect.CodeUnknown, connect.CodeInternal:
		// Broken streams have these codes. With a reason it is an answer to this very request.
		return e.Reason == ""
	default:
		return false
	}
}

// final reports whether no reconnect can make a subscription work: it, or what it refers to, has to be changed. A sidecar in
// trouble of its own is waited for, however long.
func final(err error) bool {
	var e *Error
	if transient(err) || !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case connect.CodeUnknown, connect.CodeInternal, connect.CodeDataLoss, connect.CodeResourceExhausted:
		return false
	default:
		return true
	}
}
