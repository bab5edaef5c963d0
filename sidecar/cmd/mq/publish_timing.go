package main

import (
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// timingOptions are what the flags say about when, for how long and how urgently every message is delivered. Nil is not set.
type timingOptions struct {
	delay     *durationpb.Duration
	deliverAt *timestamppb.Timestamp
	ttl       *durationpb.Duration
	priority  *uint32
}

func (o timingOptions) set(m *brokerv1.Message) {
	m.Delay, m.DeliverAt, m.Ttl, m.Priority = o.delay, o.deliverAt, o.ttl, o.priority
}

// bindTiming adds the flags. The result reads them, once the command line was parsed.
func bindTiming(cmd *cobra.Command) func() (timingOptions, error) {
	f := cmd.Flags()
	var delay, ttl spanFlag
	f.Var(&delay, "delay", "keep every message back for so long: 90s, 36h, 10d, at most 10 years")
	deliverAt := f.String("deliver-at", "", "keep every message back until then: 2026-12-24T18:00:00Z")
	f.Var(&ttl, "ttl", "how long every message may wait to be delivered before it expires: 90s, 36h, 10d")
	priority := f.Uint32("priority", 0, "priority of every message, from 1, the lowest, instead of the one that its schema derives")
	return func() (o timingOptions, err error) {
		if f.Changed("delay") && f.Changed("deliver-at") {
			return o, usagef("--delay and --deliver-at exclude each other")
		}
		if f.Changed("delay") {
			o.delay = durationpb.New(time.Duration(delay))
		}
		if f.Changed("deliver-at") {
			at, err := time.Parse(time.RFC3339Nano, *deliverAt)
			if err != nil {
				return o, usagef("--deliver-at %q: must be a time with its zone, such as 2026-12-24T18:00:00Z", *deliverAt)
			}
			o.deliverAt = timestamppb.New(at)
		}
		if f.Changed("ttl") {
			o.ttl = durationpb.New(time.Duration(ttl))
		}
		if f.Changed("priority") {
			o.priority = priority
		}
		return o, nil
	}
}
