package main

import (
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newTail(c *cli) *cobra.Command {
	q := new(adminv1.TailRequest)
	cmd := &cobra.Command{
		Use:   "tail TOPIC",
		Short: "Print the messages of a topic as they come",
		Long: `Print the messages of a topic as they come. Nothing is leased and no group moves.

Each message is one JSON object on a line, with its id, place, time, key (base64),
headers and content. With --output table it is a line to read: its place, time,
key and content. A place is partition-offset, or partition.priority-offset above
the lowest priority. Messages come in order within a partition and priority.`,
		Example: "  mq tail flights.departed\n  mq tail flights.departed --from earliest -n 1\n" +
			"  mq tail flights.departed --from earliest --stop-at-end | jq .json.origin",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Topic = args[0]
			if q.From != "earliest" && q.From != "latest" {
				return usagef("--from %q: must be earliest or latest", q.From)
			}
			show := tailLine
			if c.format == "json" || !cmd.Flags().Changed("output") {
				show = func(w io.Writer, m *adminv1.TailMessage) error { return printJSONLine(w, m) }
			}
			return tail(cmd.Context(), c, q, func(m *adminv1.TailMessage) error { return show(cmd.OutOrStdout(), m) })
		},
	}
	cmd.Flags().StringVar(&q.From, "from", "latest", "where to begin: earliest or latest")
	cmd.Flags().Uint64VarP(&q.Limit, "number", "n", 0, "stop after so many messages, 0 for never")
	cmd.Flags().BoolVar(&q.StopAtEnd, "stop-at-end", false, "stop where the topic ends now")
	return cmd
}

// tail shows messages until there are enough, the sidecar ends the stream, or the user interrupts.
func tail(ctx context.Context, c *cli, q *adminv1.TailRequest, show func(*adminv1.TailMessage) error) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	stream, err := sidecar.admin.Tail(ctx, connect.NewRequest(q))
	if err == nil {
		defer stream.Close()
		for stream.Receive() {
			for _, m := range stream.Msg().GetMessages() {
				if err := show(m); err != nil {
					return err
				}
			}
		}
		err = stream.Err()
	}
	if err == nil || interrupted(ctx) {
		return nil
	}
	return &callError{sidecar.addr, err}
}

func tailLine(w io.Writer, m *adminv1.TailMessage) error {
	key := printable(string(m.GetKey()))
	if key == "" {
		key = "-"
	}
	_, err := fmt.Fprintf(w, "%-10s  %s  %s  %s\n", place(m.GetPartition(), m.GetPriority(), m.GetOffset()), at(m.GetAppendTime()), key, printable(body(m.GetJson())))
	return err
}
