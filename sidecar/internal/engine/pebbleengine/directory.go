package pebbleengine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	formatFile   = "FORMAT"
	marksFile    = "MARKS"
	lockFile     = "LOCK"
	ballastFile  = "BALLAST"
	formatPrefix = "typedmq engine "
	// formatNumber is raised by every change of what is written that an older binary cannot read, Pebble's own format included.
	formatNumber = 2
)

var (
	// ErrLocked says that a live process has the store open.
	ErrLocked = errors.New("the store is open in another process")
	// ErrNewerFormat says that a newer version wrote the store.
	ErrNewerFormat = errors.New("the store was written by a newer version")
	// ErrFormat says that the format file is not one that any version writes.
	ErrFormat = errors.New("the file " + formatFile + " is damaged")
	// ErrNotAStore says that the directory holds files that are not a store's.
	ErrNotAStore = errors.New("the directory is not empty and holds no store")
)

// directory is the store's directory, locked against other processes.
type directory struct {
	fs   vfs.FS
	name string
	lock *pebble.Lock
}

// openDirectory makes, locks and checks the directory.
func openDirectory(fsys vfs.FS, name string) (_ *directory, err error) {
	d := &directory{fs: fsys, name: name}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open %s: %w", name, err)
		}
	}()
	if err := makeDurably(fsys, name); err != nil {
		return nil, err
	}
	if d.lock, err = lock(fsys, name); err != nil {
		return nil, err
	}
	if err := d.checkFormat(); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	return d, nil
}

// makeDurably makes a directory, and those above it that are missing, so that they survive a power cut.
func makeDurably(fsys vfs.FS, name string) error {
	if _, err := fsys.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := fsys.PathDir(name)
	if parent != name {
		if err := makeDurably(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(name, 0o700); err != nil {
		return err
	}
	return syncDir(fsys, parent)
}

func lock(fsys vfs.FS, name string) (*pebble.Lock, error) {
	l, err := pebble.LockDirectory(name, fsys)
	var path *fs.PathError
	switch {
	case err == nil:
		return l, nil
	case errors.As(err, &path): // The lock file could not be made: its own reason tells more.
		return nil, err
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES), strings.Contains(err.Error(), "lock held by current process"):
		return nil, ErrLocked
	}
	return nil, err
}

// checkFormat reads the format file, or writes it into a directory that is empty but for the lock.
func (d *directory) checkFormat() error {
	number, err := readFormat(d.fs, d.name)
	if errors.Is(err, fs.ErrNotExist) {
		return d.beginFormat()
	}
	if err != nil {
		return err
	}
	if number < formatNumber { // what is there can be read; what will be written, an older binary cannot read
		return d.writeFormat()
	}
	return nil
}

// FormatLine is the line that the format file of a store of this version holds.
func FormatLine() string { return fmt.Sprint(formatPrefix, formatNumber) }

// readFormat is the number in the format file. Errors: fs.ErrNotExist, ErrNewerFormat, ErrFormat.
func readFormat(fsys vfs.FS, dir string) (number int, err error) {
	f, err := fsys.Open(fsys.PathJoin(dir, formatFile))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 100))
	if err != nil {
		return 0, err
	}
	rest, ok := strings.CutPrefix(string(text), formatPrefix)
	number, err = strconv.Atoi(strings.TrimSpace(rest))
	if !ok || err != nil || number < 1 {
		return 0, fmt.Errorf("%w: it holds %q; want %q and a number", ErrFormat, text, formatPrefix)
	}
	if number > formatNumber {
		return 0, fmt.Errorf("%w: the file %s says format %d, this one knows up to %d", ErrNewerFormat, formatFile, number, formatNumber)
	}
	return number, nil
}

// newFormat is the format file while it is written.
const newFormat = formatFile + ".new"

// beginFormat writes the format file into a directory that is empty but for the lock.
func (d *directory) beginFormat() error {
	names, err := d.fs.List(d.name)
	if err != nil {
		return err
	}
	for _, name := range names {
		switch name {
		case lockFile, newFormat, "lost+found":
		default:
			return fmt.Errorf("%w: found %s", ErrNotAStore, name)
		}
	}
	return d.writeFormat()
}

// writeFormat puts a format file in place, or one of the present format in the place of an older one.
func (d *directory) writeFormat() error {
	f, err := d.fs.Create(d.path(newFormat), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, FormatLine())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := d.fs.Rename(d.path(newFormat), d.path(formatFile)); err != nil {
		return err
	}
	return syncDir(d.fs, d.name)
}

func (d *directory) path(name string) string { return d.fs.PathJoin(d.name, name) }

func (d *directory) close() error { return d.lock.Close() }

func syncDir(fsys vfs.FS, name string) error {
	dir, err := fsys.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
