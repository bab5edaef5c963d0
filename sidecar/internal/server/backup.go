package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// backupBytes is how much of a file one message carries.
const backupBytes = 256 << 10

// Backup implements AdminService.
func (s *adminService) Backup(ctx context.Context, _ *connect.Request[adminv1.BackupRequest], stream *connect.ServerStream[adminv1.BackupResponse]) (err error) {
	copied, now, err := s.broker.Snapshot(ctx)
	if err != nil {
		return wireError(err)
	}
	defer func() { err = errors.Join(err, copied.Close()) }()
	start := &adminv1.BackupStart{Format: copied.Format(), Commit: copied.Commit(), Time: timestamppb.New(now), Files: uint64(len(copied.Files()))}
	for _, f := range copied.Files() {
		start.Bytes += uint64(f.Size)
	}
	if err := stream.Send(&adminv1.BackupResponse{Part: &adminv1.BackupResponse_Start{Start: start}}); err != nil {
		return err
	}
	for _, f := range copied.Files() {
		if err := sendFile(ctx, stream, copied, f); err != nil {
			return wireError(fmt.Errorf("file %s of the backup: %w", f.Name, err))
		}
	}
	return nil
}

func sendFile(ctx context.Context, stream *connect.ServerStream[adminv1.BackupResponse], copied engine.Snapshot, file engine.SnapshotFile) error {
	begin := &adminv1.BackupFile{Name: file.Name, Size: uint64(file.Size)}
	if err := stream.Send(&adminv1.BackupResponse{Part: &adminv1.BackupResponse_File{File: begin}}); err != nil {
		return err
	}
	f, err := copied.Open(file.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	buf := make([]byte, backupBytes)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			sum.Write(buf[:n])
			if err := stream.Send(&adminv1.BackupResponse{Part: &adminv1.BackupResponse_Data{Data: buf[:n]}}); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return stream.Send(&adminv1.BackupResponse{Part: &adminv1.BackupResponse_Sha256{Sha256: sum.Sum(nil)}})
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
