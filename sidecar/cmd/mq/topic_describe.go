package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newTopicDescribe(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "describe TOPIC",
		Short: "Show what a topic is, who subscribes to it, and its .proto file",
		Long: `Show what a topic is, who subscribes to it, and its .proto file.

RETENTION BYTES  of each partition; in a topic with priorities, of each of its levels
RETRY            first wait ×factor ≤ longest wait +share that is added at random
START            where the group begins when it is new to the topic
DEAD LETTERS     kept or dropped; for how long; whether they hold their key; whether
                 messages that expire become dead letters`,
		Example: "  mq topic describe flights.departed",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return describeTopic(cmd, c, args[0]) },
	}
}

func describeTopic(cmd *cobra.Command, c *cli, name string) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.DescribeTopic, &adminv1.DescribeTopicRequest{Topic: name})
	if err != nil {
		return err
	}
	slices.SortFunc(answer.Subscriptions, func(a, b *adminv1.Subscription) int { return cmp.Compare(a.GetGroup(), b.GetGroup()) })
	out := cmd.OutOrStdout()
	if c.format == "json" {
		return printJSON(out, answer)
	}
	topic := answer.GetTopic()
	facts := newTable(out)
	facts.row("topic:", topic.GetName())
	facts.row("message:", topic.GetMessage())
	facts.row("delivery:", topic.GetDelivery())
	facts.row("ordering:", topic.GetOrdering())
	facts.row("key:", topic.GetKey())
	facts.row("partitions:", topic.GetPartitions())
	facts.row("priority levels:", topic.GetPriorityLevels())
	facts.row("retention:", span(topic.GetRetention()))
	facts.row("retention bytes:", unlessZero(topic.GetRetentionBytes()))
	facts.row("ttl:", span(topic.GetTtl()))
	facts.row("largest message:", fmt.Sprintf("%d bytes", topic.GetMaxMessageBytes()))
	facts.row("labels:", pairs(topic.GetLabels()))
	facts.row("messages held:", held(topic))
	for _, fault := range topicFaults(topic) {
		facts.row("fault:", fault)
	}
	if err := facts.flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	subs := newTable(out, "GROUP", "RPC", "FILTER", "IN FLIGHT", "ATTEMPTS", "RETRY", "LEASE", "TIMEOUT", "START", "DEAD LETTERS")
	for _, s := range answer.GetSubscriptions() {
		retry := fmt.Sprintf("%s ×%g ≤ %s +%g%%", span(s.GetInitialInterval()), s.GetBackoffCoefficient(), span(s.GetMaxInterval()), 100*s.GetJitter())
		subs.row(s.GetGroup(), s.GetRpc(), s.GetFilter(), s.GetMaxInFlight(), s.GetMaxAttempts(), retry, span(s.GetLease()), span(s.GetProcessingTimeout()),
			s.GetStartFrom(), deadLetterPolicy(s))
	}
	if err := subs.flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n%s\n", strings.TrimRight(printableText(answer.GetProtoText()), "\n"))
	return err
}

// deadLetterPolicy says what becomes of messages that are not tried again.
func deadLetterPolicy(s *adminv1.Subscription) string {
	if s.GetDeadLettersDisabled() {
		return "dropped"
	}
	policy := []string{"kept"}
	if s.GetDeadLetterRetention() != nil {
		policy[0] += " " + span(s.GetDeadLetterRetention())
	}
	if s.GetHoldKey() {
		policy = append(policy, "hold their key")
	}
	if s.GetDeadLetterExpired() {
		policy = append(policy, "expired ones too")
	}
	return strings.Join(policy, ", ")
}
