package cutfs

import (
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// files answers the kernel. Its calls come concurrently and hold the disk's lock but while a sync is stalled.
type files struct {
	fuse.RawFileSystem
	disk *Disk
}

// timeout is for how long the kernel may remember names and attributes: nobody but the kernel changes them.
const timeout = time.Minute

func (f *files) String() string { return "cutfs" }

func (f *files) fill(n *inode, a *fuse.Attr) {
	a.Ino, a.Mode, a.Size = n.number, n.mode, uint64(n.now.size)
	a.Blocks, a.Blksize, a.Nlink = uint64(len(n.now.blocks)*blockSize/sectorSize), blockSize, 1
	t := n.modified
	a.SetTimes(&t, &t, &t)
}

func (f *files) entry(n *inode, out *fuse.EntryOut) {
	out.NodeId = n.number
	out.SetEntryTimeout(timeout)
	out.SetAttrTimeout(timeout)
	f.fill(n, &out.Attr)
}

// at enters and finds an inode. The caller unlocks the disk, whatever is returned.
func (f *files) at(number uint64) (*inode, fuse.Status) {
	if f.disk.enter() != nil {
		return nil, fuse.EIO
	}
	n := f.disk.mu.inodes[number]
	if n == nil {
		return nil, fuse.ENOENT
	}
	return n, fuse.OK
}

func (f *files) child(dir uint64, name string) (*inode, *inode, fuse.Status) {
	n, status := f.at(dir)
	if status != fuse.OK {
		return nil, nil, status
	}
	if n.entries == nil {
		return nil, nil, fuse.ENOTDIR
	}
	return n, f.disk.mu.inodes[n.entries[name]], fuse.OK
}

func (f *files) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer f.disk.mu.Unlock()
	_, n, status := f.child(h.NodeId, name)
	if status != fuse.OK {
		return status
	}
	if n == nil {
		return fuse.ENOENT
	}
	f.entry(n, out)
	return fuse.OK
}

func (f *files) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer f.disk.mu.Unlock()
	n, status := f.at(in.NodeId)
	if status != fuse.OK {
		return status
	}
	out.SetTimeout(timeout)
	f.fill(n, &out.Attr)
	return fuse.OK
}

func (f *files) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer f.disk.mu.Unlock()
	n, status := f.at(in.NodeId)
	if status != fuse.OK {
		return status
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&0o7777
	}
	if size, ok := in.GetSize(); ok {
		f.disk.truncateLocked(n, int64(size))
	}
	if t, ok := in.GetMTime(); ok {
		n.modified = t
	}
	out.SetTimeout(timeout)
	f.fill(n, &out.Attr)
	return fuse.OK
}

func (d *Disk) truncateLocked(n *inode, size int64) {
	blocks := int((size + blockSize - 1) / blockSize)
	for i := blocks; i < len(n.now.blocks); i++ {
		n.dirty[i] = struct{}{} // a file that grows again has a hole there
		if n.now.blocks[i] != nil {
			d.mu.used--
		}
	}
	if blocks < len(n.now.blocks) {
		n.now.blocks = n.now.blocks[:blocks]
	}
	n.now.grow(blocks)
	shrinks := size < n.now.size
	n.now.size = size
	if shrinks {
		n.now.zeroTail()
		if at := int(size / blockSize); size%blockSize != 0 && at < blocks {
			n.dirty[at] = struct{}{}
		}
	}
	for i := len(n.durable.blocks); i < blocks; i++ {
		n.dirty[i] = struct{}{}
	}
	n.modified = time.Now()
}

func (f *files) create(dir uint64, name string, mode uint32, out *fuse.EntryOut) (*inode, fuse.Status) {
	_, n, status := f.child(dir, name)
	if status != fuse.OK {
		return nil, status
	}
	if n != nil {
		return nil, fuse.Status(syscall.EEXIST)
	}
	n = f.disk.addLocked(mode)
	f.disk.applyLocked(change{{dir, name, n.number}})
	f.entry(n, out)
	return n, fuse.OK
}

func (f *files) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer f.disk.mu.Unlock()
	n, status := f.create(in.NodeId, name, syscall.S_IFREG|in.Mode&0o7777, &out.EntryOut)
	if status == fuse.OK {
		n.opens++
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	return status
}

