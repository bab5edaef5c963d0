package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	"github.com/typedmq/typedmq/sidecar"
)

func newBackup(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "backup DEST",
		Short: "Copy all that a running sidecar has stored",
		Long: `Copy all that a running sidecar has stored into a new directory: messages, the
positions of groups, dead letters, what is scheduled, topics and subscriptions, as
they were after one commit. Publishing and consuming go on meanwhile.

DEST must be empty or not exist; it is where mq runs, not where the sidecar does.
It is a backup once the command has ended with status 0: backup.json, which is
written last, lists every file with its size and its SHA-256.`,
		Example: "  mq backup /backup/mq-monday\n  mq restore /backup/mq-monday /var/lib/typedmq",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return backup(cmd, c, args[0])
		},
	}
}

func backup(cmd *cobra.Command, c *cli, dest string) error {
	peer, err := c.dial()
	if err != nil {
		return err
	}
	defer peer.close()
	w, err := sidecar.NewBackup(dest)
	if err != nil {
		return err
	}
	m, err := receiveBackup(cmd.Context(), peer, w)
	if err != nil {
		if left := w.Abandon(); left != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "mq: %s is no backup and can be removed: %s\n", dest, printable(left.Error()))
		}
		return err
	}
	if c.format == "json" {
		text, err := os.ReadFile(filepath.Join(dest, "backup.json"))
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: commit %d, %d files, %d bytes\n", printable(dest), m.Commit, len(m.Files), m.Bytes())
	return err
}

// receiveBackup writes what the sidecar sends.
func receiveBackup(ctx context.Context, peer *client, w *sidecar.BackupWriter) (m sidecar.Manifest, err error) {
	stream, err := peer.admin.Backup(ctx, connect.NewRequest(&adminv1.BackupRequest{}))
	if err != nil {
		return m, &callError{peer.addr, err}
	}
	defer stream.Close()
	var start *adminv1.BackupStart
	for stream.Receive() {
		switch part := stream.Msg().GetPart().(type) {
		case *adminv1.BackupResponse_Start:
			start = part.Start
		case *adminv1.BackupResponse_File:
			err = w.Begin(part.File.GetName(), int64(part.File.GetSize()))
		case *adminv1.BackupResponse_Data:
			_, err = w.Write(part.Data)
		case *adminv1.BackupResponse_Sha256:
			err = w.End(part.Sha256)
		}
		if err != nil {
			return m, err
		}
	}
	if err := stream.Err(); err != nil {
		return m, &callError{peer.addr, err}
	}
	return w.Finish(start.GetFormat(), start.GetCommit(), start.GetTime().AsTime(), int(start.GetFiles()))
}
