package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

// restoringDir is the store while it is restored. A sidecar does not start beside it.
const restoringDir = storeDir + ".restoring"

// Restore makes a data directory, which must be empty or not exist, from a backup. Every file is held against the manifest. The store that it makes is one of
// its own: its owners have epochs above all that the original has given out, and every lease token that was given out before is refused.
// Errors: ErrBackup, ErrDataDir, those of the file system, that of ctx. After an error nothing is left in dir.
func Restore(ctx context.Context, backup, dir string) (_ Manifest, err error) {
	m, err := ReadManifest(backup)
	if err != nil {
		return m, err
	}
	if err := onlyListed(backup, m); err != nil {
		return m, err
	}
	missing, err := emptyDir(dir, ErrDataDir)
	if err != nil {
		return m, err
	}
	at := filepath.Join(dir, restoringDir)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return m, fmt.Errorf("%w: %w; choose another directory", ErrDataDir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(at))
			if missing {
				_ = os.Remove(dir)
			}
		}
	}()
	for _, f := range m.Files {
		if err := copyListed(ctx, filepath.Join(backup, filepath.FromSlash(f.Name)), filepath.Join(at, filepath.Base(f.Name)), f); err != nil {
			return m, err
		}
	}
	if err := syncDirectory(at); err != nil {
		return m, err
	}
	if err := disown(ctx, at); err != nil {
		return m, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if err := os.Rename(at, filepath.Join(dir, storeDir)); err != nil {
		return m, err
	}
	return m, errors.Join(syncDirectory(dir), syncDirectory(filepath.Dir(dir)))
}

// onlyListed refuses a backup with files that its manifest does not know.
func onlyListed(backup string, m Manifest) error {
	entries, err := os.ReadDir(filepath.Join(backup, storeDir))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	for _, e := range entries {
		if !slices.ContainsFunc(m.Files, func(f ManifestFile) bool { return f.Name == storeDir+"/"+e.Name() }) {
			return fmt.Errorf("%w: it has a file %s that its manifest does not list: something wrote there since; use another backup", ErrBackup, e.Name())
		}
	}
	return nil
}

// copyListed copies a file and holds it against the manifest.
func copyListed(ctx context.Context, from, to string, listed ManifestFile) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("%w: %w; use another backup", ErrBackup, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	if n != listed.Size || hex.EncodeToString(sum.Sum(nil)) != listed.SHA256 {
		return fmt.Errorf("%w: %s is not the file that was backed up (%d bytes of %d, or other ones); use another backup", ErrBackup, listed.Name, n, listed.Size)
	}
	return nil
}

// disown parts the copy of a store from the original.
func disown(ctx context.Context, store string) (err error) {
	e, err := pebbleengine.Open(store, pebbleengine.Options{MinFreeBytes: -1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	highest, err := e.HighestEpoch(ctx)
	if err != nil {
		return err
	}
	// The time is above what the original goes on to give out, as long as it has fewer than a thousand changes a second; see package etcdcluster.
	epoch := max(highest+1, engine.Epoch(time.Now().UnixMilli()))
	if err := e.FenceAll(ctx, epoch); err != nil {
		return err
	}
	return broker.Disown(ctx, e, epoch)
}

// restored refuses a data directory whose restore did not end.
func restored(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, restoringDir)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the restore of a backup into %s did not end; remove what is in it and restore again", ErrDataDir, dir)
	}
	return nil
}