func (f *files) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	defer f.disk.mu.Unlock()
	_, status := f.create(in.NodeId, name, in.Mode, out)
	return status
}

func (f *files) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer f.disk.mu.Unlock()
	_, status := f.create(in.NodeId, name, syscall.S_IFDIR|in.Mode&0o7777, out)
	return status
}

func (f *files) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(h.NodeId, name, false)
}

func (f *files) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(h.NodeId, name, true)
}

func (f *files) remove(dir uint64, name string, wantDir bool) fuse.Status {
	defer f.disk.mu.Unlock()
	_, n, status := f.child(dir, name)
	switch {
	case status != fuse.OK:
		return status
	case n == nil:
		return fuse.ENOENT
	case wantDir && n.entries == nil:
		return fuse.ENOTDIR
	case !wantDir && n.entries != nil:
		return fuse.Status(syscall.EISDIR)
	case len(n.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	f.disk.applyLocked(change{{dir, name, 0}})
	f.disk.collectLocked()
	return fuse.OK
}

func (f *files) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	defer f.disk.mu.Unlock()
	_, n, status := f.child(in.NodeId, from)
	if status != fuse.OK {
		return status
	}
	target := f.disk.mu.inodes[in.Newdir]
	switch {
	case n == nil || target == nil:
		return fuse.ENOENT
	case in.Flags&^1 != 0: // only RENAME_NOREPLACE
		return fuse.EINVAL
	}
	if old := f.disk.mu.inodes[target.entries[to]]; old != nil {
		switch {
		case in.Flags&1 != 0:
			return fuse.Status(syscall.EEXIST)
		case len(old.entries) > 0:
			return fuse.Status(syscall.ENOTEMPTY)
		}
	}
	f.disk.applyLocked(change{{in.NodeId, from, 0}, {in.Newdir, to, n.number}})
	f.disk.collectLocked()
	return fuse.OK
}

func (f *files) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer f.disk.mu.Unlock()
	_, there, status := f.child(in.NodeId, name)
	if status != fuse.OK {
		return status
	}
	n := f.disk.mu.inodes[in.Oldnodeid]
	if n == nil {
		return fuse.ENOENT
	}
	if there != nil {
		return fuse.Status(syscall.EEXIST)
	}
	f.disk.applyLocked(change{{in.NodeId, name, n.number}})
	f.entry(n, out)
	return fuse.OK
}

func (f *files) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer f.disk.mu.Unlock()
	n, status := f.at(in.NodeId)
	if status != fuse.OK {
		return status
	}
	n.opens++
	if in.Flags&syscall.O_TRUNC != 0 {
		f.disk.truncateLocked(n, 0)
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE // and not FOPEN_DIRECT_IO: bbolt maps its file
	return fuse.OK
}

func (f *files) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if n := f.disk.mu.inodes[in.NodeId]; n != nil && n.opens > 0 {
		if n.opens--; n.opens == 0 {
			f.disk.collectLocked() // it may have been removed before the kernel tells that it was closed
		}
	}
}

func (f *files) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (f *files) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	defer f.disk.mu.Unlock()
	n, status := f.at(in.NodeId)
	if status != fuse.OK {
		return nil, status
	}
	from := int64(in.Offset)
	length := min(int64(len(buf)), max(0, n.now.size-from))
	buf = buf[:length]
	for at := int64(0); at < length; {
		i, within := int((from+at)/blockSize), (from+at)%blockSize
		part := buf[at:min(length, at+blockSize-within)]
		if i < len(n.now.blocks) && n.now.blocks[i] != nil {
			copy(part, n.now.blocks[i][within:])
		} else {
			clear(part)
		}
		at += int64(len(part))
	}
	return fuse.ReadResultData(buf), fuse.OK
}

