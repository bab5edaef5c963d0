package broker

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// chunkBytes bounds the chunks that are kept in memory, of all logs together.
const chunkBytes = 32 << 20

// chunkOverhead is about what a chunk costs beside its records and what is known of them.
const chunkOverhead = 256

// chunk is a chunk of a log with what every group has to know of its records. It does not change once it is open.
type chunk struct {
	engine.Chunk
	opened sync.Once
	fault  error    // why it could not be taken apart
	ends   []uint32 // of each record with its framing
	keys   []uint64 // the gate of each, or dispatch.NoKey
	ttls   []uint64 // each one's own ttl in milliseconds, 0 if it has none; nil if no record has one

	log engine.LogID

	// Of the cache that it is in, whose lock guards them.
	older, newer *chunk // in the order of their last use
	used         uint64 // the round of it
}

// unreadable is the ttl of a record that cannot be read. It is delivered as it is, whatever its age: the consumer rejects what it cannot read.
const unreadable = math.MaxUint64

// newChunk is a chunk that is open. Error: *engine.CorruptError if it does not hold the records that it counts. Its checksum is right, so a bug has stored it, and it costs
// its log, not the sidecar.
func newChunk(log engine.LogID, c engine.Chunk, seed maphash.Seed) (*chunk, error) {
	ic := &chunk{Chunk: c, log: log}
	if err := ic.open(seed); err != nil {
		return nil, err
	}
	return ic, nil
}

// open takes the chunk apart, unless that is done. Error: that of newChunk.
func (c *chunk) open(seed maphash.Seed) error {
	c.opened.Do(func() { c.fault = c.takeApart(seed) })
	return c.fault
}

func (c *chunk) takeApart(seed maphash.Seed) error {
	c.ends, c.keys = make([]uint32, 0, c.Count), make([]uint64, 0, c.Count)
	for at := 0; at < len(c.Records); {
		n := engine.RecordLen(c.Records[at:])
		if n < 0 {
			break
		}
		_, head := binary.Uvarint(c.Records[at+1 : at+n])
		key, ttl := keyAndTTL(c.Records[at+1+head : at+n])
		at += n
		if ttl != 0 && c.ttls == nil {
			c.ttls = make([]uint64, len(c.ends), c.Count)
		}
		c.ends, c.keys = append(c.ends, uint32(at)), append(c.keys, hashKey(seed, key))
		if c.ttls != nil {
			c.ttls = append(c.ttls, ttl)
		}
	}
	if n := len(c.ends); n != c.Count || n == 0 || int(c.ends[n-1]) != len(c.Records) {
		detail := fmt.Sprintf("chunk of %d records, in %d bytes, holds %d that are whole", c.Count, len(c.Records), n)
		return &engine.CorruptError{Log: c.log, Offset: c.First, Detail: detail}
	}
	return nil
}

// hashKey is the gate that a key goes through.
func hashKey(seed maphash.Seed, key []byte) uint64 {
	if len(key) == 0 {
		return dispatch.NoKey
	}
	return max(1, maphash.Bytes(seed, key))
}

// keyAndTTL finds a record's key and its own ttl. Of a record that cannot be read the key is empty and the ttl unreadable. It steps over the fields that a record has, one byte of
// tag each, and leaves all else to ParseRecord.
func keyAndTTL(record []byte) (key []byte, ttl uint64) {
	for b := record; len(b) > 0; {
		tag := b[0]
		v, n := binary.Uvarint(b[1:])
		if n <= 0 || tag >= 0x80 {
			return parsedKeyAndTTL(record)
		}
		b = b[1+n:]
		switch num, typ := protowire.Number(tag>>3), protowire.Type(tag&7); {
		case typ == protowire.BytesType && (num >= recordKey && num <= recordID || num == recordReplyTo) && v <= uint64(len(b)):
			if num == recordKey {
				key = b[:v]
			}
			b = b[v:]
		case typ == protowire.VarintType && (num >= recordPrio && num <= recordTTL || num == recordCall):
			if num == recordTTL {
				ttl = v
			}
		default:
			return parsedKeyAndTTL(record)
		}
	}
	return key, ttl
}

func parsedKeyAndTTL(record []byte) (key []byte, ttl uint64) {
	r, err := ParseRecord(record)
	if err != nil {
		return nil, unreadable
	}
	return r.Key, r.TTLMS
}

// place is where a record stands in the chunk, with its tag and length.
func (c *chunk) place(o dispatch.Offset) (start, end uint32) {
	i := int(engine.Offset(o) - c.First)
	if i > 0 {
		start = c.ends[i-1]
	}
	return start, c.ends[i]
}

// record is a record of the chunk without its framing.
func (c *chunk) record(o dispatch.Offset) []byte {
	start, end := c.place(o)
	_, head := binary.Uvarint(c.Records[start+1 : end])
	return c.Records[int(start)+1+head : end : end]
}

