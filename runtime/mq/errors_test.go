package mq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"connectrpc.com/connect"
)

func TestErrorsAreSorted(t *testing.T) {
	refused := func(code connect.Code, reason string) error { return &Error{Code: code, Reason: reason} }
	for _, test := range []struct {
		err              error
		transient, final bool
	}{
		{io.EOF, true, false},
		{fromCall(connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))), true, false},
		{fromCall(connect.NewError(connect.CodeInternal, errors.New("stream error"))), true, false},
		{fromCall(connect.NewError(connect.CodeUnknown, io.ErrUnexpectedEOF)), true, false},
		{fromCall(connect.NewError(connect.CodeUnimplemented, errors.New("404"))), false, true},
		{refused(connect.CodeUnavailable, "COORDINATOR_UNAVAILABLE"), true, false},
		{refused(connect.CodeUnavailable, "DRAINING"), true, false},
		{refused(connect.CodeFailedPrecondition, "LEASE_LOST"), true, false},
		{refused(connect.CodeFailedPrecondition, "SESSION_LOST"), true, false},
		{refused(connect.CodeUnknown, "OUTCOME_UNKNOWN"), true, false},
		{refused(connect.CodeInternal, "INTERNAL"), false, false},
		{refused(connect.CodeDataLoss, "DATA_LOSS"), false, false},
		{refused(connect.CodeResourceExhausted, "DISK_FULL"), false, false},
		{refused(connect.CodeFailedPrecondition, "TOPIC_INCOMPATIBLE"), false, true},
		{refused(connect.CodeFailedPrecondition, "QUEUE_HAS_GROUP"), false, true},
		{refused(connect.CodeInvalidArgument, "FILTER_SYNTAX"), false, true},
		{refused(connect.CodeNotFound, "RPC_UNKNOWN"), false, true},
		{refused(connect.CodeUnimplemented, "UNSUPPORTED_OPTION"), false, true},
	} {
		if err := fmt.Errorf("wrapped: %w", test.err); transient(err) != test.transient || final(err) != test.final {
			t.Errorf("%v: transient %v, final %v", test.err, transient(err), final(err))
		}
	}
}

func TestErrorText(t *testing.T) {
	e := &Error{Code: connect.CodeInvalidArgument, Reason: "BAD_HEADER", Field: "headers.a", Message: "no"}
	if got, want := e.Error(), "mq: invalid_argument BAD_HEADER (headers.a): no"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := ErrTooLarge.Error(), "mq: too large"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	cancelled := fromCall(connect.NewError(connect.CodeCanceled, context.Canceled))
	if !errors.Is(cancelled, context.Canceled) {
		t.Error("the transport's error is hidden")
	}
}
