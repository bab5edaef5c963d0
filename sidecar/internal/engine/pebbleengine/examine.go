package pebbleengine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// DamageError says that a file of the store is not what was written, and that what is wrong cannot be set right. The store is not opened, and nothing in it
// has been changed: what Pebble would make of it is a store without what stood behind the damage.
type DamageError struct {
	File   string
	Offset int64 // in bytes, from where on the file is damaged
	Detail string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", e.File, e.Offset, e.Detail)
}

// Recovered is what an examination found.
type Recovered struct {
	// Commits is the number of the last commit in the write-ahead logs, 0 if they hold none.
	Commits uint64
	// Flips counts the bits that were flipped, each set right.
	Flips int
	// Manifest is the file that lists the tables, "no manifest" if the store is new.
	Manifest string
}

// examiner reads the manifest and the write-ahead logs before Pebble does. A single flipped bit it puts right: the checksums leave no doubt which it was.
// Other damage it reports where Pebble would open the store short: it is told from a write that was torn by what was synced later, by a log that
// is followed by another but does not end as closed logs do, and by a gap between the numbers of commits.
type examiner struct {
	fs     vfs.FS
	dir    string
	logger *slog.Logger
	right  func(path string, at int64, b byte) error // writes a byte that has a flipped bit anew

	found Recovered
	at    string // file and offset of the last commit
	least uint64 // number of the first log that is needed; older ones wait to be used again
}

// examine does it all. The directory is locked, and may hold no store yet.
func examine(fsys vfs.FS, dir string, logger *slog.Logger) (Recovered, error) {
	x := &examiner{fs: fsys, dir: dir, logger: logger, right: byteWriter(fsys)}
	if err := x.files(); err != nil {
		return x.found, err
	}
	return x.found, x.forgetOptions()
}

// examineOnly does it without a change: bits that would be put right are noted in fsys, which then reads as if they were.
func examineOnly(fsys *asServed, dir string) (Recovered, error) {
	x := &examiner{fs: fsys, dir: dir, logger: slog.New(slog.DiscardHandler), right: fsys.putRight}
	err := x.files()
	return x.found, err
}

func (x *examiner) files() error {
	if err := x.manifest(); err != nil {
		return err
	}
	if mutant.On(mutant.OldWALFormat) { // whose damage this looks for as well
		return nil
	}
	return x.logs()
}

// forgetOptions removes what Pebble was opened with last. Pebble refuses to open if it cannot read that, and what matters of it is in the file of the format.
func (x *examiner) forgetOptions() error {
	names, err := x.fs.List(x.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if isOptions(name) {
			err = errors.Join(err, x.fs.Remove(x.fs.PathJoin(x.dir, name)))
		}
	}
	return err
}

func isOptions(name string) bool { return strings.HasPrefix(name, "OPTIONS-") }

func (x *examiner) manifest() error {
	x.found.Manifest = "no manifest"
	desc, err := pebble.Peek(x.dir, x.fs)
	if err != nil || !desc.Exists {
		return err
	}
	x.found.Manifest = x.fs.PathBase(desc.ManifestFilename)
	f := &recordFile{}
	if f.data, err = readFile(x.fs, desc.ManifestFilename); err != nil {
		return err
	}
	_, _, err = x.walk(desc.ManifestFilename, f, func(_ int, edit []byte) error {
		if n, ok := firstLog(edit); ok {
			x.least = n
		}
		return nil
	})
	return err
}

// firstLog reads from an edit of a manifest the number of the first log that is not in tables yet. It is among the first fields of an edit.
func firstLog(edit []byte) (uint64, bool) {
	const comparer, logNumber = 1, 2
	for {
		tag, n := binary.Uvarint(edit)
		if n <= 0 || tag != comparer && tag != logNumber {
			return 0, false
		}
		value, m := binary.Uvarint(edit[n:])
		if m <= 0 {
			return 0, false
		}
		if tag == logNumber {
			return value, true
		}
		if value > uint64(len(edit)-n-m) {
			return 0, false
		}
		edit = edit[n+m+int(value):]
	}
}

// logs examines the write-ahead logs in the order in which they were written.
func (x *examiner) logs() error {
	names, err := x.fs.List(x.dir)
	if err != nil {
		return err
	}
	numbers := map[string]uint64{}
	names = slices.DeleteFunc(names, func(name string) bool {
		digits, ok := strings.CutSuffix(name, ".log")
		n, err := strconv.ParseUint(digits, 10, 64)
		numbers[name] = n
		return !ok || err != nil || n < x.least
	})
	slices.SortFunc(names, func(a, b string) int { return int(numbers[a] - numbers[b]) })
	var open *DamageError // of a log that does not end as closed ones do
	for _, name := range names {
		path := x.fs.PathJoin(x.dir, name)
		f := &recordFile{number: uint32(numbers[name]), log: true}
		if f.data, err = readFile(x.fs, path); err != nil {
			return err
		}
		end, ended, err := x.walk(path, f, func(at int, record []byte) error {
			if open != nil {
				return open
			}
			return x.commit(path, at, record)
		})
		if err != nil {
			return err
		}
		if !ended && open == nil {
			open = &DamageError{path, int64(end), "the log was cut off: a later one follows, and it does not end as one that was closed"}
		}
	}
	return nil
}

