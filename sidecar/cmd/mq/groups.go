package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newGroups(c *cli) *cobra.Command {
	var topic string
	cmd := &cobra.Command{
		Use:   "groups [GROUP]",
		Short: "Show where groups stand in their topics",
		Long: `Show where groups stand in their topics, per partition and in total.

POSITION  every message below is settled for the group
END       the offset that the next message will get
LAG       messages that are not settled
LEASED    messages that consumers hold
WAITING   messages that wait for their next attempt
PARKED    messages that wait behind an earlier one of their key
DEAD      dead letters
HELD      dead letters that later messages of their key wait for
EXPIRED   messages whose ttl was over before they were settled
LOST      deliveries whose consumer vanished
DELETED   messages that retention deleted before they were settled
FILTERED  messages that the group's filter refused; FILTER ERRORS of them because it
          failed. The two are shown where there are any
STATE     paused, if mq group pause stopped deliveries

EXPIRED, LOST, DELETED and FILTERED count since the sidecar took the partition.`,
		Example: "  mq groups\n  mq groups rebooking --topic flights.departed -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &adminv1.ListGroupsRequest{Topic: topic}
			if len(args) == 1 {
				q.Group = args[0]
			}
			return listGroups(cmd, c, q)
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "only this topic")
	return cmd
}

func listGroups(cmd *cobra.Command, c *cli, q *adminv1.ListGroupsRequest) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.ListGroups, q)
	if err != nil {
		return err
	}
	slices.SortFunc(answer.Groups, func(a, b *adminv1.GroupTopic) int {
		return cmp.Or(cmp.Compare(a.GetGroup(), b.GetGroup()), cmp.Compare(a.GetTopic(), b.GetTopic()))
	})
	for _, g := range answer.Groups {
		slices.SortFunc(g.Partitions, func(a, b *adminv1.GroupPartition) int { return cmp.Compare(a.GetPartition(), b.GetPartition()) })
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	header := []any{"GROUP", "TOPIC", "PARTITION", "POSITION", "END", "LAG", "LEASED", "WAITING", "PARKED", "DEAD", "HELD", "EXPIRED", "LOST", "DELETED"}
	filters := anyFiltered(answer.GetGroups())
	if filters {
		header = append(header, "FILTERED", "FILTER ERRORS")
	}
	t := newTable(cmd.OutOrStdout(), append(header, "CONSUMERS", "STATE")...)
	for _, g := range answer.GetGroups() {
		groupRows(t, g, filters)
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, g := range answer.GetGroups() {
		for _, p := range g.GetPartitions() {
			if p.GetFault() != "" {
				fault := fmt.Sprintf("group %s, topic %s, partition %d: %s", g.GetGroup(), g.GetTopic(), p.GetPartition(), p.GetFault())
				fmt.Fprintf(cmd.ErrOrStderr(), "mq: %s\n", printable(fault))
			}
		}
	}
	return nil
}

// groupRows shows each partition, then the total. Positions of different partitions have no sum that means anything.
func groupRows(t *table, g *adminv1.GroupTopic, filters bool) {
	sum := &adminv1.GroupPartition{Counters: &adminv1.Counters{}}
	for _, p := range g.GetPartitions() {
		t.row(append([]any{g.GetGroup(), g.GetTopic(), p.GetPartition(), p.GetPosition(), p.GetEnd()}, append(groupCounts(p, filters), "", "")...)...)
		n := p.GetCounters()
		sum.Lag += p.GetLag()
		sum.Leased += p.GetLeased()
		sum.Waiting += p.GetWaiting()
		sum.Parked += p.GetParked()
		sum.DeadLetters += p.GetDeadLetters()
		sum.Held += p.GetHeld()
		sum.Counters.Expired += n.GetExpired()
		sum.Counters.LostDeliveries += n.GetLostDeliveries()
		sum.Counters.RetentionLost += n.GetRetentionLost()
		sum.Counters.Filtered += n.GetFiltered()
		sum.Counters.FilterErrors += n.GetFilterErrors()
	}
	state := ""
	if g.GetPaused() {
		state = "paused"
	}
	t.row(append([]any{g.GetGroup(), g.GetTopic(), "total", "", ""}, append(groupCounts(sum, filters), g.GetConsumers(), state)...)...)
}

// anyFiltered tells whether a filter refused a message, or failed: most groups have none, and the table is wide enough without.
func anyFiltered(groups []*adminv1.GroupTopic) bool {
	for _, g := range groups {
		for _, p := range g.GetPartitions() {
			if n := p.GetCounters(); n.GetFiltered() > 0 || n.GetFilterErrors() > 0 {
				return true
			}
		}
	}
	return false
}

// groupCounts are the cells from LAG to DELETED, and those of filters.
func groupCounts(p *adminv1.GroupPartition, filters bool) []any {
	n := p.GetCounters()
	cells := []any{p.GetLag(), p.GetLeased(), p.GetWaiting(), p.GetParked(), p.GetDeadLetters(), p.GetHeld(),
		n.GetExpired(), n.GetLostDeliveries(), n.GetRetentionLost()}
	if filters {
		cells = append(cells, n.GetFiltered(), n.GetFilterErrors())
	}
	return cells
}
