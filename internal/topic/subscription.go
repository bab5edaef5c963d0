package topic

import (
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Publication is an rpc of a publisher service.
type Publication struct {
	// RPC is "package.Service/Method".
	RPC   string
	Topic *Topic
	// Delay is how long each message is kept back that does not say itself when it is delivered.
	Delay time.Duration
	// TTL is how long each message may wait to be delivered, 0 for the topic's own alone.
	TTL time.Duration
	// Reply is the message that answers a call, nil if messages are not answered.
	Reply protoreflect.MessageDescriptor
}

// Subscription is a group's interest in a topic: an rpc of a consumer service with its policy, where the rpc's settings stand
// over its service's and those over the defaults of this package.
type Subscription struct {
	// RPC is "package.Service/Method".
	RPC   string
	Group string
	Topic *Topic
	// Filter is a CEL expression that compiles, or empty.
	Filter string
	// FilterHeaders are the headers that Filter names in its text, sorted.
	FilterHeaders []string
	Retry         Retry
	DeadLetter    DeadLetter
	// MaxInFlight bounds the unsettled messages at one consumer.
	MaxInFlight uint32
	// ProcessingTimeout bounds one call of the handler.
	ProcessingTimeout time.Duration
	// Lease is how long a silent consumer keeps its messages.
	Lease time.Duration
	// Batch is nil for a handler of single messages.
	Batch     *Batch
	StartFrom StartFrom
	Handler   HandlerStyle
	// DeadLetterExpired buries a message that expires instead of dropping it.
	DeadLetterExpired bool
	// Reply is the message that answers a call, nil if messages are not answered.
	Reply protoreflect.MessageDescriptor
}

// Retry is exponential backoff between the attempts at one message.
type Retry struct {
	// MaxAttempts counts deliveries, the first included.
	MaxAttempts uint32
	// InitialInterval is the wait after the first attempt, MaxInterval the longest wait.
	InitialInterval, MaxInterval time.Duration
	// Coefficient is the factor from one wait to the next.
	Coefficient float64
	// Jitter is the share of the wait that is added at random at most.
	Jitter float64
}

// DeadLetter is the policy for messages that will not be tried again.
type DeadLetter struct {
	// Disabled drops them.
	Disabled bool
	// HoldKey holds later messages of the key until the dead letter is redriven or discarded.
	HoldKey bool
	// Retention is how long a dead letter is kept, 0 for ever.
	Retention time.Duration
}

// Batch bounds what one call of a batch handler gets.
type Batch struct {
	MaxMessages uint32
	MaxWait     time.Duration
	MaxBytes    uint32
}

// StartFrom says where a group that is new to a topic begins.
type StartFrom uint8

const (
	Earliest StartFrom = iota // at the oldest message that is kept
	Latest                    // at the first message published after the group was declared
)

func (s StartFrom) String() string {
	if s == Latest {
		return "latest"
	}
	return "earliest"
}

// HandlerStyle is the signature of a generated handler.
type HandlerStyle uint8

const (
	HandlerSimple   HandlerStyle = iota // the returned error settles the message
	HandlerDelivery                     // the handler settles the message itself
)

func (h HandlerStyle) String() string {
	if h == HandlerDelivery {
		return "delivery"
	}
	return "simple"
}
