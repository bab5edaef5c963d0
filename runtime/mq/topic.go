package mq

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Topic is a typed reference to a topic: its name, its message type, and how the key and headers follow from a message.
// Generated code makes topics.
type Topic[M proto.Message] struct {
	name       string
	newMessage func() M
	describe   func(M, *Record)
}

// NewTopic returns a reference to the topic of that name. Describe, which may be nil, sets the key, the id, the headers, the priority and the
// instant of delivery of a message's record; it must not keep the record, and must be safe for concurrent use.
func NewTopic[T any, P interface {
	*T
	proto.Message
}](name string, describe func(P, *Record)) Topic[P] {
	return Topic[P]{name: name, newMessage: func() P { return new(T) }, describe: describe}
}

// Name returns the topic's name.
func (t Topic[M]) Name() string { return t.name }

func (t Topic[M]) descriptor() protoreflect.MessageDescriptor {
	return t.newMessage().ProtoReflect().Descriptor()
}
