// Package mqvalidate checks messages against the rules that their .proto files state with protovalidate: a message that violates them is not
// published, and one that reaches a handler all the same becomes a dead letter.
//
//	client, err := mq.Dial(ctx, mq.WithPublishInterceptors(mqvalidate.ValidatePublishes(nil)))
//	worker := mq.NewWorker(client, mq.WithHandlerInterceptors(mqvalidate.ValidateHandlers(nil)))
package mqvalidate

import (
	"context"
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/typedmq/typedmq/runtime/mq"
)

// ValidatePublishes refuses a message that violates its rules, before anything is sent. The error is an [*mq.Error], [mq.ErrInvalid] by errors.Is, and
// has the [*protovalidate.ValidationError] in its tree. Rules that do not compile are an error of another kind. A nil validator is the global one.
func ValidatePublishes(v protovalidate.Validator) mq.PublishInterceptor {
	v = orGlobal(v)
	return func(next mq.PublishFunc) mq.PublishFunc {
		return func(ctx context.Context, p *mq.Publication) (mq.Receipt, error) {
			if err := check(v, p.Message()); err != nil {
				return mq.Receipt{}, err
			}
			return next(ctx, p)
		}
	}
}

// ValidateHandlers fails a message that violates its rules as [mq.Permanent] does, without a call of the handler; the other messages of its batch are
// handled. One whose rules do not compile is tried again. A nil validator is the global one.
func ValidateHandlers(v protovalidate.Validator) mq.HandlerInterceptor {
	v = orGlobal(v)
	return func(next mq.HandlerFunc) mq.HandlerFunc {
		return func(ctx context.Context, c *mq.Call) error {
			for i, m := range c.Messages() {
				err := check(v, m)
				if errors.Is(err, mq.ErrInvalid) {
					err = mq.Permanent(err)
				}
				c.Fail(i, err)
			}
			return next(ctx, c)
		}
	}
}

func orGlobal(v protovalidate.Validator) protovalidate.Validator {
	if v == nil {
		return protovalidate.GlobalValidator
	}
	return v
}

// check returns what is wrong with the message, nil if nothing is.
func check(v protovalidate.Validator, m proto.Message) error {
	err := v.Validate(m)
	var violated *protovalidate.ValidationError
	if !errors.As(err, &violated) {
		if err != nil {
			return fmt.Errorf("validate %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
		}
		return nil
	}
	refusal := &mq.Error{Code: connect.CodeInvalidArgument, Reason: "INVALID", Message: violated.Error()}
	if len(violated.Violations) > 0 {
		refusal.Field = protovalidate.FieldPathString(violated.Violations[0].Proto.GetField())
	}
	return &invalid{refusal, violated}
}

// invalid is a refusal that keeps what it comes from.
type invalid struct {
	refusal  *mq.Error
	violated *protovalidate.ValidationError
}

func (e *invalid) Error() string   { return e.refusal.Error() }
func (e *invalid) Unwrap() []error { return []error{e.refusal, e.violated} }
