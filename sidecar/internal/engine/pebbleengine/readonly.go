package pebbleengine

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var errReadOnly = errors.New("pebbleengine: write to a store that was opened for reading")

// readOnlyFS lets nothing be written, whoever tries. A store is locked only if a lock file is there: without one, no sidecar has ever opened it.
type readOnlyFS struct{ vfs.FS }

func (f readOnlyFS) Lock(name string) (io.Closer, error) {
	if _, err := f.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return noLock{}, nil
	}
	closer, err := f.FS.Lock(name)
	if errors.Is(err, syscall.EROFS) { // then nobody else writes there either
		return noLock{}, nil
	}
	return closer, err
}

type noLock struct{}

func (noLock) Close() error { return nil }

func (readOnlyFS) Create(string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, errReadOnly }
func (readOnlyFS) Link(string, string) error                              { return errReadOnly }
func (readOnlyFS) Remove(string) error                                    { return errReadOnly }
func (readOnlyFS) RemoveAll(string) error                                 { return errReadOnly }
func (readOnlyFS) Rename(string, string) error                            { return errReadOnly }
func (readOnlyFS) MkdirAll(string, fs.FileMode) error                     { return errReadOnly }

func (readOnlyFS) ReuseForWrite(string, string, vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, errReadOnly
}

func (readOnlyFS) OpenReadWrite(string, vfs.DiskWriteCategory, ...vfs.OpenOption) (vfs.File, error) {
	return nil, errReadOnly
}

func (f readOnlyFS) Unwrap() vfs.FS { return f.FS }
