package main

import (
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newDLQDiscard(c *cli) *cobra.Command {
	var (
		ch  = &choice{}
		yes bool
	)
	cmd := &cobra.Command{
		Use:   "discard GROUP TOPIC (ID… | --all --yes | --failure KEY --yes)",
		Short: "Throw dead letters away, for good",
		Long: `Throw dead letters away, for good. There is no way back, so --all and --failure
must be confirmed with --yes. Messages that a dead letter holds back go on.

Oldest first within each partition. With --all and --failure, progress is told on
standard error; an interrupt stops between two calls to the sidecar and tells how
many were discarded.`,
		Example: "  mq dlq discard rebooking flights.departed 3-17\n  mq dlq discard rebooking flights.departed --all --yes",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ch.check(args); err != nil {
				return err
			}
			switch {
			case yes:
			case ch.all:
				return usagef("--all throws every dead letter of group %s in topic %s away, for good; confirm with --yes", args[0], args[1])
			case ch.failure != "":
				return usagef("--failure throws every dead letter of it of group %s in topic %s away, for good; confirm with --yes", args[0], args[1])
			}
			return discard(cmd, c, ch, args[0], args[1])
		},
	}
	ch.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "confirm --all or --failure")
	return cmd
}

func discard(cmd *cobra.Command, c *cli, ch *choice, group, topic string) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	sum, err := ch.run(cmd.Context(), cmd.ErrOrStderr(), "discarded", func(ctx context.Context, limit uint64, page string) (moved, string, error) {
		answer, err := ask(ctx, sidecar, sidecar.admin.DiscardDeadLetters, &adminv1.DiscardDeadLettersRequest{
			Group: group, Topic: topic, Ids: ch.ids, All: ch.all, Failure: ch.failure, Limit: limit, PageToken: page,
		})
		return moved{n: answer.GetDiscarded(), unknown: answer.GetUnknownIds()}, answer.GetNextPageToken(), err
	})
	return sum.tell(cmd, c, "discarded", &adminv1.DiscardDeadLettersResponse{Discarded: sum.n, UnknownIds: sum.unknown, More: sum.more}, err)
}
