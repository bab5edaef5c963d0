// Package cutfs is a disk that can lose its power: a file system in memory that the kernel mounts through FUSE, so that whole processes live on it,
// with all their files. It keeps what was synced apart from what was only written, stalls syncs, and runs full.
//
// It models what Linux file systems promise and no more: a file's data and length are durable once the file is synced, a change of a directory
// once the directory is. Under Journal a sync makes every earlier change of a directory durable too, as ext4 and XFS do.
package cutfs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	blockSize  = 4096
	sectorSize = 512
)

type block [blockSize]byte

// reserved is a block that was allocated and never written. It is not changed by anybody.
var reserved = new(block)

// Disk is a mounted file system. Its methods are safe for concurrent use; Cut and Close are called by one goroutine.
type Disk struct {
	dir     string
	journal bool
	server  *fuse.Server

	mu struct {
		sync.Mutex
		inodes   map[uint64]*inode
		next     uint64
		pending  []change // of directories, in order, not durable yet
		handles  map[uint64][]fuse.DirEntry
		used     int64 // blocks
		capacity int64 // blocks

		frozen  chan struct{} // closed when calls may go on; nil while they do
		dead    bool          // calls fail: there is no power
		stalled time.Time     // until when syncs take
		syncs   int64
	}
}

// inode is a file or a directory. Blocks in dirty are its own; all others may be shared by now and durable, and are copied before they are written.
type inode struct {
	number       uint64
	mode         uint32
	modified     time.Time
	opens        int
	now, durable content
	dirty        map[int]struct{}

	entries, durableEntries map[string]uint64 // nil for a file
}

type content struct {
	blocks []*block // nil where nothing was written
	size   int64
}

// change is what happened to names, all of it or nothing: a rename has two.
type change []naming

type naming struct {
	dir  uint64
	name string
	to   uint64 // 0 for removed
}

// Options of Mount.
type Options struct {
	// Bytes is the size of the disk. Default: 4 GiB.
	Bytes int64
	// Journal makes directories durable as journaling file systems do: in order, and with every sync. Otherwise each change is on its own until its
	// directory is synced, which is all that POSIX promises.
	Journal bool
}

// Mount makes an empty disk at a directory, which must exist. It needs /dev/fuse and the right to mount. The disk must be closed.
func Mount(dir string, o Options) (*Disk, error) {
	if o.Bytes == 0 {
		o.Bytes = 4 << 30
	}
	d := &Disk{dir: dir, journal: o.Journal}
	d.mu.inodes = map[uint64]*inode{}
	d.mu.handles = map[uint64][]fuse.DirEntry{}
	d.mu.capacity = o.Bytes / blockSize
	d.mu.next = fuse.FUSE_ROOT_ID
	d.addLocked(syscall.S_IFDIR | 0o700)
	return d, d.mount()
}

