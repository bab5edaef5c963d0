package main

import (
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newDLQRedrive(c *cli) *cobra.Command {
	ch := &choice{}
	cmd := &cobra.Command{
		Use:   "redrive GROUP TOPIC (ID… | --all | --failure KEY)",
		Short: "Give dead letters back to their group: same id, attempts from 1",
		Long: `Give dead letters back to their group: same id, attempts from 1.

Oldest first within each partition. With --all and --failure, progress is told on
standard error; an interrupt stops between two calls to the sidecar and tells how
many were redriven. What dies again meanwhile is not taken twice.`,
		Example: `  mq dlq redrive rebooking flights.departed 3-17
  mq dlq redrive rebooking flights.departed --failure 7bf0893330d1e0a7 --limit 10
  mq dlq redrive rebooking flights.departed --all --rate 100`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ch.check(args); err != nil {
				return err
			}
			return redrive(cmd, c, ch, args[0], args[1])
		},
	}
	ch.flags(cmd)
	return cmd
}

func redrive(cmd *cobra.Command, c *cli, ch *choice, group, topic string) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	sum, err := ch.run(cmd.Context(), cmd.ErrOrStderr(), "redriven", func(ctx context.Context, limit uint64, page string) (moved, string, error) {
		answer, err := ask(ctx, sidecar, sidecar.admin.RedriveDeadLetters, &adminv1.RedriveDeadLettersRequest{
			Group: group, Topic: topic, Ids: ch.ids, All: ch.all, Failure: ch.failure, Limit: limit, PageToken: page,
		})
		return moved{n: answer.GetRedriven(), unknown: answer.GetUnknownIds()}, answer.GetNextPageToken(), err
	})
	return sum.tell(cmd, c, "redriven", &adminv1.RedriveDeadLettersResponse{Redriven: sum.n, UnknownIds: sum.unknown, More: sum.more}, err)
}
