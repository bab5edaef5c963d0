package pebbleengine

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// lookEvery is how old a look at the free space may be.
const lookEvery = 100 * time.Millisecond

// space refuses writes before the disk is full, while it is certain that nothing of them was written, and keeps the ballast.
//
//	room = free space − ballast that was given away
//
//	min    ┤ below: no publishing (NoPublish)
//	min/2  ┤ below: no leases (NoLease); the ballast is given away, which leaves room as it is and adds to the free space
//	min/8  ┤ free space below: no commits (NoWrite)
//
// So what the ballast frees is there for acknowledgements, dead letters and compaction, not for messages, and nothing swings to and fro. It is taken back
// when there is room for it above min.
type space struct {
	fs      vfs.FS
	dir     string
	min     int64
	ballast int64 // its size, 0 for none
	now     func() time.Time
	logger  *slog.Logger

	mu struct {
		sync.Mutex
		next  time.Time // when to look again
		free  int64
		level engine.Space
		have  bool // the ballast is on the disk
		given bool // it was there, and is the reason that free is not less
		tried bool // to make it, without success
	}
}

func newSpace(o Options, dir string, now func() time.Time) *space {
	s := &space{fs: o.FS, dir: dir, min: o.MinFreeBytes, ballast: o.BallastBytes, now: now, logger: o.Logger}
	_, err := o.FS.Stat(s.file())
	s.mu.have = err == nil
	return s
}

func (s *space) file() string { return s.fs.PathJoin(s.dir, ballastFile) }

// look is the level, and what is wrong in words if it is not Roomy: an error that wraps engine.ErrFull.
func (s *space) look() (engine.Space, error) {
	if s.min <= 0 {
		return engine.Roomy, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); !now.Before(s.mu.next) {
		s.mu.next = now.Add(lookEvery)
		s.measure()
		s.trimBallast()
	}
	if s.mu.level == engine.Roomy {
		return engine.Roomy, nil
	}
	return s.mu.level, fmt.Errorf("%w: %d MiB are free where the store is, publishing needs %d MiB and %s", engine.ErrFull, s.mu.free>>20, s.need()>>20, s.stopped())
}

// urge looks again however old the last look is: something found the disk full.
func (s *space) urge() {
	s.mu.Lock()
	s.mu.next = time.Time{}
	s.mu.Unlock()
	_, _ = s.look()
}

// need is the free space from which on all is well.
func (s *space) need() int64 {
	if s.mu.given {
		return s.min + s.ballast
	}
	return s.min
}

func (s *space) stopped() string {
	switch s.mu.level {
	case engine.NoPublish:
		return "is refused"
	case engine.NoLease:
		return "is refused, nothing is leased"
	}
	return "is refused, as is everything else"
}

// refuse is why nothing is written: engine.ErrFull with what is wrong, or nil.
func (s *space) refuse(publishing bool) error {
	level, err := s.look()
	if level == engine.NoWrite || publishing && level != engine.Roomy {
		return err
	}
	return nil
}

// measure finds the level.
func (s *space) measure() {
	usage, err := s.fs.GetDiskUsage(s.dir)
	if err != nil {
		return // A disk that does not tell is believed to be as it was.
	}
	s.mu.free = int64(min(usage.AvailBytes, 1<<62))
	room := s.mu.free
	if s.mu.given {
		room -= s.ballast
	}
	was := s.mu.level
	switch {
	case s.mu.free < s.min/8:
		s.mu.level = engine.NoWrite
	case room < s.min/2:
		s.mu.level = engine.NoLease
	case room < s.min:
		s.mu.level = engine.NoPublish
	default:
		s.mu.level = engine.Roomy
	}
	switch {
	case s.mu.level == was:
	case s.mu.level == engine.Roomy:
		s.logger.Info("there is room on the disk again", "dir", s.dir, "free", s.mu.free)
	default:
		s.logger.Warn("the disk is nearly full: publishing "+s.stopped(), "dir", s.dir, "free", s.mu.free, "needed", s.need())
	}
}

// trimBallast gives the ballast away when room is short, and takes it back when there is enough.
func (s *space) trimBallast() {
	switch {
	case s.ballast <= 0:
	case s.mu.level >= engine.NoLease && s.mu.have:
		if err := s.fs.Remove(s.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.logger.Error("the ballast cannot be given away", "file", s.file(), "error", err)
			return
		}
		s.mu.have, s.mu.given = false, true
		s.logger.Warn("the ballast was given away", "file", s.file(), "bytes", s.ballast)
	case s.mu.level == engine.Roomy && !s.mu.have && !s.mu.tried && s.mu.free >= s.min+2*s.ballast:
		if err := s.makeBallast(); err != nil {
			s.mu.tried = true // Not all file systems can.
			s.logger.Warn("the ballast cannot be made", "file", s.file(), "error", err)
			return
		}
		s.mu.have, s.mu.given = true, false
	}
}

// makeBallast has the file system set room aside. It writes nothing.
func (s *space) makeBallast() (err error) {
	f, err := s.fs.Create(s.file(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Preallocate(0, s.ballast), f.Close()); err != nil {
		return errors.Join(err, s.fs.Remove(s.file()))
	}
	return nil
}
