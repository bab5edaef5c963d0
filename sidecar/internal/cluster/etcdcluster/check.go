package etcdcluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// doRebuild is what to do about anything that is found in etcd: it holds nothing that cannot be rebuilt.
const doRebuild = "stop the sidecar, move the directory etcd aside and start it: it makes a new one, and only what consumers hold is delivered again"

// Checked is what a check of etcd's files looked at.
type Checked struct {
	Values int64 // stored revisions of keys of ours
	// Epoch is that of a claim at the last revision that is in the database, 0 if there is none. What is in the log alone comes on top.
	Epoch engine.Epoch

	base, revision uint64
	touched        uint32
}

// Check verifies etcd's files in dir, the directory that Open was given, while nobody uses it: the log and the snapshots by their own checksums, the
// database by reading all of it, and each of our values in it by ours. It writes nothing. A directory that does not exist is sound: Open makes it.
//
// Errors: ErrLocked, and those of the file system.
func Check(ctx context.Context, dir string, report func(engine.Finding)) (Checked, error) {
	var c Checked
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	unlock, err := lockExisting(filepath.Join(dir, "LOCK"))
	if err != nil {
		return c, fmt.Errorf("etcd in %s: %w", dir, err)
	}
	defer unlock()
	return check(ctx, dir, report)
}

// check is Check for who has the lock.
func check(ctx context.Context, dir string, report func(engine.Finding)) (c Checked, err error) {
	member := filepath.Join(dir, "etcd", "member")
	if _, err := os.Stat(member); errors.Is(err, fs.ErrNotExist) { // it ended before etcd began
		return c, nil
	}
	found := func(place string, err error) {
		line, _, _ := strings.Cut(err.Error(), "\n")
		report(engine.Finding{Place: place, What: line, Do: doRebuild})
	}
	for _, part := range []struct {
		place string
		check func() error
	}{
		{"etcd/member/wal", func() error { return checkLog(filepath.Join(member, "wal")) }},
		{"etcd/member/snap", func() error { return checkSnapshots(filepath.Join(member, "snap")) }},
		{"etcd/member/snap/db", func() error { return c.database(ctx, filepath.Join(member, "snap", "db"), report) }},
	} {
		switch err := caught(part.check); {
		case ctx.Err() != nil:
			return c, ctx.Err()
		case errors.Is(err, fs.ErrPermission):
			return c, err
		case err != nil:
			found(part.place, err)
		}
	}
	return c, nil
}

// lockExisting keeps a sidecar from starting, without making anything.
func lockExisting(name string) (unlock func(), err error) {
	lock, err := fileutil.TryLockFile(name, os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EROFS): // then nobody can have it
		return func() {}, nil
	case errors.Is(err, fileutil.ErrLocked):
		return nil, ErrLocked
	case err != nil:
		return nil, err
	}
	return func() { _ = lock.Close() }, nil
}

// caught makes errors of the panics that etcd and bbolt have for damaged files, also of reads past the end of a file that is mapped to memory.
func caught(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v", p)
		}
	}()
	return f()
}

func checkLog(dir string) error {
	silent := zap.NewNop()
	snaps, err := wal.ValidSnapshotEntries(silent, dir)
	if err != nil {
		return err
	}
	last := &walpb.Snapshot{}
	if n := len(snaps); n > 0 {
		last = snaps[n-1]
	}
	_, err = wal.Verify(silent, dir, last)
	return err
}

func checkSnapshots(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.snap"))
	for _, name := range names {
		if _, also := snap.Read(zap.NewNop(), name); also != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", filepath.Base(name), also))
		}
	}
	return err
}

// database reads every page of etcd's database that is in use, and checks our values.
func (c *Checked) database(ctx context.Context, name string, report func(engine.Finding)) error {
	info, err := os.Stat(name)
	if err != nil || info.Size() == 0 { // which bbolt would fill
		return errors.Join(err, errors.New("it is missing or empty"))
	}
	db, err := bbolt.Open(name, 0o400, &bbolt.Options{ReadOnly: true, Timeout: 100 * time.Millisecond})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return ErrLocked
	}
	if err != nil {
		return err
	}
	defer db.Close()
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return db.View(func(tx *bbolt.Tx) error {
		if info.Size() < tx.Size() { // what is gone need not be in use now
			return fmt.Errorf("it was cut short: it has %d bytes, should have %d", info.Size(), tx.Size())
		}
		if err := checkTree(tx, file); err != nil {
			return err
		}
		return tx.ForEach(func(bucket []byte, b *bbolt.Bucket) error {
			ours := bytes.Equal(bucket, []byte("key"))
			return b.ForEach(func(key, value []byte) error {
				c.touched += crc32.ChecksumIEEE(value) // reads all of it: past the end of a file that was cut short, that faults
				if ours {
					c.value(key, value, report)
				}
				return ctx.Err()
			})
		})
	})
}

// value checks one revision of a key.
func (c *Checked) value(revision, encoded []byte, report func(engine.Finding)) {
	const length, marked = 17, 18 // main, '_', sub, and 't' of a deletion
	at := fmt.Sprintf("revision %x", revision)
	fault := func(what string) {
		report(engine.Finding{Place: "etcd/member/snap/db", At: at, What: what, Do: doRebuild})
	}
	if len(revision) != length && len(revision) != marked || revision[8] != '_' {
		fault("the revision is malformed")
		return
	}
	main := binary.BigEndian.Uint64(revision)
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(encoded, &kv); err != nil {
		fault("the value does not decode: " + err.Error())
		return
	}
	key := string(kv.GetKey())
	if len(revision) == marked || !strings.HasPrefix(key, keyRoot) {
		return
	}
	c.Values++
	at = fmt.Sprintf("revision %d", main)
	text, err := unseal(key, kv.GetValue())
	if err != nil {
		fault(err.Error())
		return
	}
	if key == epochBaseKey {
		var base uint64
		if _, err := fmt.Sscan(text, &base); err != nil {
			fault(fmt.Sprintf("the epoch base is %q", text))
			return
		}
		c.base = base
	}
	c.revision = max(c.revision, main)
	c.Epoch = engine.Epoch(c.base + c.revision)
}
