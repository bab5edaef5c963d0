package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newGroupPause(c *cli) *cobra.Command {
	var topic string
	cmd := &cobra.Command{
		Use:   "pause GROUP",
		Short: "Stop deliveries to a group until it is resumed, also over restarts",
		Long: `Stop deliveries to a group until it is resumed, also over restarts.

What consumers hold they can finish. Messages are kept as the topic says: those of
a PUBSUB topic may pass their retention while the group is paused.`,
		Example: "  mq group pause rebooking\n  mq group pause rebooking --topic flights.departed",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sidecar, err := c.dial()
			if err != nil {
				return err
			}
			defer sidecar.close()
			answer, err := ask(cmd.Context(), sidecar, sidecar.admin.PauseGroup, &adminv1.PauseGroupRequest{Group: args[0], Topic: topic})
			if err != nil {
				return err
			}
			return printTopics(cmd, c, "paused in", answer, answer.GetTopics())
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "only in this topic")
	return cmd
}

func newGroupResume(c *cli) *cobra.Command {
	var topic string
	cmd := &cobra.Command{
		Use:     "resume GROUP",
		Short:   "Let deliveries to a group go on",
		Example: "  mq group resume rebooking\n  mq group resume rebooking --topic flights.departed",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sidecar, err := c.dial()
			if err != nil {
				return err
			}
			defer sidecar.close()
			answer, err := ask(cmd.Context(), sidecar, sidecar.admin.ResumeGroup, &adminv1.ResumeGroupRequest{Group: args[0], Topic: topic})
			if err != nil {
				return err
			}
			return printTopics(cmd, c, "resumed in", answer, answer.GetTopics())
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "only in this topic")
	return cmd
}

func printTopics(cmd *cobra.Command, c *cli, did string, answer proto.Message, topics []string) error {
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", did, printable(strings.Join(topics, ", ")))
	return err
}
