package cutfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

func mounted(t *testing.T, o Options) (*Disk, string) {
	t.Helper()
	dir := t.TempDir()
	d, err := Mount(dir, o)
	if err != nil {
		t.Skipf("no disk can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, dir
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name string, at int64, data []byte, sync bool) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	_, err = f.WriteAt(data, at)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
}

func syncDir(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	must(t, f.Sync(), f.Close())
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	return data
}

func cut(t *testing.T, d *Disk, keep Keep, seed uint64) {
	t.Helper()
	must(t, d.Cut(keep, rand.New(rand.NewPCG(seed, 0)), func() {}, func() {}))
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func TestWhatWasSyncedSurvivesACutAndNothingElse(t *testing.T) {
	d, dir := mounted(t, Options{})
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	old, more := bytes.Repeat([]byte("old "), 4000), bytes.Repeat([]byte("new "), 4000)
	write(t, a, 0, old, true)
	syncDir(t, dir)
	write(t, a, 5000, more, false)
	write(t, b, 0, more, true) // its name is not synced
	if got := read(t, a); !bytes.Equal(got[5000:5000+len(more)], more) {
		t.Fatal("what was written cannot be read")
	}
	cut(t, d, Keep{}, 1)
	if got := read(t, a); !bytes.Equal(got, old) {
		t.Errorf("%d bytes came back, not the %d that were synced", len(got), len(old))
	}
	if exists(b) {
		t.Error("a file came back whose directory was not synced")
	}
	write(t, a, 0, more, false)
	cut(t, d, Keep{Share: 1}, 1)
	if got := read(t, a); !bytes.Equal(got, more) {
		t.Error("a cut that keeps everything lost something")
	}
}

func TestNamesChangeWholeOrNotAtAll(t *testing.T) {
	for _, journal := range []bool{false, true} {
		for seed := range uint64(20) {
			d, dir := mounted(t, Options{Journal: journal})
			from, to, other := filepath.Join(dir, "from"), filepath.Join(dir, "to"), filepath.Join(dir, "other")
			write(t, from, 0, []byte("x"), true)
			syncDir(t, dir)
			must(t, os.Rename(from, to))
			write(t, other, 0, []byte("y"), false)
			cut(t, d, Keep{Share: 0.5}, seed)
			if exists(from) == exists(to) {
				t.Errorf("seed %d: from is there: %v, to is there: %v", seed, exists(from), exists(to))
			}
			if journal && exists(other) && exists(from) {
				t.Errorf("seed %d: the later change came back without the earlier", seed)
			}
		}
	}
}

func TestAJournalMakesNamesDurableWithAnySync(t *testing.T) {
	d, dir := mounted(t, Options{Journal: true})
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	write(t, filepath.Join(dir, "sub", "a"), 0, []byte("a"), true)
	cut(t, d, Keep{}, 1)
	if got := read(t, filepath.Join(dir, "sub", "a")); string(got) != "a" {
		t.Errorf("%q came back", got)
	}
}

func TestTornBlocksAreTornBySectors(t *testing.T) {
	d, dir := mounted(t, Options{})
	name := filepath.Join(dir, "a")
	write(t, name, 0, bytes.Repeat([]byte{1}, 64*blockSize), true)
	syncDir(t, dir)
	write(t, name, 0, bytes.Repeat([]byte{2}, 64*blockSize), false)
	cut(t, d, Keep{Share: 0.5, Torn: true}, 7)
	got, kept, torn := read(t, name), 0, false
	for at := 0; at < len(got); at += sectorSize {
		sector := got[at : at+sectorSize]
		if !bytes.Equal(sector, bytes.Repeat(sector[:1], sectorSize)) {
			t.Fatalf("sector at %d is torn itself", at)
		}
		kept += int(sector[0]) - 1
		torn = torn || at%blockSize != 0 && sector[0] != got[at-1]
	}
	if !torn || kept < 150 || kept > 362 {
		t.Errorf("%d of 512 sectors were kept, blocks torn: %v", kept, torn)
	}
}

func TestAFileThatWasCutShortAndGrewAgainHasZeros(t *testing.T) {
	_, dir := mounted(t, Options{})
	name := filepath.Join(dir, "a")
	write(t, name, 0, bytes.Repeat([]byte{1}, 3*blockSize), true)
	must(t, os.Truncate(name, 100), os.Truncate(name, 3*blockSize))
	if got := read(t, name); len(got) != 3*blockSize || got[99] != 1 || !bytes.Equal(got[100:], make([]byte, 3*blockSize-100)) {
		t.Error("old bytes show where the file grew")
	}
}

func TestAMappedFileShowsWhatIsWritten(t *testing.T) {
	_, dir := mounted(t, Options{})
	name := filepath.Join(dir, "a")
	write(t, name, 0, bytes.Repeat([]byte{1}, 4*blockSize), true)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	mapped, err := syscall.Mmap(int(f.Fd()), 0, 4*blockSize, syscall.PROT_READ, syscall.MAP_SHARED)
	must(t, err)
	if mapped[blockSize] != 1 {
		t.Error("the map does not show what was there")
	}
	_, err = f.WriteAt([]byte{9}, blockSize)
	must(t, err)
	if mapped[blockSize] != 9 {
		t.Error("the map does not show what was written since")
	}
	must(t, syscall.Munmap(mapped))
}

func TestADiskRunsFullAndHasRoomAgain(t *testing.T) {
	d, dir := mounted(t, Options{Bytes: 1 << 20})
	err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 2<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the error is %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "big")))
	var s syscall.Statfs_t
	for begin := time.Now(); ; time.Sleep(time.Millisecond) { // the kernel tells that a file was closed some time after it was
		if must(t, syscall.Statfs(dir, &s)); int64(s.Bavail)*s.Bsize == 1<<20 || time.Since(begin) > 10*time.Second {
			break
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "small"), make([]byte, 1<<19), 0o600))
	must(t, syscall.Statfs(dir, &s))
	if free := int64(s.Bavail) * s.Bsize; free != 1<<19 {
		t.Errorf("%d bytes are free", free)
	}
	d.Resize(4 << 20)
	must(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 2<<20), 0o600))
}

