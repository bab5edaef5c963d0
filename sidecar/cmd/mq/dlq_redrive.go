package main

import (
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newDLQRedrive(c *cli) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "redrive GROUP TOPIC (ID… | --all)",
		Short:   "Give dead letters back to their group: same id, attempts from 1",
		Example: "  mq dlq redrive rebooking flights.departed 3-17\n  mq dlq redrive rebooking flights.departed --all",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := chooseIDs(args, all)
			if err != nil {
				return err
			}
			return redrive(cmd, c, &adminv1.RedriveDeadLettersRequest{Group: args[0], Topic: args[1], Ids: ids, All: all})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters of the group in the topic")
	return cmd
}

func redrive(cmd *cobra.Command, c *cli, q *adminv1.RedriveDeadLettersRequest) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.RedriveDeadLetters, q)
	if err != nil {
		return err
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "redriven: %d\n", answer.GetRedriven()); err != nil {
		return err
	}
	return unknownIDs(answer.GetUnknownIds())
}
