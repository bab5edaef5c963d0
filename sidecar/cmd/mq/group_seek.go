package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newGroupSeek(c *cli) *cobra.Command {
	var (
		to        string
		partition uint32
	)
	cmd := &cobra.Command{
		Use:   "seek GROUP TOPIC --to (earliest | latest | TIME | OFFSET)",
		Short: "Move where a group stands in a PUBSUB topic: back to replay, forward to pass over",
		Long: `Move where a group stands in a PUBSUB topic: back to replay, forward to pass over.

earliest  the oldest message that is kept
latest    the end: only what is published from now on
TIME      the first message published then or later: 2026-03-01T12:00:00Z, or a
          span before now, such as -90m or -7d
OFFSET    of one partition, which --partition names

Leases end: what consumers hold comes again if it is not passed over. Dead letters
stay what they are.`,
		Example: `  mq group seek rebooking flights.departed --to -1h
  mq group seek rebooking flights.departed --to 1200 --partition 3`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &adminv1.SeekGroupRequest{Group: args[0], Topic: args[1]}
			if cmd.Flags().Changed("partition") {
				q.Partition = &partition
			}
			if err := seekTo(q, to, time.Now()); err != nil {
				return err
			}
			return seek(cmd, c, q)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "earliest, latest, a time or an offset")
	cmd.Flags().Uint32Var(&partition, "partition", 0, "only this partition (default all)")
	return cmd
}

// seekTo reads the place that --to names.
func seekTo(q *adminv1.SeekGroupRequest, to string, now time.Time) error {
	switch to {
	case "":
		return usagef("say where with --to: earliest, latest, a time or an offset")
	case "earliest", "latest":
		q.To = &adminv1.SeekGroupRequest_Edge{Edge: to}
		return nil
	}
	if offset, err := strconv.ParseInt(to, 10, 64); err == nil {
		if offset < 0 {
			return usagef("offset %d: must be 0 or more; for a span of time add a unit, such as -1h", offset)
		}
		if q.Partition == nil {
			return usagef("an offset is of one partition: name it with --partition")
		}
		q.To = &adminv1.SeekGroupRequest_Offset{Offset: offset}
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, to)
	if ago, ok := parseSpan(to); ok {
		at, err = now.Add(ago), nil
		if ago > 0 {
			return usagef("--to %s is in the future; write -%s for the time before now", to, strings.TrimPrefix(to, "+"))
		}
	}
	if err != nil {
		return usagef("--to %q: must be earliest, latest, a time such as 2026-03-01T12:00:00Z, a span such as -1h or -7d, or an offset", to)
	}
	q.To = &adminv1.SeekGroupRequest_Time{Time: timestamppb.New(at)}
	return nil
}

func seek(cmd *cobra.Command, c *cli, q *adminv1.SeekGroupRequest) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.SeekGroup, q)
	if err != nil {
		return err
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	t := newTable(cmd.OutOrStdout(), "PARTITION", "POSITION")
	for _, p := range answer.GetPositions() {
		t.row(p.GetPartition(), p.GetOffset())
	}
	return t.flush()
}
