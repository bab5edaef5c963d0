package etcdcluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

func checkDir(t *testing.T, dir string) (found []string, c Checked, err error) {
	t.Helper()
	c, err = Check(t.Context(), dir, func(f engine.Finding) { found = append(found, f.String()) })
	return found, c, err
}

// files is the content of every file under a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all[path] = string(content)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCheckOfASoundEtcd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	if found, _, err := checkDir(t, dir); len(found) > 0 || err != nil {
		t.Errorf("a directory that is not there: %q, %v", found, err)
	}
	c := openForTest(t, dir)
	epoch := claimOne(t, c)
	if _, _, err := checkDir(t, dir); !errors.Is(err, ErrLocked) {
		t.Errorf("in use: %v", err)
	}
	die(t, c)
	before := files(t, dir)
	found, checked, err := checkDir(t, dir)
	if len(found) > 0 || err != nil || checked.Values < 3 || checked.Epoch < epoch {
		t.Errorf("found %q in %+v, %v; the last claim was at %d", found, checked, err, epoch)
	}
	after := files(t, dir)
	for name, content := range before {
		if after[name] != content {
			t.Errorf("the check changed %s", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("the check made files: %d, were %d", len(after), len(before))
	}
	c = openForTest(t, dir)
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestCheckOfADamagedEtcd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	c := openForTest(t, dir)
	claimOne(t, c)
	die(t, c)
	one := func(pattern string) string {
		names, err := filepath.Glob(filepath.Join(dir, "etcd", "member", pattern))
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		return names[0]
	}
	for name, tc := range map[string]struct {
		file string
		harm func([]byte) []byte
		want string
	}{
		"owner flipped": {"snap/db", func(b []byte) []byte {
			i := bytes.LastIndex(b, []byte(ownerKey(shard)))
			b[i+len(ownerKey(shard))+12] ^= 1 // in its value
			return b
		}, "fails its checksum"},
		"database cut":     {"snap/db", func(b []byte) []byte { return b[:3*os.Getpagesize()] }, "etcd/member/snap/db: "},
		"database empty":   {"snap/db", func([]byte) []byte { return nil }, "it is missing or empty"},
		"database garbage": {"snap/db", func(b []byte) []byte { return bytes.Repeat([]byte{0x5a}, len(b)) }, "etcd/member/snap/db: "},
		"log flipped": {"wal/*.wal", func(b []byte) []byte {
			b[bytes.Index(b, []byte(epochBaseKey))] ^= 1
			return b
		}, "etcd/member/wal: "},
	} {
		t.Run(name, func(t *testing.T) {
			file := one(tc.file)
			sound, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, tc.harm(bytes.Clone(sound)), 0o600); err != nil {
				t.Fatal(err)
			}
			found, _, err := checkDir(t, dir)
			if err != nil || !strings.Contains(strings.Join(found, "\n"), tc.want) || !strings.Contains(strings.Join(found, "\n"), "; stop the sidecar, move") {
				t.Errorf("found %q, %v, want %q", found, err, tc.want)
			}
			if err := os.WriteFile(file, sound, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	if found, _, err := checkDir(t, dir); len(found) > 0 || err != nil {
		t.Errorf("in the end: %q, %v", found, err)
	}
}

// TestAPageThatLeadsToItselfIsFound: bbolt would follow it until there is no more memory.
func TestAPageThatLeadsToItselfIsFound(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	c := openForTest(t, dir)
	claimOne(t, c)
	die(t, c)
	name := filepath.Join(dir, "etcd", "member", "snap", "db")
	root, size := rootPage(t, name)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, pageHeader+element)
	if _, err := f.ReadAt(page, int64(root)*int64(size)); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(page[8:], branchPage)
	binary.LittleEndian.PutUint16(page[10:], 1)
	binary.LittleEndian.PutUint64(page[pageHeader:], element) // an empty key behind the element
	binary.LittleEndian.PutUint64(page[pageHeader+8:], root)
	if _, err := f.WriteAt(page, int64(root)*int64(size)); err != nil {
		t.Fatal(err)
	}
	found, _, err := checkDir(t, dir)
	if err != nil || len(found) != 1 || !strings.Contains(found[0], "was come by before") {
		t.Errorf("%q, %v", found, err)
	}
}

// rootPage returns the root of a bbolt file, and its page size.
func rootPage(t *testing.T, name string) (root uint64, pageSize int) {
	t.Helper()
	db, err := bbolt.Open(name, 0o400, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		root, pageSize = uint64(tx.Cursor().Bucket().Root()), db.Info().PageSize
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return root, pageSize
}

// TestNoFlippedBitOfEtcdStopsTheCheck: wherever it is, the check ends and says something, or finds nothing in what etcd would read as it is.
func TestNoFlippedBitOfEtcdStopsTheCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	c := openForTest(t, dir)
	claimOne(t, c)
	die(t, c)
	file := filepath.Join(dir, "etcd", "member", "snap", "db")
	sound, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	used := len(bytes.TrimRight(sound, "\x00"))
	flips, some := 0, 0
	for at := 0; at < used; at += max(1, used/97) {
		for _, b := range []byte{sound[at] ^ 1<<(at%8), sound[at]} {
			if _, err := f.WriteAt([]byte{b}, int64(at)); err != nil {
				t.Fatal(err)
			}
			found, _, err := checkDir(t, dir)
			switch {
			case err != nil:
				t.Errorf("at %d: %v", at, err)
			case b == sound[at] && len(found) > 0:
				t.Errorf("once %d is mended: %q", at, found)
			case b != sound[at]:
				if flips++; len(found) > 0 {
					some++
				}
			}
		}
	}
	t.Logf("%d bits flipped, %d found", flips, some)
}

func TestEpochsOfANewEtcdAreAboveWhatItIsTold(t *testing.T) {
	const above = 1 << 50
	dir := filepath.Join(t.TempDir(), "etcd")
	c, err := Open(t.Context(), Options{Dir: dir, Above: above})
	if err != nil {
		t.Fatal(err)
	}
	if epoch := claimOne(t, c); epoch <= above {
		t.Errorf("epoch %d", epoch)
	}
	die(t, c)
	c = openForTest(t, dir) // which remembers it
	if epoch := claimOne(t, c); epoch <= above {
		t.Errorf("epoch %d of a restart", epoch)
	}
	die(t, c)
}
