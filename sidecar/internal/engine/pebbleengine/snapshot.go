package pebbleengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// snapshotSuffix is behind the name of the store's directory in that of its snapshot: beside it, so that files can be shared by hard links.
const snapshotSuffix = ".snapshot"

// Snapshot implements engine.Snapshotter. What is in memory is flushed to files, and those are linked; the write-ahead log is left out: copied while it
// grows, it could have holes. Nobody who writes waits for it. After a failed write there is no snapshot any more: what is in memory could not be flushed.
func (e *Engine) Snapshot(ctx context.Context) (_ engine.Snapshot, err error) {
	if !e.gate.enter() {
		return nil, engine.ErrClosed
	}
	defer e.gate.leave()
	if err := e.fatal.err(); err != nil {
		return nil, fmt.Errorf("pebbleengine: no snapshot after: %w", err)
	}
	if !e.snapshots.TryLock() {
		return nil, engine.ErrSnapshotOpen
	}
	s := &snapshot{fs: e.dir.fs, dir: e.dir.name + snapshotSuffix, done: e.snapshots.Unlock}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("copy %s: %w", e.dir.name, err), s.Close())
		}
	}()
	if err := s.fs.RemoveAll(s.dir); err != nil {
		return nil, err
	}
	before := &marks{logger: slog.New(slog.DiscardHandler), found: make(map[engine.LogID]mark), slots: make(map[engine.LogID]int64)}
	if err := before.read(s.fs, e.dir.path(marksFile)); err != nil {
		return nil, err
	}
	flushed, err := e.db.AsyncFlush()
	if err != nil {
		return nil, err
	}
	select {
	case <-flushed:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := e.db.Checkpoint(s.dir); err != nil {
		return nil, err
	}
	if err := s.dropLogs(); err != nil {
		return nil, err
	}
	if err := (&directory{fs: s.fs, name: s.dir}).writeFormat(); err != nil {
		return nil, err
	}
	if err := s.mark(before); err != nil {
		return nil, err
	}
	return s, s.list()
}

// snapshot implements engine.Snapshot.
type snapshot struct {
	fs     vfs.FS
	dir    string
	commit uint64
	files  []engine.SnapshotFile
	done   func()
	once   sync.Once
}

// dropLogs removes the write-ahead logs of the copy.
func (s *snapshot) dropLogs() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			err = errors.Join(err, s.fs.Remove(s.fs.PathJoin(s.dir, name)))
		}
	}
	return err
}

// mark writes the high-water marks of the copy, which are exact, and makes sure that nothing is missing from it that was marked before it was made.
func (s *snapshot) mark(before *marks) error {
	o, err := OpenOffline(s.dir, Options{FS: s.fs})
	if err != nil {
		return err
	}
	found, commit, err := o.marksNow(before)
	if err := errors.Join(err, o.Close()); err != nil {
		return err
	}
	if commit < before.commits() {
		return fmt.Errorf("the copy ends at commit %d, the store was durable up to %d", commit, before.commits())
	}
	s.commit = commit
	m, err := openMarks(s.fs, s.fs.PathJoin(s.dir, marksFile), before.logger)
	if err != nil {
		return err
	}
	for _, id := range slices.SortedFunc(maps.Keys(found), compareLogs) {
		m.set(id, found[id])
	}
	m.setCommits(commit)
	failed := m.close()
	if m.failed {
		failed = errors.Join(failed, errors.New("the marks of the copy cannot be written"))
	}
	return failed
}

// marksNow is how far each log goes, and the commit number. Of a log that is damaged it is what was marked before, so that the damage stays known.
func (o *Offline) marksNow(before *marks) (found map[engine.LogID]mark, commit uint64, err error) {
	if commit, err = o.engine.readCommits(); err != nil {
		return nil, 0, err
	}
	found = make(map[engine.LogID]mark)
	for _, kind := range []byte{kindLog, kindChunk} {
		for from := []byte{kind}; from != nil; {
			id, ok, err := o.nextLog(from, kind)
			if err != nil {
				return nil, 0, err
			}
			if !ok {
				break
			}
			found[id] = mark{}
			from = after(appendLog([]byte{kind}, id))
		}
	}
	for id := range before.found {
		found[id] = mark{}
	}
	for id := range found {
		begin, err := o.engine.readBegin(id)
		end, last, also := o.engine.readEnd(id)
		earlier, marked := before.of(id)
		switch err := errors.Join(err, also); {
		case damaged(err) && marked:
			found[id] = earlier
			continue
		case damaged(err):
			delete(found, id)
			continue
		case err != nil:
			return nil, 0, err
		}
		now := mark{end, last.sum}
		if end <= begin.begin {
			now = mark{begin.begin, begin.sum}
		}
		if now.end < earlier.end { // lost before, not by copying
			now = earlier
		}
		found[id] = now
	}
	return found, commit, nil
}

// list notes the files, the format file last.
func (s *snapshot) list() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	names = slices.DeleteFunc(names, func(n string) bool { return n == formatFile || n == lockFile })
	for _, name := range append(names, formatFile) {
		info, err := s.fs.Stat(s.fs.PathJoin(s.dir, name))
		if err != nil {
			return err
		}
		s.files = append(s.files, engine.SnapshotFile{Name: name, Size: info.Size()})
	}
	return nil
}

// Commit implements engine.Snapshot.
func (s *snapshot) Commit() uint64 { return s.commit }

// Format implements engine.Snapshot.
func (s *snapshot) Format() uint32 { return formatNumber }

// Files implements engine.Snapshot.
func (s *snapshot) Files() []engine.SnapshotFile { return s.files }

// Open implements engine.Snapshot.
func (s *snapshot) Open(name string) (io.ReadCloser, error) {
	if !slices.ContainsFunc(s.files, func(f engine.SnapshotFile) bool { return f.Name == name }) {
		return nil, fmt.Errorf("the copy has no file %q", name)
	}
	return s.fs.Open(s.fs.PathJoin(s.dir, name), vfs.SequentialReadsOption)
}

// Close implements engine.Snapshot. Closing again does nothing.
func (s *snapshot) Close() (err error) {
	s.once.Do(func() {
		err = s.fs.RemoveAll(s.dir)
		s.done()
	})
	return err
}
