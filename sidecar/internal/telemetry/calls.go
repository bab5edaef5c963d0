package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// LogFailures returns an interceptor for handlers that logs each call that failed: its procedure, code, reason and duration, never
// its error text, which may quote a message. A refusal that is the caller's to mend is logged at debug; one that the sidecar's operator
// should know of, at warn.
func LogFailures(log *slog.Logger) connect.Interceptor { return failures{log} }

type failures struct{ log *slog.Logger }

// WrapUnary implements connect.Interceptor.
func (f failures) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		began := time.Now()
		answer, err := next(ctx, r)
		f.ended(ctx, r.Spec().Procedure, began, err)
		return answer, err
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (f failures) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		began := time.Now()
		err := next(ctx, conn)
		f.ended(ctx, conn.Spec().Procedure, began, err)
		return err
	}
}

// WrapStreamingClient implements connect.Interceptor. Clients are none of its business.
func (f failures) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (f failures) ended(ctx context.Context, procedure string, began time.Time, err error) {
	if err == nil {
		return
	}
	code := connect.CodeOf(err)
	f.log.Log(ctx, level(code), "call failed", "procedure", procedure, "code", code.String(), "reason", reason(err), "took", time.Since(began))
}

func level(code connect.Code) slog.Level {
	switch code {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeDataLoss, connect.CodeUnavailable:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// reason is the stable reason of a refusal, empty if the error has none.
func reason(err error) string {
	var refused *connect.Error
	if !errors.As(err, &refused) {
		return ""
	}
	for _, detail := range refused.Details() {
		if value, err := detail.Value(); err == nil {
			if info, ok := value.(*brokerv1.ErrorInfo); ok {
				return info.GetReason()
			}
		}
	}
	return ""
}