func (f *files) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	defer f.disk.mu.Unlock()
	n, status := f.at(in.NodeId)
	if status != fuse.OK {
		return 0, status
	}
	d := f.disk
	from, length := int64(in.Offset), int64(len(data))
	n.now.grow(int((from + length + blockSize - 1) / blockSize))
	need := int64(0)
	for i := int(from / blockSize); i <= int((from+length-1)/blockSize) && length > 0; i++ {
		if n.now.blocks[i] == nil {
			need++
		}
	}
	if d.mu.used+need > d.mu.capacity {
		return 0, fuse.Status(syscall.ENOSPC)
	}
	d.mu.used += need
	for at := int64(0); at < length; {
		i, within := int((from+at)/blockSize), (from+at)%blockSize
		part := data[at:min(length, at+blockSize-within)]
		if _, own := n.dirty[i]; !own || n.now.blocks[i] == nil || n.now.blocks[i] == reserved {
			b := new(block)
			if old := n.now.blocks[i]; old != nil {
				*b = *old
			}
			n.now.blocks[i] = b
			n.dirty[i] = struct{}{}
		}
		copy(n.now.blocks[i][within:], part)
		at += int64(len(part))
	}
	n.now.size = max(n.now.size, from+length)
	n.modified = time.Now()
	return uint32(length), fuse.OK
}

func (f *files) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	defer f.disk.mu.Unlock()
	n, status := f.at(in.NodeId)
	if status != fuse.OK {
		return status
	}
	const keepSize = 1
	if in.Mode&^keepSize != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	end := int64(in.Offset + in.Length)
	first, last := int(in.Offset/blockSize), int((end+blockSize-1)/blockSize)
	d := f.disk
	need := int64(0)
	for i := first; i < last; i++ {
		if i >= len(n.now.blocks) || n.now.blocks[i] == nil {
			need++
		}
	}
	if d.mu.used+need > d.mu.capacity {
		return fuse.Status(syscall.ENOSPC)
	}
	if in.Mode&keepSize != 0 {
		return fuse.OK // room beyond the end is there when it is needed
	}
	d.mu.used += need
	n.now.grow(last)
	for i := first; i < last; i++ {
		if n.now.blocks[i] == nil {
			n.now.blocks[i] = reserved
			n.dirty[i] = struct{}{}
		}
	}
	n.now.size = max(n.now.size, end)
	return fuse.OK
}

func (f *files) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return f.sync(in.NodeId) }

func (f *files) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return f.sync(in.NodeId) }

func (f *files) sync(number uint64) fuse.Status {
	for {
		n, status := f.at(number)
		if status != fuse.OK {
			f.disk.mu.Unlock()
			return status
		}
		if wait := time.Until(f.disk.mu.stalled); wait > 0 {
			f.disk.mu.Unlock()
			time.Sleep(min(wait, 10*time.Millisecond)) // so that a cut ends a stall
			continue
		}
		f.disk.syncLocked(n)
		f.disk.mu.Unlock()
		return fuse.OK
	}
}

func (f *files) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer f.disk.mu.Unlock()
	n, status := f.at(in.NodeId)
	if status != fuse.OK {
		return status
	}
	var list []fuse.DirEntry
	for name, to := range n.entries {
		if child := f.disk.mu.inodes[to]; child != nil {
			list = append(list, fuse.DirEntry{Name: name, Ino: to, Mode: child.mode})
		}
	}
	slices.SortFunc(list, func(a, b fuse.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	f.disk.mu.next++
	out.Fh = f.disk.mu.next
	f.disk.mu.handles[out.Fh] = list
	return fuse.OK
}

func (f *files) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer f.disk.mu.Unlock()
	if f.disk.enter() != nil {
		return fuse.EIO
	}
	list := f.disk.mu.handles[in.Fh]
	for i := int(in.Offset); i < len(list); i++ {
		list[i].Off = uint64(i + 1)
		if !out.AddDirEntry(list[i]) {
			break
		}
	}
	return fuse.OK
}

func (f *files) ReleaseDir(in *fuse.ReleaseIn) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	delete(f.disk.mu.handles, in.Fh)
}

func (f *files) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer f.disk.mu.Unlock()
	if f.disk.enter() != nil {
		return fuse.EIO
	}
	out.Blocks = uint64(f.disk.mu.capacity)
	out.Bfree = uint64(max(0, f.disk.mu.capacity-f.disk.mu.used))
	out.Bavail, out.Bsize, out.Frsize, out.NameLen = out.Bfree, blockSize, blockSize, 255
	return fuse.OK
}
