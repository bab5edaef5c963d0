package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/typedmq/typedmq/sidecar"
)

func newRestore(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "restore BACKUP DIR",
		Short: "Make a data directory from a backup",
		Long: `Make a data directory from a backup that mq backup wrote, and check it.

DIR must be empty or not exist. Messages, positions, dead letters, schedule, topics
and subscriptions are those of the instant of the backup. What consumers held then
is delivered again: lease tokens that were given out before, by the sidecar that
was backed up and by whatever became of it since, are refused with BAD_TOKEN.

Exit status: 0 restored and sound, 1 restored, but the check found something, as the
lines above say, or failed, 2 usage, 3 the backup or the directory cannot be used.`,
		Example: "  mq restore /backup/mq-monday /var/lib/typedmq\n  mq serve --data-dir /var/lib/typedmq",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := sidecar.Restore(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "mq: restored commit %d of %s, %d files, %d bytes\n", m.Commit, m.Time.Format("2006-01-02T15:04:05Z07:00"), len(m.Files), m.Bytes())
			return check(cmd, args[1], c.format == "json")
		},
	}
}