func (d *Disk) mount() error {
	syscall.ForkLock.RLock() // go-fuse's descriptor would be passed on to every process that is started, and keep the mount waiting for answers
	defer syscall.ForkLock.RUnlock()
	server, err := fuse.NewServer(&files{RawFileSystem: fuse.NewDefaultRawFileSystem(), disk: d}, d.dir, &fuse.MountOptions{
		FsName: "cutfs", Name: "cutfs", DirectMountStrict: true, MaxWrite: 1 << 20, DisableXAttrs: true, DisableReadDirPlus: true,
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w", d.dir, err)
	}
	if err := closeOnExec("/dev/fuse"); err != nil {
		return errors.Join(err, server.Unmount())
	}
	d.server = server
	go server.Serve() // ends with the mount
	return server.WaitMount()
}

// closeOnExec keeps this process's descriptors of a file from the processes that it starts.
func closeOnExec(file string) error {
	const own = "/proc/self/fd"
	all, err := os.ReadDir(own)
	if err != nil {
		return err
	}
	for _, entry := range all {
		if to, err := os.Readlink(filepath.Join(own, entry.Name())); err != nil || to != file {
			continue // also one that was closed meanwhile
		}
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		syscall.CloseOnExec(fd)
	}
	return nil
}

// unmount tries for a while: the kernel frees the files of a killed process a moment after it is gone.
func (d *Disk) unmount() error {
	var err error
	for range 200 {
		if err = d.server.Unmount(); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("unmount %s: %w", d.dir, err)
}

// Close unmounts the disk and forgets it, even if somebody still uses it.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.mu.dead = true
	if d.mu.frozen != nil {
		close(d.mu.frozen)
		d.mu.frozen = nil
	}
	d.mu.Unlock()
	if d.unmount() == nil {
		return nil
	}
	return syscall.Unmount(d.dir, syscall.MNT_DETACH)
}

// Keep is what of the unsynced survives a cut.
type Keep struct {
	Share float64 // of the unsynced blocks and names, 0 to 1
	Torn  bool    // blocks are kept by sectors of 512 bytes
}

// Cut takes the power away: no call goes on from here. It has kill end the processes, which must not wait for them, then wait wait until they are
// gone, and comes back with what the disk held. What survives of the unsynced is drawn from rng.
func (d *Disk) Cut(keep Keep, rng *rand.Rand, kill func(), wait func()) error {
	d.mu.Lock()
	d.mu.frozen = make(chan struct{})
	d.mu.Unlock()
	kill()
	d.mu.Lock()
	d.mu.dead = true
	close(d.mu.frozen)
	d.mu.frozen = nil
	d.mu.Unlock()
	wait()
	if err := d.unmount(); err != nil {
		return err
	}
	d.mu.Lock()
	d.revertLocked(keep, rng)
	d.mu.dead, d.mu.stalled = false, time.Time{}
	d.mu.Unlock()
	return d.mount()
}

// Stall makes syncs that begin within the next moments take until then.
func (d *Disk) Stall(until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.stalled = until
}

// Resize changes the size of the disk. What is on it stays, also if it is more.
func (d *Disk) Resize(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.capacity = bytes / blockSize
}

// Syncs counts the syncs of files and directories.
func (d *Disk) Syncs() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.syncs
}

var errDead = errors.New("no power")

// enter waits while the disk is frozen. It returns with the lock held, whatever it returns.
func (d *Disk) enter() error {
	d.mu.Lock()
	for d.mu.frozen != nil {
		frozen := d.mu.frozen
		d.mu.Unlock()
		<-frozen
		d.mu.Lock()
	}
	if d.mu.dead {
		return errDead
	}
	return nil
}

func (d *Disk) addLocked(mode uint32) *inode {
	n := &inode{number: d.mu.next, mode: mode, modified: time.Now(), dirty: map[int]struct{}{}}
	if mode&syscall.S_IFDIR != 0 {
		n.entries, n.durableEntries = map[string]uint64{}, map[string]uint64{}
	}
	d.mu.inodes[n.number] = n
	d.mu.next++
	return n
}

// applyLocked makes a change of names visible, and durable later.
func (d *Disk) applyLocked(c change) {
	for _, e := range c {
		dir := d.mu.inodes[e.dir]
		dir.modified = time.Now()
		set(dir.entries, e.name, e.to)
	}
	d.mu.pending = append(d.mu.pending, c)
}

func set(entries map[string]uint64, name string, to uint64) {
	if to == 0 {
		delete(entries, name)
	} else {
		entries[name] = to
	}
}

// persistLocked makes those pending changes durable that want chooses.
func (d *Disk) persistLocked(want func(i int, c change) bool) {
	var rest []change
	for i, c := range d.mu.pending {
		if !want(i, c) {
			rest = append(rest, c)
			continue
		}
		for _, e := range c {
			set(d.mu.inodes[e.dir].durableEntries, e.name, e.to)
		}
	}
	d.mu.pending = rest
}

// syncLocked makes a file's content, or a directory's names, durable.
func (d *Disk) syncLocked(n *inode) {
	d.mu.syncs++
	n.persist()
	switch {
	case d.journal:
		d.persistLocked(func(int, change) bool { return true })
	case n.entries != nil:
		d.persistLocked(func(_ int, c change) bool {
			return slices.ContainsFunc(c, func(e naming) bool { return e.dir == n.number })
		})
	}
	if n.entries != nil {
		d.collectLocked()
	}
}

func (n *inode) persist() {
	n.durable.grow(len(n.now.blocks))
	for i := range n.dirty {
		if i < len(n.now.blocks) {
			n.durable.blocks[i] = n.now.blocks[i]
		}
	}
	n.durable.blocks = n.durable.blocks[:len(n.now.blocks)]
	n.durable.size = n.now.size
	clear(n.dirty)
}

