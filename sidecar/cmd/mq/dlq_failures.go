package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newDLQFailures(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "failures GROUP TOPIC",
		Short: "Count the dead letters of a group in a topic by what went wrong",
		Long: `Count the dead letters of a group in a topic by reason and last error, the most
frequent first. Numbers in errors make no difference. FAILURE names one to
mq dlq redrive and mq dlq discard, SAMPLE is the id of one of its dead letters.`,
		Example: "  mq dlq failures rebooking flights.departed",
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return listFailures(cmd, c, args[0], args[1]) },
	}
}

func listFailures(cmd *cobra.Command, c *cli, group, topic string) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.SummarizeDeadLetters, &adminv1.SummarizeDeadLettersRequest{Group: group, Topic: topic})
	if err != nil {
		return err
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	t := newTable(cmd.OutOrStdout(), "FAILURE", "DEAD", "REASON", "FIRST DIED", "LAST DIED", "SAMPLE", "ERROR")
	for _, f := range answer.GetFailures() {
		t.row(f.GetFailure(), f.GetDeadLetters(), f.GetReason(), at(f.GetFirstDied()), at(f.GetLastDied()), f.GetSampleId(), clip(f.GetError(), 60))
	}
	return t.flush()
}
