package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newDLQ(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at dead letters, give them back, or throw them away",
		Long: `Look at dead letters, give them back, or throw them away.

A dead letter is a message that a group gave up on: its attempts are spent, its
handler returned a permanent error, or it does not decode. It waits here until
it is redriven or discarded.`,
		Example: `  mq dlq list rebooking flights.departed
  mq dlq failures rebooking flights.departed
  mq dlq show rebooking flights.departed 3-17
  mq dlq redrive rebooking flights.departed 3-17 5-2
  mq dlq discard rebooking flights.departed --all --yes`,
	}
	cmd.AddCommand(newDLQList(c), newDLQFailures(c), newDLQShow(c), newDLQRedrive(c), newDLQDiscard(c))
	return asGroup(cmd)
}

// unknownIDs is the error of a call that named ids which no dead letter has. It is nil for none.
func unknownIDs(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	return fmt.Errorf("no dead letter has the id %s", printable(strings.Join(ids, ", ")))
}
