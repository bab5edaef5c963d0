package sidecar

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A backup is a directory with the store's files under storeDir, and this file, which is written last: a directory without it is no backup.
const manifestFile = "backup.json"

// backupVersion is raised by every change that an older binary cannot restore.
const backupVersion = 1

// ErrBackup says that a directory cannot be used as a backup, or for one. The error around it says why and what to do.
var ErrBackup = errors.New("backup cannot be used")

// Manifest is what a backup holds.
type Manifest struct {
	Version     int            `json:"typedmqBackup"`
	StoreFormat uint32         `json:"storeFormat"`
	Commit      uint64         `json:"commit"` // the last one in it
	Time        time.Time      `json:"time"`   // when it was made
	Files       []ManifestFile `json:"files"`
}

// ManifestFile is a file of a backup. Its name has slashes and begins at the backup's directory.
type ManifestFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Bytes is what the files have together.
func (m Manifest) Bytes() (sum int64) {
	for _, f := range m.Files {
		sum += f.Size
	}
	return sum
}

// BackupWriter writes a backup, file by file. Its first error stays.
type BackupWriter struct {
	dir  string
	made bool // the directory was not there
	file *os.File
	name string
	want int64
	size int64
	sum  hash.Hash
	list []ManifestFile
}

// NewBackup begins a backup in a directory that is empty or does not exist. Errors: ErrBackup, those of the file system.
func NewBackup(dir string) (*BackupWriter, error) {
	made, err := emptyDir(dir, ErrBackup)
	if err != nil {
		return nil, err
	}
	w := &BackupWriter{dir: dir, made: made}
	if err := os.MkdirAll(filepath.Join(dir, storeDir), 0o700); err != nil {
		return nil, err
	}
	return w, nil
}

// emptyDir refuses a directory with something in it, with an error that wraps fault. missing says that there is none.
func emptyDir(dir string, fault error) (missing bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w; name a directory", fault, err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return false, fmt.Errorf("%w: %s is not empty: it has %s; name an empty directory, or one that does not exist", fault, dir, e.Name())
		}
	}
	return false, nil
}

// Begin begins the next file of the store.
func (w *BackupWriter) Begin(name string, size int64) error {
	if w.file != nil || name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`) {
		return fmt.Errorf("%w: unexpected file %q", ErrBackup, name)
	}
	f, err := os.OpenFile(filepath.Join(w.dir, storeDir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.file, w.name, w.want, w.size, w.sum = f, name, size, 0, sha256.New()
	return nil
}

// Write adds bytes to the file that was begun.
func (w *BackupWriter) Write(p []byte) (int, error) {
	if w.file == nil {
		return 0, fmt.Errorf("%w: bytes of no file", ErrBackup)
	}
	n, err := w.file.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// End ends a file, whose SHA-256 must be sum, and returns when it is durable.
func (w *BackupWriter) End(sum []byte) error {
	if w.file == nil {
		return fmt.Errorf("%w: the end of no file", ErrBackup)
	}
	err := errors.Join(w.file.Sync(), w.file.Close())
	w.file = nil
	have := w.sum.Sum(nil)
	if err == nil && (w.size != w.want || !bytes.Equal(sum, have)) {
		err = fmt.Errorf("%w: file %s arrived with %d bytes of %d, or changed on the way", ErrBackup, w.name, w.size, w.want)
	}
	w.list = append(w.list, ManifestFile{storeDir + "/" + w.name, w.size, hex.EncodeToString(have)})
	return err
}

// Finish writes the manifest, which makes a backup of the directory. files is how many there must be.
func (w *BackupWriter) Finish(format uint32, commit uint64, made time.Time, files int) (Manifest, error) {
	m := Manifest{Version: backupVersion, StoreFormat: format, Commit: commit, Time: made.UTC(), Files: w.list}
	if w.file != nil || len(w.list) != files {
		return m, fmt.Errorf("%w: %d of %d files arrived", ErrBackup, len(w.list), files)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	name := filepath.Join(w.dir, manifestFile)
	if err := errors.Join(syncDirectory(filepath.Join(w.dir, storeDir)), writeDurably(name+".new", append(text, '\n'))); err != nil {
		return m, err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return m, err
	}
	return m, errors.Join(syncDirectory(w.dir), syncDirectory(filepath.Dir(w.dir)))
}

// Abandon removes what was written.
func (w *BackupWriter) Abandon() error {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
	err := errors.Join(os.RemoveAll(filepath.Join(w.dir, storeDir)), os.RemoveAll(filepath.Join(w.dir, manifestFile+".new")))
	if w.made && err == nil {
		return os.Remove(w.dir)
	}
	return err
}

// ReadManifest reads what a backup holds. Errors: ErrBackup.
func ReadManifest(dir string) (m Manifest, err error) {
	text, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%w: %s has no %s: it is no backup, or one that was interrupted; name the directory that mq backup wrote", ErrBackup, dir, manifestFile)
	}
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%w: %s is damaged: %w; use another backup", ErrBackup, filepath.Join(dir, manifestFile), err)
	}
	switch {
	case m.Version > backupVersion:
		return m, fmt.Errorf("%w: a newer version made it (%d, this one knows up to %d); use that version, or a later one", ErrBackup, m.Version, backupVersion)
	case m.Version < 1 || len(m.Files) == 0:
		return m, fmt.Errorf("%w: %s is no manifest of a backup; use another backup", ErrBackup, filepath.Join(dir, manifestFile))
	}
	for _, f := range m.Files {
		if base, ok := strings.CutPrefix(f.Name, storeDir+"/"); !ok || base == "" || base == ".." || strings.ContainsAny(base, `/\`) {
			return m, fmt.Errorf("%w: its manifest names file %q, which no backup has", ErrBackup, f.Name)
		}
	}
	return m, nil
}

func writeDurably(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDirectory(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
