package mq

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// policy is what a consumer needs to know of its subscription's policy. The sidecar keeps the rest to itself.
type policy struct {
	limit   int           // messages unsettled at this consumer, at least 1
	lease   time.Duration // how long the sidecar waits for a silent consumer
	timeout time.Duration // of one handler call
	levels  uint32        // of priority in the topic; 0 if the sidecar does not say
}

// Assumed of a sidecar that leaves them out.
const (
	defaultLimit   = 64
	maxLimit       = 65_536
	defaultLease   = 30 * time.Second
	defaultTimeout = 5 * time.Minute
)

// declareSubscriptions declares subscriptions of one file once and returns their policies.
func (c *Client) declareSubscriptions(ctx context.Context, subscriptions []*subscription) ([]policy, error) {
	files, err := c.fileSet(subscriptions[0].File)
	if err != nil {
		return nil, err
	}
	rpcs := make([]string, len(subscriptions))
	for i, s := range subscriptions {
		rpcs[i] = s.RPC
	}
	response, err := c.declare(ctx, files, nil, rpcs)
	if err != nil {
		return nil, err
	}
	policies := make([]policy, len(subscriptions))
	for i, s := range subscriptions {
		at := slices.IndexFunc(response.GetSubscriptions(), func(d *brokerv1.DeclaredSubscription) bool { return d.GetRpc() == s.RPC })
		if at < 0 {
			return nil, &Error{Code: connect.CodeInternal, Reason: "BAD_ANSWER", Message: "the sidecar did not declare " + s.RPC}
		}
		d := response.GetSubscriptions()[at]
		if d.GetGroup() != s.Group || d.GetTopic() != s.Topic {
			return nil, &Error{Code: connect.CodeFailedPrecondition, Reason: "SUBSCRIPTION_INCOMPATIBLE", Field: s.RPC, Message: fmt.Sprintf(
				"annotated as group %q and topic %q, the generated code has %q and %q: generate it again",
				d.GetGroup(), d.GetTopic(), s.Group, s.Topic)}
		}
		policies[i] = policy{limit: defaultLimit, lease: defaultLease, timeout: defaultTimeout}
		if n := d.GetMaxInFlight(); n > 0 {
			policies[i].limit = int(min(n, maxLimit))
		}
		policies[i].adopt(d.GetLease(), d.GetProcessingTimeout())
		for _, t := range response.GetTopics() {
			if t.GetName() == s.Topic {
				policies[i].levels = t.GetPriorityLevels()
			}
		}
	}
	return policies, nil
}

// adopt takes over the durations that are set.
func (p *policy) adopt(lease, timeout *durationpb.Duration) {
	if d := lease.AsDuration(); d > 0 {
		p.lease = d
	}
	if d := timeout.AsDuration(); d > 0 {
		p.timeout = d
	}
}
