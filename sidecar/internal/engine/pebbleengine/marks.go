package pebbleengine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// The file of marks has slots of markLen bytes, so that none crosses a sector. The first slot is the commit number's.
//
//	0  CRC-32C of bytes 4 to 31
//	4  kind: 'n' commit number, 'c' log
//	5  log: topic, partition, lane
//	14 zero
//	16 end offset of the log, or commit number
//	24 checksum of the log's last chunk
//	28 zero
//
// The slots are written after the commit that they tell of is durable, so a mark is never ahead of what was acknowledged.
const markLen = 32

// mark is how far a log was durable, and which chunk was its last.
type mark struct {
	end engine.Offset
	sum uint32
}

// marks is the high-water marks beside the database. They live apart from it, because what they guard against is a write-ahead log that
// lost its tail and does not tell. After open, of and commits may be called by anybody; the other methods belong to the committer.
type marks struct {
	file   vfs.File
	logger *slog.Logger

	// As found by open.
	found        map[engine.LogID]mark
	foundCommits uint64

	slots     map[engine.LogID]int64
	free      int64   // next slot
	image     []byte  // what the file has, or will have with the next write
	unwritten []int64 // slots of the image that are not written yet
	dirty     bool    // something was written and is not synced
	failed    bool
}

func openMarks(fsys vfs.FS, name string, logger *slog.Logger) (*marks, error) {
	m := &marks{logger: logger, found: make(map[engine.LogID]mark), slots: make(map[engine.LogID]int64), free: 1}
	if err := m.read(fsys, name); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	var err error
	if m.file, err = fsys.OpenReadWrite(name, vfs.WriteCategoryUnspecified); err != nil {
		return nil, err
	}
	if err := syncDir(fsys, fsys.PathDir(name)); err != nil {
		return nil, errors.Join(err, m.file.Close())
	}
	return m, nil
}

// read loads the slots. One that fails its checksum is passed over with a warning: it can only hide a loss, not make one up.
func (m *marks) read(fsys vfs.FS, name string) error {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	all, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	m.image = append(m.image, all[:len(all)/markLen*markLen]...)
	for n := int64(0); len(all) >= markLen; n++ {
		slot := all[:markLen]
		all = all[markLen:]
		m.free = max(m.free, n+1)
		if [markLen]byte(slot) == ([markLen]byte{}) {
			continue
		}
		if binary.BigEndian.Uint32(slot) != crc32.Checksum(slot[4:], castagnoli()) {
			m.logger.Warn("a high-water mark is damaged and not used", "file", name, "slot", n)
			continue
		}
		switch number := binary.BigEndian.Uint64(slot[16:]); slot[4] {
		case kindCommits:
			m.foundCommits = number
		case kindChunk:
			id := engine.LogID{
				Topic:     engine.TopicID(binary.BigEndian.Uint32(slot[5:])),
				Partition: binary.BigEndian.Uint32(slot[9:]),
				Lane:      slot[13],
			}
			m.found[id] = mark{end: engine.Offset(number), sum: binary.BigEndian.Uint32(slot[24:])}
			m.slots[id] = n
		}
	}
	return nil
}

// of is the mark that the log had when the store was opened.
func (m *marks) of(id engine.LogID) (mark, bool) {
	found, ok := m.found[id]
	return found, ok
}

// commits is the commit number that the store had when it was opened.
func (m *marks) commits() uint64 { return m.foundCommits }

// set notes how far a log is durable, for the next write.
func (m *marks) set(id engine.LogID, to mark) {
	slot, ok := m.slots[id]
	if !ok {
		slot = m.free
		m.free++
		m.slots[id] = slot
	}
	b := m.slot(slot)
	appendLog(append(b[:4], kindChunk), id)
	binary.BigEndian.PutUint64(b[16:], uint64(to.end))
	binary.BigEndian.PutUint32(b[24:], to.sum)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli()))
}

// setCommits notes the commit number, for the next write.
func (m *marks) setCommits(n uint64) {
	b := m.slot(0)
	b[4] = kindCommits
	binary.BigEndian.PutUint64(b[16:], n)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli()))
}

// slot is the image of a slot, empty, which will be written.
func (m *marks) slot(n int64) []byte {
	if end := int(n+1) * markLen; len(m.image) < end {
		m.image = append(m.image, make([]byte, end-len(m.image))...)
	}
	m.unwritten = append(m.unwritten, n)
	b := m.image[n*markLen : (n+1)*markLen : (n+1)*markLen]
	clear(b)
	return b
}

// gapSlots is how many slots that did not change are written to save a write of the file.
const gapSlots = 64

// write writes what was set.
func (m *marks) write() {
	slices.Sort(m.unwritten)
	for i := 0; i < len(m.unwritten); {
		from, to := m.unwritten[i], m.unwritten[i]+1
		for i++; i < len(m.unwritten) && m.unwritten[i] <= to+gapSlots; i++ {
			to = m.unwritten[i] + 1
		}
		_, err := m.file.WriteAt(m.image[from*markLen:to*markLen], from*markLen)
		m.dirty = true
		m.note(err)
	}
	m.unwritten = m.unwritten[:0]
}

// sync makes the marks set so far survive a power cut.
func (m *marks) sync() {
	m.write()
	if m.dirty {
		m.dirty = false
		m.note(m.file.Sync())
	}
}

// note tells of the first failure. A mark that could not be written makes a later loss go unseen and loses nothing itself, so work goes on.
func (m *marks) note(err error) {
	if err != nil && !m.failed {
		m.failed = true
		m.logger.Error("high-water marks cannot be written: a loss of synced data might go unseen", "error", err)
	}
}

func (m *marks) close() error {
	m.sync()
	return m.file.Close()
}
