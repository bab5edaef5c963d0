package server

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// scheduled is the offset of a message that has none yet.
const scheduled = -1

// draft translates a message of a Publish call. It refuses what a Draft cannot say: durations and instants that have no time.Duration, and those that are
// its zero, which is what the schema derives. All other bounds are the broker's.
func draft(m *brokerv1.Message) (broker.Draft, error) {
	d := broker.Draft{
		JSON: m.GetJson(), Payload: m.GetPayload(), Key: m.GetKey(), HasKey: m.Key != nil, Headers: m.GetHeaders(), ID: m.GetId(),
		Priority: m.GetPriority(), HasPriority: m.Priority != nil, HasTTL: m.Ttl != nil,
	}
	var err error
	if d.Delay, err = duration(m.GetDelay(), broker.RefuseDelay); err != nil {
		return d, err
	}
	if d.TTL, err = duration(m.GetTtl(), broker.RefuseTTL); err != nil {
		return d, err
	}
	switch at := m.GetDeliverAt(); {
	case at != nil && m.Delay != nil:
		return d, &broker.Error{Reason: broker.BadDelay, Field: "delay", Message: "delay and deliver_at are both set: set one of them"}
	case at != nil:
		if err := at.CheckValid(); err != nil {
			e := broker.RefuseDeliverAt("")
			e.Message = "deliver_at is no valid timestamp: " + err.Error()
			return d, e
		}
		if at.GetSeconds() < 0 {
			return d, broker.RefuseDeliverAt(at.AsTime().Format(time.RFC3339Nano))
		}
		d.DeliverAt = at.AsTime()
	case m.Delay != nil && d.Delay == 0:
		d.DeliverAt = time.Unix(0, 0) // now, whatever the schema derives
	}
	return d, nil
}

// duration is a duration of a request, 0 if it is not set. refuse is for one that is longer than a time.Duration can be, and so beyond any bound.
func duration(v *durationpb.Duration, refuse func(given string) *broker.Error) (time.Duration, error) {
	const most = math.MaxInt64 / int64(time.Second)
	if s := v.GetSeconds(); s > most || s < -most {
		return 0, refuse(seconds(v))
	}
	if v == nil {
		return 0, nil
	}
	if err := v.CheckValid(); err != nil {
		e := refuse("")
		e.Message = e.Field + " is no valid duration: " + err.Error()
		return 0, e
	}
	return v.AsDuration(), nil
}

// seconds shows a duration of any length.
func seconds(v *durationpb.Duration) string {
	if v.GetNanos() == 0 {
		return fmt.Sprintf("%ds", v.GetSeconds())
	}
	return fmt.Sprintf("%ds and %dns", v.GetSeconds(), v.GetNanos())
}
