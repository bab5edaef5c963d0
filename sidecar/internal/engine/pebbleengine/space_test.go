package pebbleengine

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

func TestAFullDiskRefusesAppendsThenLeasesThenCommits(t *testing.T) {
	disk := vfs.NewMem()
	now := time.Unix(0, 0)
	s := newSpace(Options{FS: disk, MinFreeBytes: 800, Logger: slog.New(slog.DiscardHandler)}, dir, func() time.Time { return now })
	for _, step := range []struct {
		free uint64
		want engine.Space
	}{
		{1000, engine.Roomy}, {800, engine.Roomy}, {799, engine.NoPublish}, {400, engine.NoPublish}, {399, engine.NoLease}, {100, engine.NoLease},
		{99, engine.NoWrite}, {5000, engine.Roomy},
	} {
		disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: step.free, TotalBytes: 10_000})
		now = now.Add(lookEvery)
		got, err := s.look()
		if got != step.want || (err != nil) != (got != engine.Roomy) || err != nil && !errors.Is(err, engine.ErrFull) {
			t.Errorf("%d bytes free: level %d, %v; want %d", step.free, got, err, step.want)
		}
		if refused := s.refuse(true) != nil; refused != (step.want != engine.Roomy) {
			t.Errorf("%d bytes free: append refused: %t", step.free, refused)
		}
		if refused := s.refuse(false) != nil; refused != (step.want == engine.NoWrite) {
			t.Errorf("%d bytes free: commit refused: %t", step.free, refused)
		}
	}
}

func TestAnEngineOnAFullDisk(t *testing.T) {
	disk := vfs.NewMem()
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 20, TotalBytes: 1 << 30})
	e := openOn(t, disk, Options{MinFreeBytes: 4 << 20})
	_, err := e.Append(t.Context(), []engine.Append{{Log: logA, Records: records("x"), Count: 1}})
	if !errors.Is(err, engine.ErrFull) || !strings.Contains(err.Error(), "1 MiB are free") {
		t.Errorf("append on a full disk: %v", err)
	}
	owner, err := e.Fence(t.Context(), owned, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Commit(t.Context(), engine.Batch{Appends: []engine.Append{{Log: logA, Records: records("x"), Count: 1}}}); err != nil {
		t.Errorf("commit on a disk that is full for appends only: %v", err)
	}
	if err := e.Trim(t.Context(), logA, 1); err != nil {
		t.Errorf("trim, which frees room: %v", err)
	}
}

// TestTheBallastIsNotForMessages follows a disk that fills and empties: what the ballast frees does not let publishing begin again.
func TestTheBallastIsNotForMessages(t *testing.T) {
	disk := vfs.NewMem()
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	const ballast = 1000
	s := newSpace(Options{FS: disk, MinFreeBytes: 800, BallastBytes: ballast, Logger: slog.New(slog.DiscardHandler)}, dir, func() time.Time { return now })
	others := uint64(0) // what the rest of the disk takes
	for i, step := range []struct {
		others uint64
		want   engine.Space
		kept   bool // afterwards
	}{
		{others: 5000, want: engine.Roomy, kept: true},      // made when there is room for it
		{others: 8400, want: engine.NoPublish, kept: true},  // 600 are free
		{others: 8700, want: engine.NoLease, kept: false},   // 300, and the ballast goes
		{others: 8700, want: engine.NoLease, kept: false},   // 1,300: that is no room
		{others: 9950, want: engine.NoWrite, kept: false},   // 50
		{others: 8500, want: engine.NoPublish, kept: false}, // 1,500, of which 1,000 are the ballast's
		{others: 8100, want: engine.Roomy, kept: false},     // 1,900: enough to publish, not enough to take it back
		{others: 7100, want: engine.Roomy, kept: true},      // 2,900
		{others: 8300, want: engine.NoPublish, kept: true},  // 700
	} {
		others = step.others
		free := int64(10_000 - others)
		if s.mu.have {
			free -= ballast
		}
		disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: uint64(max(0, free)), TotalBytes: 10_000})
		now = now.Add(lookEvery)
		if got, err := s.look(); got != step.want {
			t.Errorf("step %d: level %d, %v; want %d", i, got, err, step.want)
		}
		if _, err := disk.Stat(s.file()); (err == nil) != step.kept {
			t.Errorf("step %d: ballast: %v; want it there: %t", i, err, step.kept)
		}
	}
}

// TestAStoreOnASmallDiskThatFills is on a file system of 96 MiB of its own, which takes a privileged user.
func TestAStoreOnASmallDiskThatFills(t *testing.T) {
	where := t.TempDir()
	if err := syscall.Mount("tmpfs", where, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("no file system of a size of our own: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(where, syscall.MNT_DETACH) })
	options := Options{MinFreeBytes: 24 << 20, BallastBytes: 16 << 20, MemTableBytes: 2 << 20, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	e, err := Open(filepath.Join(where, "store"), options)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Space(); err != nil {
		t.Fatal(err)
	}
	owner, err := e.Fence(t.Context(), owned, 1)
	if err != nil {
		t.Fatal(err)
	}
	random, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer random.Close()
	noise := make([]byte, 64<<10)
	n := 0
	for ; ; n++ { // until it is full
		_, _ = random.Read(noise)
		if _, err = e.Append(t.Context(), []engine.Append{{Log: logA, Records: records(string(noise)), Count: 1}}); err != nil {
			break
		}
		if n > 10_000 {
			t.Fatal("the disk never fills")
		}
	}
	if !errors.Is(err, engine.ErrFull) {
		t.Fatalf("after %d records: %v", n, err)
	}
	junk, err := os.Create(filepath.Join(where, "junk")) // somebody else takes what was left
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := junk.Write(noise); err != nil {
			break
		}
	}
	_ = junk.Close()
	await := func(what string, ok func(level engine.Space) bool) {
		t.Helper()
		for begun := time.Now(); time.Since(begun) < 20*time.Second; {
			level, _ := e.Space()
			if ok(level) {
				return
			}
			time.Sleep(lookEvery / 4) // A disk is real, and so is its time.
		}
		t.Fatalf("%s: %v", what, e.space.mu.level)
	}
	gone := func() bool {
		_, err := os.Stat(filepath.Join(where, "store", ballastFile))
		return errors.Is(err, fs.ErrNotExist)
	}
	await("the ballast is given away", func(engine.Space) bool { return gone() })
	await("leases are over, commits go on", func(level engine.Space) bool { return level == engine.NoLease })
	for i := range 200 {
		if _, err := owner.Commit(t.Context(), engine.Batch{Writes: []engine.Write{{Key: []byte("position"), Value: []byte{byte(i)}}}}); err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	if err := e.Trim(t.Context(), logA, engine.Offset(n)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(junk.Name()); err != nil {
		t.Fatal(err)
	}
	await("publishing begins again by itself", func(level engine.Space) bool { return level == engine.Roomy })
	appendTo(t, e, logA, "again")
	await("the ballast is back", func(engine.Space) bool { return !gone() })
}
