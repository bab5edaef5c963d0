package main

import "github.com/spf13/cobra"

func newGroup(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "group",
		Short: "Pause a group, or move where it stands",
		Example: `  mq group pause rebooking
  mq group resume rebooking --topic flights.departed
  mq group seek rebooking flights.departed --to -1h`,
	}
	cmd.AddCommand(newGroupPause(c), newGroupResume(c), newGroupSeek(c))
	return asGroup(cmd)
}
