package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// scheduled is the offset of a message that has none yet.
const scheduled = -1

// draft translates a message of a Publish call. It refuses what a Draft cannot say: a Draft's zero is what the schema derives, where the request can
// tell that from a zero of its own. The bounds are the broker's.
func draft(m *brokerv1.Message) (broker.Draft, error) {
	d := broker.Draft{
		JSON: m.GetJson(), Payload: m.GetPayload(), Key: m.GetKey(), HasKey: m.Key != nil, Headers: m.GetHeaders(), ID: m.GetId(),
		Priority: m.GetPriority(),
	}
	if m.Priority != nil && d.Priority == 0 {
		return d, &broker.Error{Reason: broker.BadPriority, Field: "priority", Message: "priority 0: 1 is the lowest; leave it out for the schema's own"}
	}
	var err error
	if d.Delay, err = duration(m.GetDelay(), broker.BadDelay, "delay"); err != nil {
		return d, err
	}
	if d.TTL, err = duration(m.GetTtl(), broker.BadTTL, "ttl"); err != nil {
		return d, err
	}
	if m.Ttl != nil && d.TTL <= 0 {
		return d, &broker.Error{Reason: broker.BadTTL, Field: "ttl", Message: "ttl " + d.TTL.String() + ": must be longer than 0; leave it out for the topic's own"}
	}
	switch at := m.GetDeliverAt(); {
	case at != nil && m.Delay != nil:
		return d, &broker.Error{Reason: broker.BadDelay, Field: "delay", Message: "delay and deliver_at are both set: set one of them"}
	case at != nil:
		if err := at.CheckValid(); err != nil {
			return d, &broker.Error{Reason: broker.BadDelay, Field: "deliver_at", Message: "deliver_at is no valid timestamp: " + err.Error()}
		}
		if at.GetSeconds() < 0 {
			return d, &broker.Error{Reason: broker.BadDelay, Field: "deliver_at", Message: "deliver_at " + at.AsTime().Format(time.RFC3339Nano) +
				": must not lie before 1970"}
		}
		d.DeliverAt = at.AsTime()
	case m.Delay != nil && d.Delay == 0:
		d.DeliverAt = time.Unix(0, 0) // now, whatever the schema derives
	}
	return d, nil
}

// duration is a duration of a request, 0 if it is not set. One that is longer than a time.Duration can be is the longest.
func duration(v *durationpb.Duration, reason broker.Reason, field string) (time.Duration, error) {
	if v == nil {
		return 0, nil
	}
	if err := v.CheckValid(); err != nil {
		return 0, &broker.Error{Reason: reason, Field: field, Message: field + " is no valid duration: " + err.Error()}
	}
	return v.AsDuration(), nil
}
