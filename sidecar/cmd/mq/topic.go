package main

import "github.com/spf13/cobra"

func newTopic(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "topic",
		Short:   "Look at one topic",
		Example: "  mq topic describe flights.departed",
	}
	cmd.AddCommand(newTopicDescribe(c))
	return asGroup(cmd)
}