// walk calls do with each record of a file and its place. It returns where the records end, and whether the file was closed there. What is behind the last
// record that can be read is torn: it was written, and not synced, when the power was cut.
func (x *examiner) walk(path string, f *recordFile, do func(at int, record []byte) error) (end int, ended bool, err error) {
	var record []byte
	begin, inside := 0, false
	for at := 0; ; {
		p, s := f.at(at)
		switch s {
		case closed:
			if inside {
				return begin, false, nil
			}
			return at, p.end > at, nil // without a trailer it may have been cut exactly here
		case nothing:
			at = p.end
			continue
		case unread:
			if err := x.unread(path, f, at); err != nil {
				return at, false, err
			}
			if _, s := f.at(at); s == unread {
				if inside {
					at = begin
				}
				return at, false, nil
			}
			continue
		}
		if p.first {
			record, begin, inside = record[:0], at, true
		}
		if inside {
			record = append(record, p.body...)
		}
		if p.last && inside {
			inside = false
			if err := do(begin, record); err != nil {
				return begin, false, err
			}
		}
		at = p.end
	}
}

const flipMessage = "a flipped bit in a file of the store was put right: the disk or the memory is not to be trusted"

// unread decides about a place where no piece can be read: a flipped bit is put right, in the file too; what was synced and is damaged is an error; the
// rest is the end of the file.
func (x *examiner) unread(path string, f *recordFile, at int) error {
	later, synced := f.written(at)
	if flip, ok := f.findFlip(at); ok && (synced || x.plausible(f, at, flip)) {
		f.data[flip.at] ^= flip.bit
		if err := x.right(path, int64(flip.at), f.data[flip.at]); err != nil {
			return fmt.Errorf("put right a flipped bit at byte %d of %s: %w", flip.at, path, err)
		}
		x.found.Flips++
		x.logger.Error(flipMessage, "file", path, "byte", flip.at)
		return nil
	}
	if synced {
		return &DamageError{path, int64(at), fmt.Sprintf("it was synced, for the record at byte %d was written later, and cannot be read", later.at)}
	}
	return nil
}

// plausible tells whether a flip at the end of a file is one. Nothing proves there that the piece was ever whole, and one torn write in some 16,000 looks
// like a flipped bit. Then its content makes no sense.
func (x *examiner) plausible(f *recordFile, at int, flip flip) bool {
	f.data[flip.at] ^= flip.bit
	defer func() { f.data[flip.at] ^= flip.bit }()
	p, s := f.at(at)
	switch {
	case s != sound:
		return s == closed
	case !f.log: // The edit of a manifest: Pebble will parse it.
		return true
	case !p.first || !p.last: // Part of a record that is larger than a block, which no torn write has got right by chance.
		return true
	}
	batch, err := readBatch(p.body)
	return err == nil && (batch.commit == 0 || x.found.Commits == 0 || batch.begins || batch.commit == x.found.Commits+1)
}

// commit checks that no commit is missing between this record and the one before.
func (x *examiner) commit(path string, at int, record []byte) error {
	batch, err := readBatch(record)
	if err != nil {
		return &DamageError{path, int64(at), err.Error()}
	}
	if batch.commit == 0 {
		return nil
	}
	if x.found.Commits != 0 && !batch.begins && batch.commit != x.found.Commits+1 {
		return &DamageError{path, int64(at), fmt.Sprintf("commit %d follows commit %d, which is at %s", batch.commit, x.found.Commits, x.at)}
	}
	x.found.Commits, x.at = batch.commit, fmt.Sprintf("byte %d of %s", at, path)
	return nil
}

// beginMark is logged in the first batch of each opening, which may have a number that does not follow: that of the high-water mark, after a loss.
const beginMark = "open"

// batchContent is what the examiner wants to know of a batch.
type batchContent struct {
	commit uint64 // its number, 0 if it has none
	begins bool   // it is the first since the store was opened
}

func readBatch(record []byte) (c batchContent, err error) {
	defer func() {
		if p := recover(); p != nil { // Pebble's reader trusts lengths.
			err = fmt.Errorf("the batch makes no sense: %v", p)
		}
	}()
	header, ok := batchrepr.ReadHeader(record)
	if !ok {
		return c, errors.New("the batch is cut short")
	}
	entries, n := batchrepr.Read(record), uint32(0)
	for {
		kind, key, value, ok, err := entries.Next()
		if err != nil {
			return c, fmt.Errorf("the batch makes no sense: %w", err)
		}
		if !ok {
			break
		}
		if kind == pebble.InternalKeyKindLogData {
			c.begins = c.begins || string(key) == beginMark
			continue
		}
		n++
		if kind == pebble.InternalKeyKindSet && len(key) == 1 && key[0] == kindCommits {
			body, err := unsealed(key, value)
			if err != nil || len(body) != 8 {
				return c, errors.New("the batch has a commit number that is not one")
			}
			c.commit = binary.BigEndian.Uint64(body)
		}
	}
	if n != header.Count {
		return c, fmt.Errorf("the batch has %d entries, should have %d", n, header.Count)
	}
	return c, nil
}

func readFile(fsys vfs.FS, path string) (_ []byte, err error) {
	f, err := fsys.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, info.Size())
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // It has become shorter: nobody writes it now, so that is a file system's own business.
	}
	return b[:n], err
}

// byteWriter returns what writes one byte of a file durably.
func byteWriter(fsys vfs.FS) func(path string, at int64, b byte) error {
	return func(path string, at int64, b byte) error {
		f, err := fsys.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{b}, at)
		return errors.Join(err, f.Sync(), f.Close())
	}
}
