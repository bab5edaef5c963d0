// Package topic says what the annotations of mq/v1/options.proto mean: descriptors in, checked topics and subscriptions out,
// with all defaults filled in and every fault at its place in the .proto file.
//
// The code generator uses it when code is generated, and the sidecar uses it on the descriptors that applications upload, so
// both agree. It does no I/O and keeps no state.
package topic

import (
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Set is what the annotations of some files declare. It is read-only.
type Set struct {
	// Topics are the topics that the files declare, in order of files and declaration.
	Topics []*Topic
	// Publications are the rpcs of publisher services.
	Publications []*Publication
	// Subscriptions are the rpcs of consumer services.
	Subscriptions []*Subscription

	byMessage map[protoreflect.FullName]*Topic
	policies  map[string]levels // of subscriptions, by rpc
}

// ByMessage returns the topic of a message. It knows the topics of the set and those its rpcs refer to in other files.
func (s *Set) ByMessage(name protoreflect.FullName) (*Topic, bool) {
	t, ok := s.byMessage[name]
	return t, ok
}

// Topic is a topic as its message declares it.
type Topic struct {
	Name string
	// Message is the one type of the topic's messages.
	Message    protoreflect.MessageDescriptor
	Partitions uint32
	Delivery   Delivery
	Ordering   Ordering
	// Retention is how long a PubSub topic keeps a message, 0 for ever. A Queue has none.
	Retention time.Duration
	// RetentionBytes is how much of a partition a PubSub topic keeps, 0 for no limit.
	RetentionBytes uint64
	// Key leads to the field that is the key. Nil: messages have no key.
	Key Path
	// Headers are copied from fields, in order of declaration.
	Headers []Header
	Dedupe  Dedupe
	// PriorityLevels is 1 for a topic without priorities.
	PriorityLevels uint32
	// Priority is the field with the message's priority, or nil.
	Priority protoreflect.FieldDescriptor
	// DeliverAt is the field with the instant before which the message is not delivered, or nil.
	DeliverAt protoreflect.FieldDescriptor
	// MaxMessageBytes bounds the encoded message.
	MaxMessageBytes uint32
	Aliases         []string
	Labels          map[string]string
	// TTL is how long a message may wait to be delivered, 0 for ever.
	TTL time.Duration
}

// Header is a header that a field is copied into.
type Header struct {
	Name  string
	Field protoreflect.FieldDescriptor
}

// Dedupe says how a second publish of a message is recognised.
type Dedupe struct {
	// Window is how long an id is remembered, 0 for a topic without deduplication.
	Window time.Duration
	// ID is the field with the id, or nil.
	ID protoreflect.FieldDescriptor
}

// Path leads from a message to a field in it or in a message inside it: all fields but the last are messages.
type Path []protoreflect.FieldDescriptor

// String is the path as one writes it, "customer.id", and "none" for no path.
func (p Path) String() string {
	if len(p) == 0 {
		return "none"
	}
	names := make([]string, len(p))
	for i, f := range p {
		names[i] = string(f.Name())
	}
	return strings.Join(names, ".")
}

// Delivery says who gets a message.
type Delivery uint8

const (
	PubSub Delivery = iota // every group gets every message
	Queue                  // one group, each message to one consumer, deleted once settled
)

func (d Delivery) String() string {
	if d == Queue {
		return "queue"
	}
	return "pubsub"
}

// Ordering says which messages wait for one another within a group.
type Ordering uint8

const (
	Unordered    Ordering = iota // none do
	PerKey                       // those of one key
	PerPartition                 // those of one partition
)

func (o Ordering) String() string {
	switch o {
	case PerKey:
		return "per_key"
	case PerPartition:
		return "per_partition"
	}
	return "none"
}
