package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newTopics(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "topics",
		Short: "List the topics",
		Long: `List the topics that applications have declared.

MESSAGES counts the offsets that the log holds. An offset is never reused, so it
is an upper bound where some of them were never used.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listTopics(cmd, c) },
	}
}

func listTopics(cmd *cobra.Command, c *cli) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.ListTopics, &adminv1.ListTopicsRequest{})
	if err != nil {
		return err
	}
	slices.SortFunc(answer.Topics, func(a, b *adminv1.Topic) int { return cmp.Compare(a.GetName(), b.GetName()) })
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	t := newTable(cmd.OutOrStdout(), "NAME", "PARTITIONS", "DELIVERY", "ORDERING", "KEY", "RETENTION", "MESSAGES", "GROUPS")
	for _, topic := range answer.GetTopics() {
		t.row(topic.GetName(), topic.GetPartitions(), topic.GetDelivery(), topic.GetOrdering(), topic.GetKey(), span(topic.GetRetention()),
			held(topic), strings.Join(topic.GetGroups(), ", "))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, topic := range answer.GetTopics() {
		for _, fault := range topicFaults(topic) {
			fmt.Fprintf(cmd.ErrOrStderr(), "mq: %s\n", fault)
		}
	}
	return nil
}

// held counts the offsets that a topic's log holds.
func held(topic *adminv1.Topic) int64 {
	var n int64
	for _, p := range topic.GetPartitionBounds() {
		n += p.GetEnd() - p.GetBegin()
	}
	return n
}

// topicFaults says which partitions do not serve.
func topicFaults(topic *adminv1.Topic) []string {
	var faults []string
	for _, p := range topic.GetPartitionBounds() {
		if p.GetFault() != "" {
			faults = append(faults, printable(fmt.Sprintf("topic %s, partition %d: %s", topic.GetName(), p.GetPartition(), p.GetFault())))
		}
	}
	return faults
}
