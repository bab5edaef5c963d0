package sim

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// disk is the world's disk. It keeps what was synced when the power fails, and of the rest what the seed says.
type disk struct {
	w       *World
	mem     *vfs.MemFS
	home    *process // the storage that writes now
	full    bool
	rotted  bool // a bit was flipped
	deep    bool // so far from the end of the log that nobody can take it for a torn write
	crashes int
	failing bool // the next sync of a write-ahead log fails
}

func newDisk(w *World) *disk {
	return &disk{w: w, mem: vfs.NewCrashableMem()}
}

// fs is the disk for one life of the storage.
func (d *disk) fs(home *process) vfs.FS { return &diskFS{FS: d.mem, d: d, home: home} }

const blockSize = 4096

// crash replaces the disk's content by what is left of it.
func (d *disk) crash(percent int) {
	d.crashes++
	kept := d.mem.CrashClone(vfs.CrashCloneCfg{})
	all := d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))})
	left := map[string][]byte{}
	for _, name := range list(all) {
		left[name] = content(all, name)
	}
	if percent < 100 {
		left = d.blend(kept, all, percent)
	}
	d.harm(left, percent == 100)
	d.mem = vfs.NewCrashableMem()
	must(d.mem.MkdirAll("data", 0o700))
	for _, name := range sortedNames(left) {
		f, err := d.mem.Create("data/"+name, vfs.WriteCategoryUnspecified)
		must(err)
		_, err = f.Write(left[name])
		must(errors.Join(err, f.Sync(), f.Close()))
	}
	for _, dir := range []string{"data", ""} {
		f, err := d.mem.OpenDir(dir)
		must(err)
		must(errors.Join(f.Sync(), f.Close()))
	}
}

// blend takes what was synced and adds of the rest what the seed says, by file and block, whatever order maps have.
func (d *disk) blend(kept, all *vfs.MemFS, percent int) map[string][]byte {
	roll := func(name string, n int) bool {
		return int(hash64(d.w.plan.Seed+uint64(d.crashes)<<32, n, name)%100) < percent
	}
	left := map[string][]byte{}
	for _, name := range list(kept) {
		left[name] = content(kept, name)
	}
	for _, name := range list(all) {
		have, ok := left[name]
		if !ok && !roll(name, -1) {
			continue
		}
		full := content(all, name)
		for i := 0; i < len(full); i += blockSize {
			block := full[i:min(i+blockSize, len(full))]
			if !roll(name, i) {
				continue
			}
			if grow := i + len(block) - len(have); grow > 0 {
				have = append(have, make([]byte, grow)...)
			}
			copy(have[i:], block)
		}
		left[name] = have
	}
	return left
}

// harm is what worse disks do: it flips a bit of the newest write-ahead log if the nemesis asked for it.
// With the marks exact, as they are after a kill, a loss at the end of the log shows too.
func (d *disk) harm(left map[string][]byte, exact bool) {
	newest := ""
	for _, name := range sortedNames(left) {
		if strings.HasSuffix(name, ".log") {
			newest = name
		}
	}
	wal := left[newest]
	if len(wal) == 0 {
		return
	}
	if mutant.On(mutant.LastBlockSkipped) { // a replay that does not read the last block of a log
		end := len(wal)
		for end > 0 && wal[end-1] == 0 {
			end--
		}
		left[newest] = wal[:end/1024*1024]
	}
	if d.w.plan.Faults.Rot && !d.w.calm && !d.rotted {
		end := len(wal)
		for end > 0 && wal[end-1] == 0 {
			end--
		}
		if end == 0 {
			return
		}
		// Pebble tells a flipped bit from a write that was torn by what comes in later blocks of the log.
		const block = 32 << 10
		d.deep = end > 3*block
		if d.deep {
			end -= 2 * block
		} else if !exact {
			return
		}
		d.rotted = true
		d.w.fault("flipped bit")
		wal[hash64(d.w.plan.Seed, d.crashes, "flip")%uint64(end)] ^= 1 << (d.w.plan.Seed % 8)
	}
}

func list(fs *vfs.MemFS) []string {
	names, err := fs.List("data")
	if err != nil {
		return nil // not made yet
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { return n == "LOCK" || n == "lost" }) // what was put aside after a loss is not looked at again
}

func sortedNames(files map[string][]byte) []string {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func content(fs *vfs.MemFS, name string) []byte {
	f, err := fs.Open("data/" + name)
	must(err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(err)
	return b
}

func must(err error) {
	if err != nil {
		panic("sim: " + err.Error())
	}
}

// diskFS takes turns at the syncs of the write-ahead log: what happens before one is over is where durability is decided.
type diskFS struct {
	vfs.FS
	d    *disk
	home *process
}

func (f *diskFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	if f.d.full {
		return vfs.DiskUsage{AvailBytes: 200 << 10, TotalBytes: 1 << 30}, nil
	}
	return vfs.DiskUsage{AvailBytes: 1 << 29, TotalBytes: 1 << 30}, nil
}

func (f *diskFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(name)(f.FS.Create(name, c))
}

func (f *diskFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(name)(f.FS.ReuseForWrite(old, name, c))
}

func (f *diskFS) Unwrap() vfs.FS { return f.FS }

func (f *diskFS) wrap(name string) func(vfs.File, error) (vfs.File, error) {
	return func(file vfs.File, err error) (vfs.File, error) {
		if err != nil || !strings.HasSuffix(name, ".log") {
			return file, err
		}
		return &walFile{File: file, fs: f, name: f.FS.PathBase(name)}, nil
	}
}

type walFile struct {
	vfs.File
	fs   *diskFS
	name string
}

var errSync = errors.New("sim: the disk did not sync")

func (w *walFile) Sync() error {
	d := w.fs.d
	name := "sync " + w.name
	if d.w.store.opening { // Pebble opens with several goroutines at once, whose order is nobody's business
		return w.File.Sync()
	}
	d.w.gate.pass(w.fs.home, name)
	if w.fs.home.isDead() {
		return w.File.Sync()
	}
	if d.w.chance(d.w.plan.Faults.Stall, name+" stall") {
		d.w.fault("stalled sync")
		time.Sleep(time.Duration(hash64(d.w.plan.Seed, d.w.gate.step(), name) % uint64(8*time.Second)))
		d.w.gate.pass(w.fs.home, name+" stalled")
	}
	if d.failing && !w.fs.home.isDead() {
		d.failing = false
		d.w.fault("failed sync")
		return errSync
	}
	return w.File.Sync()
}

func (w *walFile) SyncData() error { return w.Sync() }