func (c *content) grow(blocks int) {
	for len(c.blocks) < blocks {
		c.blocks = append(c.blocks, nil)
	}
}

// revertLocked is what the disk looks like after the power came back.
func (d *Disk) revertLocked(keep Keep, rng *rand.Rand) {
	if d.journal { // a prefix of what happened
		n := 0
		for n < len(d.mu.pending) && rng.Float64() < keep.Share {
			n++
		}
		d.persistLocked(func(i int, _ change) bool { return i < n })
	} else {
		d.persistLocked(func(int, change) bool { return rng.Float64() < keep.Share })
	}
	d.mu.pending = nil
	numbers := make([]uint64, 0, len(d.mu.inodes))
	for number := range d.mu.inodes {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		n := d.mu.inodes[number]
		n.opens = 0
		if n.entries != nil {
			clear(n.entries)
			for name, to := range n.durableEntries {
				n.entries[name] = to
			}
			continue
		}
		n.revert(keep, rng)
	}
	clear(d.mu.handles)
	d.collectLocked()
}

// revert keeps some of the unsynced blocks of a file. Its length is the durable one, the present one, or one between them.
func (n *inode) revert(keep Keep, rng *rand.Rand) {
	size := n.durable.size
	if n.now.size != size && rng.Float64() < keep.Share {
		size = n.now.size
		if low := n.durable.size; low < size && rng.IntN(2) == 0 {
			size = low + rng.Int64N(size-low+1)
		}
	}
	dirty := make([]int, 0, len(n.dirty))
	for i := range n.dirty {
		dirty = append(dirty, i)
	}
	slices.Sort(dirty)
	blocks := int((size + blockSize - 1) / blockSize)
	n.durable.grow(max(blocks, len(n.now.blocks)))
	for _, i := range dirty {
		if i >= len(n.now.blocks) || n.now.blocks[i] == nil || i >= blocks {
			continue
		}
		if !keep.Torn {
			if rng.Float64() < keep.Share {
				n.durable.blocks[i] = n.now.blocks[i]
			}
			continue
		}
		torn := new(block)
		if old := n.durable.blocks[i]; old != nil {
			*torn = *old
		}
		for at := 0; at < blockSize; at += sectorSize {
			if rng.Float64() < keep.Share {
				copy(torn[at:at+sectorSize], n.now.blocks[i][at:])
			}
		}
		n.durable.blocks[i] = torn
	}
	n.durable.size = size
	n.durable.blocks = n.durable.blocks[:blocks]
	n.durable.zeroTail()
	n.now = content{slices.Clone(n.durable.blocks), size}
	clear(n.dirty)
}

// zeroTail clears what lies behind the end in the last block, so that a file that grows again has zeros there.
func (c *content) zeroTail() {
	at := int(c.size % blockSize)
	if at == 0 || len(c.blocks) == 0 {
		return
	}
	i := int(c.size / blockSize)
	if i >= len(c.blocks) || c.blocks[i] == nil || c.blocks[i] == reserved {
		return
	}
	cut := *c.blocks[i]
	clear(cut[at:])
	c.blocks[i] = &cut
}

// collectLocked drops files that have no name any more, neither now nor after a cut, and counts what is used.
func (d *Disk) collectLocked() {
	live, visible := map[uint64]bool{}, map[uint64]bool{}
	var mark func(seen map[uint64]bool, number uint64, names func(*inode) map[string]uint64)
	mark = func(seen map[uint64]bool, number uint64, names func(*inode) map[string]uint64) {
		n := d.mu.inodes[number]
		if n == nil || seen[number] {
			return
		}
		seen[number] = true
		for _, to := range names(n) {
			mark(seen, to, names)
		}
	}
	mark(visible, fuse.FUSE_ROOT_ID, func(n *inode) map[string]uint64 { return n.entries })
	mark(live, fuse.FUSE_ROOT_ID, func(n *inode) map[string]uint64 { return n.durableEntries })
	for _, c := range d.mu.pending {
		for _, e := range c {
			live[e.dir] = true
			live[e.to] = true
		}
	}
	d.mu.used = 0
	for number, n := range d.mu.inodes {
		switch {
		case visible[number] || n.opens > 0:
			for _, b := range n.now.blocks {
				if b != nil {
					d.mu.used++
				}
			}
		case !live[number]:
			delete(d.mu.inodes, number)
		}
	}
}