// has tells whether the chunk has an offset.
func (c *chunk) has(o dispatch.Offset) bool {
	return engine.Offset(o) >= c.First && engine.Offset(o) <= c.Last()
}

// weight is about what the chunk takes in memory at most, once it is open.
func (c *chunk) weight() int { return len(c.Records) + 20*c.Count + chunkOverhead }

// chunks keeps the chunks that were written or read lately, of all logs and for all groups: what several groups read, and what waits behind its key or for its next attempt, is read from the
// store, checked and taken apart once. It is bounded in bytes, and what nobody uses for a minute or two goes. It is safe for concurrent use.
type chunks struct {
	seed  maphash.Seed
	limit int

	mu struct {
		sync.Mutex
		logs           map[engine.LogID][]*chunk // by first offset
		oldest, newest *chunk                    // by their last use
		bytes          int
		round          uint64 // grows with each sweep
	}
}

func newChunks(limit int, seed maphash.Seed) *chunks {
	cs := &chunks{seed: seed, limit: limit}
	cs.mu.logs = make(map[engine.LogID][]*chunk)
	return cs
}

// find returns the chunk that has an offset, open, nil if it is not here. One that cannot be opened is to be read, to see what is stored.
func (cs *chunks) find(log engine.LogID, o engine.Offset) *chunk {
	c := cs.lookUp(log, o)
	if c != nil && c.open(cs.seed) != nil {
		cs.drop(c)
		return nil
	}
	return c
}

func (cs *chunks) lookUp(log engine.LogID, o engine.Offset) *chunk {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	all := cs.mu.logs[log]
	at, found := slices.BinarySearchFunc(all, o, byFirst)
	if !found {
		at--
	}
	if at < 0 || all[at].Last() < o {
		return nil
	}
	cs.useLocked(all[at])
	return all[at]
}

func byFirst(c *chunk, o engine.Offset) int { return cmp.Compare(c.First, o) }

// add keeps a chunk that was read, and returns it open. Error: that of newChunk; then it is not kept.
func (cs *chunks) add(log engine.LogID, read engine.Chunk) (*chunk, error) {
	c := cs.keep(log, read)
	if err := c.open(cs.seed); err != nil {
		cs.drop(c)
		return nil, err
	}
	return c, nil
}

// keep keeps a chunk that was written or read. It is taken apart by whoever finds it first.
func (cs *chunks) keep(log engine.LogID, read engine.Chunk) *chunk {
	c := &chunk{Chunk: read, log: log}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	all := cs.mu.logs[log]
	at, found := slices.BinarySearchFunc(all, c.First, byFirst)
	if found { // another group was faster
		cs.useLocked(all[at])
		return all[at]
	}
	cs.mu.logs[log] = slices.Insert(all, at, c)
	cs.mu.bytes += c.weight()
	cs.pushLocked(c)
	for cs.mu.bytes > cs.limit && cs.mu.oldest != c {
		cs.dropLocked(cs.mu.oldest)
	}
	return c
}

// drop forgets a chunk, unless that has happened.
func (cs *chunks) drop(c *chunk) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if slices.Contains(cs.mu.logs[c.log], c) {
		cs.dropLocked(c)
	}
}

// trim drops what is before an offset: it is deleted from the log.
func (cs *chunks) trim(log engine.LogID, before engine.Offset) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for all := cs.mu.logs[log]; len(all) > 0 && all[0].Last() < before; all = cs.mu.logs[log] {
		cs.dropLocked(all[0])
	}
}

// sweep drops what was not used since the sweep before the last one.
func (cs *chunks) sweep() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for cs.mu.oldest != nil && cs.mu.oldest.used < cs.mu.round {
		cs.dropLocked(cs.mu.oldest)
	}
	cs.mu.round++
}

// useLocked notes that a chunk is used now.
func (cs *chunks) useLocked(c *chunk) {
	if cs.mu.newest == c {
		c.used = cs.mu.round
		return
	}
	cs.unlinkLocked(c)
	cs.pushLocked(c)
}

func (cs *chunks) pushLocked(c *chunk) {
	c.used, c.older, c.newer = cs.mu.round, cs.mu.newest, nil
	if c.older != nil {
		c.older.newer = c
	} else {
		cs.mu.oldest = c
	}
	cs.mu.newest = c
}

func (cs *chunks) unlinkLocked(c *chunk) {
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		cs.mu.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		cs.mu.newest = c.older
	}
	c.older, c.newer = nil, nil
}

func (cs *chunks) dropLocked(c *chunk) {
	cs.unlinkLocked(c)
	cs.mu.bytes -= c.weight()
	all := cs.mu.logs[c.log]
	at, _ := slices.BinarySearchFunc(all, c.First, byFirst)
	switch {
	case len(all) == 1:
		delete(cs.mu.logs, c.log)
	case at == 0: // most often: without moving the others
		all[0] = nil
		cs.mu.logs[c.log] = all[1:]
	default:
		cs.mu.logs[c.log] = slices.Delete(all, at, at+1)
	}
}
