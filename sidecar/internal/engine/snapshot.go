package engine

import (
	"context"
	"errors"
	"io"
)

// ErrSnapshotOpen says that a snapshot of the store is still open.
var ErrSnapshotOpen = errors.New("engine: a snapshot is open")

// Snapshotter is an engine whose store can be copied while it is used.
type Snapshotter interface {
	// Snapshot is the store as it was after one commit: that of the latest write that had returned before the call, or a later one. Writes go on
	// meanwhile. The caller closes the snapshot; until then it may keep disk space from being freed. Errors: ErrSnapshotOpen: there is one at a
	// time; ErrClosed; those of the disk.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// Snapshot is the files of a store at one commit. It is for one goroutine.
type Snapshot interface {
	// Commit is the number of the last commit in it, Format that of the store's format.
	Commit() uint64
	Format() uint32
	// Files are all there is, in the order in which they are to be written: a copy without the last is refused as a store.
	Files() []SnapshotFile
	// Open reads a file.
	Open(name string) (io.ReadCloser, error)
	Close() error
}

// SnapshotFile is a file of a snapshot. Its name has no directory.
type SnapshotFile struct {
	Name string
	Size int64
}
