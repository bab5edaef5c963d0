package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

// deadLetterPage bounds an answer that carries whole messages.
const deadLetterPage = 100

func newDLQList(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list GROUP TOPIC",
		Short: "List the dead letters of a group in a topic",
		Long: `List the dead letters of a group in a topic.

PLACE is partition-offset, or partition.priority-offset above the lowest priority.`,
		Example: "  mq dlq list rebooking flights.departed",
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return listDeadLetters(cmd, c, args[0], args[1]) },
	}
}

func listDeadLetters(cmd *cobra.Command, c *cli, group, topic string) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	all := &adminv1.ListDeadLettersResponse{}
	t := newTable(cmd.OutOrStdout(), "ID", "PLACE", "REASON", "ATTEMPTS", "DIED", "KEY", "LAST ERROR")
	q := &adminv1.ListDeadLettersRequest{Group: group, Topic: topic, PageSize: deadLetterPage}
	for {
		page, err := ask(cmd.Context(), sidecar, sidecar.admin.ListDeadLetters, q)
		if err != nil {
			return err
		}
		if c.format == "json" {
			all.DeadLetters = append(all.DeadLetters, page.GetDeadLetters()...)
		} else {
			for _, d := range page.GetDeadLetters() {
				t.row(d.GetId(), place(d.GetPartition(), d.GetPriority(), d.GetOffset()), d.GetReason(), d.GetAttempts(), at(d.GetDied()), string(d.GetKey()),
					clip(d.GetLastError(), 60))
			}
		}
		if q.PageToken = page.GetNextPageToken(); q.PageToken == "" {
			break
		}
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), all)
	}
	return t.flush()
}
