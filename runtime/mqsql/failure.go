package mqsql

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/typedmq/typedmq/runtime/mq"
)

// errNotLinked: an older release of this program may be the one that relays; a newer one, or another program, can send the message.
var errNotLinked = errors.New("this program does not have the message's generated code")

// descriptor returns the type of a message that this program was built with.
func descriptor(name string) (protoreflect.MessageDescriptor, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	message, ok := d.(protoreflect.MessageDescriptor)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: %w", name, errNotLinked)
	}
	return message, nil
}

// final reports whether the message was refused for what it is, so that no other attempt can change that by itself. What is wrong with its topic, as the
// sidecar knows it, may be repaired by a declaration, and what is wrong with the sidecar by itself.
func (a answer) final() bool {
	var e *mq.Error
	if !errors.As(a.err, &e) || errors.Is(a.err, mq.ErrUnknownOutcome) || errors.Is(a.err, mq.ErrBadAnnotation) {
		return false
	}
	switch e.Code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeAlreadyExists:
		return true
	case connect.CodeResourceExhausted:
		return errors.Is(a.err, mq.ErrTooLarge)
	default:
		return false
	}
}

// refused reports whether the message is certainly not published, for a reason that concerns it or its topic.
func (a answer) refused() bool {
	var e *mq.Error
	return errors.Is(a.err, errNotLinked) || errors.As(a.err, &e) && !errors.Is(a.err, mq.ErrUnknownOutcome) && !errors.Is(a.err, mq.ErrClosed)
}

// retryIn is how long a message waits that was refused so often before: half to all of a time that doubles with each.
func retryIn(refusals int, first, last time.Duration) time.Duration {
	limit := last
	if refusals < 32 && first<<refusals>>refusals == first {
		limit = min(last, first<<refusals)
	}
	return limit/2 + rand.N(limit/2+1)
}
