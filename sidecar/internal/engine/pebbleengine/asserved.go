package pebbleengine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// asServed is the file system of who reads a store only, and must find in it what a sidecar would serve: bits that the sidecar puts right when it opens the store are right in
// what is read, and the file of options, which it removes, is not listed. Nothing is written. A damaged file of values is an error, as for the sidecar.
type asServed struct {
	vfs.FS
	mu struct {
		sync.Mutex
		bits map[string][]rightByte // by path
	}
}

// rightByte is a byte that has a flipped bit in the file, without it.
type rightByte struct {
	at int64
	b  byte
}

// putRight notes a byte. It stands in for writing it.
func (f *asServed) putRight(path string, at int64, b byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := (rightByte{at, b}); !slices.Contains(f.mu.bits[path], r) {
		if f.mu.bits == nil {
			f.mu.bits = make(map[string][]rightByte)
		}
		f.mu.bits[path] = append(f.mu.bits[path], r)
	}
	return nil
}

func (f *asServed) of(path string) []rightByte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.mu.bits[path])
}

// doStart is what to do about a bit that the sidecar puts right.
const doStart = "start the sidecar, which puts it right: nothing is lost by it; the disk or the memory is not to be trusted"

// findings are the bits that were put right so far, by file and place.
func (f *asServed) findings() (found []engine.Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, bits := range f.mu.bits {
		for _, r := range bits {
			found = append(found, engine.Finding{Place: f.PathBase(path), At: fmt.Sprintf("byte %d", r.at), What: "a bit is flipped", Do: doStart})
		}
	}
	slices.SortFunc(found, func(a, b engine.Finding) int { return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(a.At, b.At)) })
	return found
}

// List implements vfs.FS.
func (f *asServed) List(dir string) ([]string, error) {
	names, err := f.FS.List(dir)
	return slices.DeleteFunc(names, isOptions), err
}

// Open implements vfs.FS.
func (f *asServed) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	open := f.FS.Open
	if strings.HasSuffix(name, ".blob") {
		open = func(name string, options ...vfs.OpenOption) (vfs.File, error) {
			return openValues(f.FS, name, f.putRight, options)
		}
	}
	file, err := open(name, options...)
	if err != nil {
		return nil, err
	}
	if bits := f.of(name); len(bits) > 0 {
		return &rightFile{File: file, bits: bits}, nil
	}
	return file, nil
}

// Unwrap implements vfs.FS.
func (f *asServed) Unwrap() vfs.FS { return f.FS }

// rightFile is a file without the flipped bits that it has.
type rightFile struct {
	vfs.File
	bits []rightByte
	next int64 // that Read reads
}

// Read implements vfs.File.
func (f *rightFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	f.right(b[:n], f.next)
	f.next += int64(n)
	return n, err
}

// ReadAt implements vfs.File.
func (f *rightFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	f.right(b[:n], at)
	return n, err
}

func (f *rightFile) right(b []byte, from int64) {
	for _, r := range f.bits {
		if i := r.at - from; i >= 0 && i < int64(len(b)) {
			b[i] = r.b
		}
	}
}
