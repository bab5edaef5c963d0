package pebbleengine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleFS is the file system that Pebble sees. What it removes goes through the cleaner. A write, sync or creation of a write-ahead log that fails is fatal to the engine, as everywhere; but Pebble
// is told that it went well, and later ones are not done. Pebble would panic when that happens at a change of logs, with its locks in a state that ends the
// process. Nobody is told a lie: the committer asks fatal before it answers, and answers nothing well after a failure. The same goes for the syncs of a
// directory; and since after one that failed a table may be gone with the next power cut, the manifest is not written any more after any failure.
type pebbleFS struct {
	vfs.FS
	fatal   *fatal
	cleaner *cleaner
	backlog *backlog
	values  *failedValues
}

// Unwrap implements vfs.FS.
func (f pebbleFS) Unwrap() vfs.FS { return f.FS }

// Remove implements vfs.FS.
func (f pebbleFS) Remove(name string) error {
	err := f.cleaner.remove(name)
	if err == nil {
		f.values.removed(name)
	}
	return err
}

// Open implements vfs.FS.
func (f pebbleFS) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	if strings.HasSuffix(name, ".blob") {
		return openValues(f.FS, name, f.putRight, options)
	}
	return f.FS.Open(name, options...)
}

func (f pebbleFS) putRight(path string, at int64, b byte) error {
	f.cleaner.logger.Error(flipMessage, "file", path, "byte", at)
	return byteWriter(f.FS)(path, at, b)
}

// OpenDir implements vfs.FS.
func (f pebbleFS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	d := &directoryFile{File: dir, name: name, fatal: f.fatal}
	if forTables() {
		d.values = f.values
	}
	return d, nil
}

// directoryFile is a directory.
type directoryFile struct {
	vfs.File
	name   string
	fatal  *fatal
	values *failedValues // that a sync answers for, or nil
}

// Sync implements vfs.File.
func (d *directoryFile) Sync() error {
	if d.values != nil {
		if err := d.values.err(); err != nil {
			return err
		}
	}
	if err := d.File.Sync(); err != nil {
		_ = d.fatal.set(fmt.Errorf("sync the directory %s: %w", d.name, err))
	}
	return nil
}

// manifestFile is a manifest. Nothing is written to it after a failure.
type manifestFile struct {
	vfs.File
	fatal *fatal
}

// Write implements vfs.File.
func (m *manifestFile) Write(b []byte) (int, error) {
	if err := m.fatal.err(); err != nil {
		return 0, err
	}
	return m.File.Write(b)
}

// Create implements vfs.FS.
func (f pebbleFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.Create(name, category) })
}

// ReuseForWrite implements vfs.FS.
func (f pebbleFS) ReuseForWrite(from, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.ReuseForWrite(from, name, category) })
}

func (f pebbleFS) open(name string, open func() (vfs.File, error)) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		f.backlog.wait()
		file, err := open()
		if err == nil && strings.HasSuffix(name, ".blob") {
			file = &valueFile{File: file, name: name, failed: f.values}
		}
		if err != nil || !strings.HasPrefix(f.FS.PathBase(name), "MANIFEST-") {
			return file, err
		}
		// Pebble syncs the directory when it has pointed to the manifest, and the pointer may be on the disk before that.
		if err := syncDir(f.FS, f.FS.PathDir(name)); err != nil {
			return nil, errors.Join(f.fatal.set(err), file.Close())
		}
		return &manifestFile{file, f.fatal}, nil
	}
	var file vfs.File
	err := f.fatal.err()
	if err == nil {
		if file, err = open(); err != nil {
			_ = f.fatal.set(fmt.Errorf("make the write-ahead log %s: %w", name, err))
		}
	}
	if err != nil {
		file, err = vfs.NewMem().Create("nowhere", category)
		if err != nil {
			return nil, err
		}
	}
	return &writeAheadFile{File: file, name: name, fatal: f.fatal}, nil
}

const category = vfs.WriteCategoryUnspecified

// writeAheadFile is a write-ahead log. Nothing is written to it after a failure.
type writeAheadFile struct {
	vfs.File
	name  string
	fatal *fatal
}

func (f *writeAheadFile) do(what string, do func() error) error {
	if f.fatal.err() != nil {
		return nil
	}
	if err := do(); err != nil {
		_ = f.fatal.set(fmt.Errorf("%s the write-ahead log %s: %w", what, f.name, err))
	}
	return nil
}

// Write implements vfs.File.
func (f *writeAheadFile) Write(b []byte) (n int, err error) {
	return len(b), f.do("write", func() error { _, err := f.File.Write(b); return err })
}

// WriteAt implements vfs.File.
func (f *writeAheadFile) WriteAt(b []byte, at int64) (n int, err error) {
	return len(b), f.do("write", func() error { _, err := f.File.WriteAt(b, at); return err })
}

// Sync implements vfs.File.
func (f *writeAheadFile) Sync() error { return f.do("sync", f.File.Sync) }

// SyncData implements vfs.File.
func (f *writeAheadFile) SyncData() error { return f.do("sync", f.File.SyncData) }

// SyncTo implements vfs.File.
func (f *writeAheadFile) SyncTo(length int64) (full bool, err error) {
	err = f.do("sync", func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// Preallocate implements vfs.File. It is done to save time: a disk that has no room for it may still have some for what is written.
func (f *writeAheadFile) Preallocate(at, length int64) error {
	_ = f.File.Preallocate(at, length)
	return nil
}

// Close implements vfs.File.
func (f *writeAheadFile) Close() error {
	return f.do("close", f.File.Close)
}
