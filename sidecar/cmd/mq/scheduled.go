package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

func newScheduled(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scheduled",
		Short: "Look at messages that are not due yet, or take them back",
		Long: `Look at messages that are not due yet, or take them back.

A message that is published with a delay, or with an instant of delivery, is
kept back until it is due. It is in no partition until then.`,
		Example: `  mq scheduled list reminders
  mq scheduled cancel reminders 5f0c9bb0d2f14f7c8a0e6a3f3f9f2a11`,
	}
	cmd.AddCommand(newScheduledList(c), newScheduledCancel(c))
	return asGroup(cmd)
}

// scheduledPage bounds an answer that carries whole messages.
const scheduledPage = 100

func newScheduledList(c *cli) *cobra.Command {
	var (
		id     string
		number uint64
	)
	cmd := &cobra.Command{
		Use:   "list TOPIC",
		Short: "List the messages of a topic that are not due yet, by due time",
		Example: "  mq scheduled list reminders\n  mq scheduled list reminders -n 1\n" +
			"  mq scheduled list reminders --id 5f0c9bb0d2f14f7c8a0e6a3f3f9f2a11 -o json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return listScheduled(cmd, c, args[0], id, number) },
	}
	cmd.Flags().StringVar(&id, "id", "", "only the messages of this id")
	cmd.Flags().Uint64VarP(&number, "number", "n", 100, "show so many messages at most, 0 for all")
	return cmd
}

// listScheduled asks page by page, until it has number messages or all there are.
func listScheduled(cmd *cobra.Command, c *cli, topic, id string, number uint64) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	all := &adminv1.ListScheduledResponse{}
	t := newTable(cmd.OutOrStdout(), "ID", "DUE", "PARTITION", "PRIORITY", "KEY", "MESSAGE")
	q := &adminv1.ListScheduledRequest{Topic: topic, Id: id, PageSize: scheduledPage}
	for shown := uint64(0); ; {
		if number > 0 {
			q.PageSize = uint32(min(scheduledPage, number-shown))
		}
		page, err := ask(cmd.Context(), sidecar, sidecar.admin.ListScheduled, q)
		if err != nil {
			return err
		}
		shown += uint64(len(page.GetScheduled()))
		if c.format == "json" {
			all.Scheduled = append(all.Scheduled, page.GetScheduled()...)
		} else {
			for _, s := range page.GetScheduled() {
				t.row(s.GetId(), at(s.GetDue()), s.GetPartition(), unlessZero(s.GetPriority()), string(s.GetKey()), clip(body(s.GetJson()), 60))
			}
		}
		q.PageToken = page.GetNextPageToken()
		if q.PageToken == "" || number > 0 && shown >= number {
			break
		}
	}
	all.NextPageToken = q.PageToken
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), all)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if q.PageToken != "" {
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "mq: there are more; -n 0 shows all\n")
	}
	return err
}

func newScheduledCancel(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel TOPIC ID…",
		Short: "Take messages back that are not due yet",
		Long: `Take messages back that are not due yet: every scheduled message of the ids. One
that is due already cannot be taken back; its id is reported as unknown.`,
		Example: "  mq scheduled cancel reminders 5f0c9bb0d2f14f7c8a0e6a3f3f9f2a11",
		Args:    cobra.MinimumNArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return cancelScheduled(cmd, c, args[0], args[1:]) },
	}
}

func cancelScheduled(cmd *cobra.Command, c *cli, topic string, ids []string) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.broker.Cancel, &brokerv1.CancelRequest{Topic: topic, Ids: ids})
	if err != nil {
		return err
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "canceled: %d\n", answer.GetCanceled()); err != nil {
		return err
	}
	if unknown := answer.GetUnknownIds(); len(unknown) > 0 {
		return fmt.Errorf("no scheduled message has the id %s", printable(strings.Join(unknown, ", ")))
	}
	return nil
}