func TestSyncsStall(t *testing.T) {
	d, dir := mounted(t, Options{})
	begin := time.Now()
	d.Stall(begin.Add(300 * time.Millisecond))
	write(t, filepath.Join(dir, "a"), 0, []byte("a"), true)
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("the sync took %v", took)
	}
}

func TestNobodyIsAnsweredOnceThePowerIsGone(t *testing.T) {
	d, dir := mounted(t, Options{})
	name := filepath.Join(dir, "a")
	write(t, name, 0, []byte("a"), true)
	syncDir(t, dir)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	answered := make(chan error, 1)
	must(t, d.Cut(Keep{Share: 1}, rand.New(rand.NewPCG(1, 1)), func() {
		go func() {
			_, err := f.WriteAt([]byte("b"), 0)
			answered <- errors.Join(err, f.Close())
		}()
		select {
		case err := <-answered:
			t.Errorf("answered before the power was gone: %v", err)
		case <-time.After(50 * time.Millisecond): // that it waits cannot be seen otherwise
		}
	}, func() {
		if err := <-answered; !errors.Is(err, syscall.EIO) {
			t.Errorf("the error is %v", err)
		}
	}))
	if got := read(t, name); string(got) != "a" {
		t.Errorf("%q came back", got)
	}
}

func TestADirectoryListsItsNames(t *testing.T) {
	_, dir := mounted(t, Options{})
	var want []string
	for i := range 300 {
		name := fmt.Sprintf("a-name-that-takes-some-room-%03d", i)
		write(t, filepath.Join(dir, name), 0, nil, false)
		if i%3 == 0 {
			must(t, os.Remove(filepath.Join(dir, name)))
		} else {
			want = append(want, name)
		}
	}
	list, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d names are listed: %q", len(got), got)
	}
}
