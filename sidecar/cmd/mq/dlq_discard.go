package main

import (
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newDLQDiscard(c *cli) *cobra.Command {
	var all, yes bool
	cmd := &cobra.Command{
		Use:   "discard GROUP TOPIC (ID… | --all --yes)",
		Short: "Throw dead letters away, for good",
		Long: `Throw dead letters away, for good. There is no way back, so --all must be
confirmed with --yes.`,
		Example: "  mq dlq discard rebooking flights.departed 3-17\n  mq dlq discard rebooking flights.departed --all --yes",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := chooseIDs(args, all)
			if err != nil {
				return err
			}
			if all && !yes {
				return usagef("--all throws every dead letter of group %s in topic %s away, for good; confirm with --yes", args[0], args[1])
			}
			return discard(cmd, c, &adminv1.DiscardDeadLettersRequest{Group: args[0], Topic: args[1], Ids: ids, All: all})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters of the group in the topic")
	cmd.Flags().BoolVar(&yes, "yes", false, "confirm --all")
	return cmd
}

func discard(cmd *cobra.Command, c *cli, q *adminv1.DiscardDeadLettersRequest) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.DiscardDeadLetters, q)
	if err != nil {
		return err
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "discarded: %d\n", answer.GetDiscarded()); err != nil {
		return err
	}
	return unknownIDs(answer.GetUnknownIds())
}
