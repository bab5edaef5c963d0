package server

import (
	"errors"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

var (
	errPanic     = errors.New("internal error: the sidecar's log has the details")
	errNoService = errors.New("no such service")
)

// codes is the one table from reasons to Connect codes. A reason that is not here is the caller's mistake: invalid_argument.
var codes = map[broker.Reason]connect.Code{
	broker.TopicUnknown:        connect.CodeNotFound,
	broker.GroupUnknown:        connect.CodeNotFound,
	broker.MessageUnknown:      connect.CodeNotFound,
	broker.RPCUnknown:          connect.CodeNotFound,
	broker.DedupeConflict:      connect.CodeAlreadyExists,
	broker.DedupeFull:          connect.CodeResourceExhausted,
	broker.TopicIncompatible:   connect.CodeFailedPrecondition,
	broker.QueueHasGroup:       connect.CodeFailedPrecondition,
	broker.SeekQueue:           connect.CodeFailedPrecondition,
	broker.BadOffset:           connect.CodeOutOfRange,
	broker.BadTime:             connect.CodeOutOfRange,
	broker.LeaseLost:           connect.CodeFailedPrecondition,
	broker.TransactionConflict: connect.CodeAlreadyExists,
	broker.SessionLost:         connect.CodeFailedPrecondition,
	broker.MessageTooLarge:     connect.CodeResourceExhausted,
	broker.HeadersTooLarge:     connect.CodeResourceExhausted,
	broker.BatchTooLarge:       connect.CodeResourceExhausted,
	broker.DiskFull:            connect.CodeResourceExhausted,
	broker.Draining:            connect.CodeUnavailable,
	broker.CoordinatorAway:     connect.CodeUnavailable,
	broker.PartitionAway:       connect.CodeUnavailable,
	broker.OutcomeUnknown:      connect.CodeUnknown,
	broker.DataLoss:            connect.CodeDataLoss,
	broker.DeadlineExceeded:    connect.CodeDeadlineExceeded,
	broker.Canceled:            connect.CodeCanceled,
	broker.Internal:            connect.CodeInternal,
	broker.BackupUnsupported:   connect.CodeUnimplemented,
	broker.BackupRunning:       connect.CodeFailedPrecondition,
}

func codeOf(r broker.Reason) connect.Code {
	if c, ok := codes[r]; ok {
		return c
	}
	return connect.CodeInvalidArgument
}

// wireError turns an error of the broker into a Connect error with its ErrorInfo.
func wireError(err error) error {
	if err == nil {
		return nil
	}
	e := broker.Refusal(err)
	out := connect.NewError(codeOf(e.Reason), e)
	if detail, detailErr := connect.NewErrorDetail(errorInfo(e)); detailErr == nil {
		out.AddDetail(detail)
	}
	return out
}

func errorInfo(e *broker.Error) *brokerv1.ErrorInfo {
	return &brokerv1.ErrorInfo{Reason: string(e.Reason), Field: e.Field, Metadata: e.Metadata}
}

func refusal(e *broker.Error) *brokerv1.Refusal {
	return &brokerv1.Refusal{Code: codeOf(e.Reason).String(), Message: e.Message, Info: errorInfo(e)}
}
