package pebbleengine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A file of values, which holds the chunks, ends in a footer of 38 bytes whose first four are its masked CRC-32C. Pebble 2.1 panics, also in compactions,
// when it opens one whose footer is wrong. So the footer is read before: one flipped bit is put right, of other damage the reader is told, and the log
// that it reads is quarantined.
const footerLen = 38

func footerSound(footer []byte) bool {
	return binary.LittleEndian.Uint32(footer) == maskedSum(crc32.Checksum(footer[4:], castagnoli()))
}

// checkFooter reads the footer of an open file of values. right writes a byte that has a flipped bit anew.
func checkFooter(name string, f vfs.File, right func(path string, at int64, b byte) error) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < footerLen {
		return damage(name + " was cut short")
	}
	var footer [footerLen]byte
	at := info.Size() - footerLen
	if _, err := f.ReadAt(footer[:], at); err != nil {
		return err
	}
	if footerSound(footer[:]) {
		return nil
	}
	for i := range footer {
		for bit := range 8 {
			footer[i] ^= 1 << bit
			if footerSound(footer[:]) {
				return right(name, at+int64(i), footer[i])
			}
			footer[i] ^= 1 << bit
		}
	}
	return damage(fmt.Sprintf("the end of %s is not what was written", name))
}

// openValues opens a file of values for reading.
func openValues(fsys vfs.FS, name string, right func(path string, at int64, b byte) error, options []vfs.OpenOption) (vfs.File, error) {
	f, err := fsys.Open(name, options...)
	if err != nil {
		return nil, err
	}
	if err := checkFooter(name, f, right); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// errNoValues stands for the panic of Pebble 2.1 about a file of values that is missing, whose name it does not tell.
const errNoValues damage = "a file of values that it was in is missing"

// valueOf is the value that an iterator stands at. All values are read by it or by get, so that a file of values that is missing is an error.
func valueOf(it *pebble.Iterator) (value []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errNoValues
		}
	}()
	return it.ValueAndErr()
}

// get is Pebble's Get. See valueOf.
func get(db *pebble.DB, key []byte) (value []byte, closer io.Closer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errNoValues
		}
	}()
	return db.Get(key)
}

// failedValues are the files of values that could not be written. Pebble 2.1 panics in a goroutine of its own when that happens at the end of such a file, so it
// is told that all went well, and gets the error from the sync of the directory that comes before it makes use of a file: it drops the files, and tries
// again. Syncs fail until the file is removed, whoever asks: two flushes may be at it.
type failedValues struct {
	mu struct {
		sync.Mutex
		errs map[string]error // by name
	}
}

func (v *failedValues) note(name string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.errs == nil {
		v.mu.errs = make(map[string]error)
	}
	v.mu.errs[name] = err
}

// err is one of the errors, nil if there is none.
func (v *failedValues) err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, err := range v.mu.errs {
		return err
	}
	return nil
}

func (v *failedValues) removed(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.mu.errs, name)
}

// valueFile is a file of values that is written.
type valueFile struct {
	vfs.File
	name   string
	failed *failedValues
	bad    bool
}

func (f *valueFile) do(what string, do func() error) {
	if f.bad {
		return
	}
	if err := do(); err != nil {
		f.bad = true
		f.failed.note(f.name, fmt.Errorf("%s %s: %w", what, f.name, err))
	}
}

// Write implements vfs.File.
func (f *valueFile) Write(b []byte) (int, error) {
	f.do("write", func() error { _, err := f.File.Write(b); return err })
	return len(b), nil
}

// Sync implements vfs.File.
func (f *valueFile) Sync() error {
	f.do("sync", f.File.Sync)
	return nil
}

// SyncData implements vfs.File.
func (f *valueFile) SyncData() error {
	f.do("sync", f.File.SyncData)
	return nil
}

// SyncTo implements vfs.File. It is a hint.
func (f *valueFile) SyncTo(length int64) (full bool, err error) {
	f.do("sync", func() error { full, err = f.File.SyncTo(length); return err })
	return full, nil
}

// Preallocate implements vfs.File. It saves time, and need not be possible.
func (f *valueFile) Preallocate(at, length int64) error {
	_ = f.File.Preallocate(at, length)
	return nil
}

// Close implements vfs.File.
func (f *valueFile) Close() error {
	f.do("close", f.File.Close)
	return nil
}

// forTables tells whether the caller is the part of Pebble that makes tables and files of values. It alone syncs the directory before they are used.
func forTables() bool {
	var callers [16]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for {
		frame, more := frames.Next()
		if strings.Contains(frame.Function, "objstorageprovider") {
			return true
		}
		if !more {
			return false
		}
	}
}
