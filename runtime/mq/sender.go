package mq

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Sender is where a [Publisher]'s messages go: a [Client], which returns when they are durable; a transaction, which keeps them until it is
// committed; or an outbox of another package.
type Sender interface {
	// Send takes one message. The publication is valid until Send returns, and must not be sent by two calls at a time. An error means that
	// the message was not taken, unless it is [ErrUnknownOutcome].
	Send(ctx context.Context, p *Publication) (Receipt, error)
}

var _ Sender = (*Client)(nil)

// Send publishes a message, through the client's interceptors, and returns when it is durable: [Publisher.Publish] tells the rest.
func (c *Client) Send(ctx context.Context, p *Publication) (Receipt, error) {
	p = c.adopt(p)
	if c.publish != nil {
		return c.publish(ctx, p)
	}
	return c.send(ctx, p)
}

// adopt returns the publication as one of this client's topics.
func (c *Client) adopt(p *Publication) *Publication {
	if p.topic.client == c {
		return p
	}
	own := *p
	own.topic = c.topic(p.topic.name, p.topic.descriptor)
	return &own
}

// MarshalRecord checks the message and what travels beside it, and returns both in the encoding of a mq.broker.v1.Record, for senders that
// keep them elsewhere until [NewEncodedPublication] makes a publication of it again. Bounds that only the sidecar knows, those of the topic, are
// not checked. A delay counts from when the sidecar takes the message. One that is kept back and has no id is given one.
func (p *Publication) MarshalRecord() ([]byte, error) {
	if err := p.record.check(); err != nil {
		return nil, err
	}
	if err := p.record.resolve(p.topic.levels.Load()); err != nil {
		return nil, err
	}
	element, err := p.appendTo(nil, p.payloadSize())
	if err != nil {
		return nil, err
	}
	if len(element)+len(p.topic.name)+batchOverhead > maxFrameBytes {
		return nil, messageTooLarge(len(element), maxFrameBytes)
	}
	record, _ := protowire.ConsumeBytes(element[1:]) // without the field of the set, whose tag is one byte
	return record, nil
}

// NewEncodedPublication returns a publication of a record that [Publication.MarshalRecord] returned, for the topic of that name, whose message
// is of that type. The payload is sent as it is in the record, byte for byte, so that it is the same each time that it is sent. The error is an
// [*Error] if the record is malformed or out of bounds.
func NewEncodedPublication(topicName string, message protoreflect.MessageDescriptor, record []byte) (*Publication, error) {
	var stored brokerv1.Record
	if err := proto.Unmarshal(record, &stored); err != nil {
		return nil, invalid(reasonBadMessage, "record", err.Error(), 0)
	}
	p := &Publication{
		topic:   &topic{name: topicName, message: message.FullName(), descriptor: message},
		message: newMessage(message),
		payload: append([]byte{}, stored.GetPayload()...), // not nil
	}
	if err := proto.Unmarshal(p.payload, p.message); err != nil {
		return nil, invalid(reasonBadMessage, "payload", fmt.Sprintf("it is no %s: %v", message.FullName(), err), 0)
	}
	p.record.adopt(&stored)
	if err := p.record.check(); err != nil {
		return nil, err
	}
	if err := p.record.resolve(0); err != nil {
		return nil, err
	}
	return p, nil
}

// newMessage returns an empty message, of the Go type that is generated for it if there is one in this program.
func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	if t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName()); err == nil && t.Descriptor() == d {
		return t.New().Interface()
	}
	return dynamicpb.NewMessage(d)
}

// payloadSize is the length of the payload's encoding. If it is not there yet, appendTo must follow before the message changes.
func (p *Publication) payloadSize() int {
	if p.payload != nil {
		return len(p.payload)
	}
	return proto.Size(p.message)
}

// appendTo appends the record as one element of a RecordSet.
func (p *Publication) appendTo(b []byte, payloadSize int) ([]byte, error) {
	b, err := appendRecord(b, &p.record, p.message, p.payload, payloadSize)
	if err != nil {
		return nil, invalid(reasonBadMessage, "payload", err.Error(), 0)
	}
	return b, nil
}
