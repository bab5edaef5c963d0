package pebbleengine

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// The first byte of a key tells what it is a key of. All numbers in keys and values are big-endian.
const (
	kindChunk   = 'c' // + log + offset of the last record: a chunk
	kindLog     = 'l' // + log: where a trimmed log begins
	kindFence   = 'f' // + shard: the highest epoch
	kindState   = 's' // + shard + the caller's key: the caller's value
	kindCommits = 'n' // the number of the last commit
	kindFloor   = 'e' // the epoch that every owner is above

	maxGroup = 249
)

// damage is an error that says that stored bytes are not what was written, as opposed to bytes that could not be read.
type damage string

func (d damage) Error() string { return string(d) }

const errChecksum damage = "checksum does not match"

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // which makes it once

func appendLog(b []byte, id engine.LogID) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(id.Topic))
	b = binary.BigEndian.AppendUint32(b, id.Partition)
	return append(b, id.Lane)
}

func appendShard(b []byte, id engine.ShardID) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(id.Topic))
	b = binary.BigEndian.AppendUint32(b, id.Partition)
	b = append(b, byte(len(id.Group)))
	return append(b, id.Group...)
}

const chunkKeyLen = 1 + 9 + 8

// chunkKey is the key of the chunk that ends at last. Seeking an offset's key finds the chunk that holds it.
func chunkKey(id engine.LogID, last engine.Offset) []byte {
	b := appendLog(append(make([]byte, 0, chunkKeyLen), kindChunk), id)
	return binary.BigEndian.AppendUint64(b, uint64(last))
}

func lastOfKey(key []byte) engine.Offset {
	return engine.Offset(binary.BigEndian.Uint64(key[chunkKeyLen-8:]))
}

func logKey(id engine.LogID) []byte     { return appendLog([]byte{kindLog}, id) }
func fenceKey(id engine.ShardID) []byte { return appendShard([]byte{kindFence}, id) }
func commitsKey() []byte                { return []byte{kindCommits} }
func floorKey() []byte                  { return []byte{kindFloor} }

func stateKey(id engine.ShardID, key []byte) []byte {
	b := make([]byte, 0, 1+9+len(id.Group)+len(key))
	return append(appendShard(append(b, kindState), id), key...)
}

// after is the least key above all that begin with prefix, nil if there is none.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// A chunk's value:
//
//	0  version, 2
//	1  CRC-32C of the key and of the value from byte 5 on
//	5  the same checksum of the log's previous chunk, 0 for the first: chunks form a chain
//	9  count of records
//	13 offset of the first record
//	21 append time in milliseconds since 1970
//	29 bytes of records that the log took before
//	37 the records, an encoded RecordSet
//
// Version 1 had no bytes before: its records begin at 29, and weigh nothing in the log's count.
const (
	chunkVersion     = 2
	chunkSumAt       = 1
	chunkSummed      = 5
	chunkHeaderLen   = 37
	chunkHeaderLenV1 = 29
)

// fillChunk writes the header over the first chunkHeaderLen bytes of value, whose records are already in place, and returns the checksum.
func fillChunk(key, value []byte, previous uint32, count int, first engine.Offset, timeMS, taken int64) uint32 {
	value[0] = chunkVersion
	binary.BigEndian.PutUint32(value[5:], previous)
	binary.BigEndian.PutUint32(value[9:], uint32(count))
	binary.BigEndian.PutUint64(value[13:], uint64(first))
	binary.BigEndian.PutUint64(value[21:], uint64(timeMS))
	binary.BigEndian.PutUint64(value[29:], uint64(taken))
	sum := checksum(key, value[chunkSummed:])
	binary.BigEndian.PutUint32(value[chunkSumAt:], sum)
	return sum
}

// storedChunk is a chunk with its links. Its records alias the value it was parsed from.
type storedChunk struct {
	engine.Chunk
	sum, previous uint32
	total         int64 // bytes of records that the log took up to its end
}

func parseChunk(key, value []byte) (storedChunk, error) {
	if len(key) != chunkKeyLen || len(value) < chunkHeaderLenV1 {
		return storedChunk{}, damage("chunk is cut short")
	}
	header := chunkHeaderLen
	switch value[0] {
	case chunkVersion:
	case 1:
		header = chunkHeaderLenV1
	default:
		return storedChunk{}, damage("chunk of an unknown version")
	}
	if len(value) < header {
		return storedChunk{}, damage("chunk is cut short")
	}
	c := storedChunk{
		Chunk: engine.Chunk{
			First:   engine.Offset(binary.BigEndian.Uint64(value[13:])),
			Count:   int(binary.BigEndian.Uint32(value[9:])),
			TimeMS:  int64(binary.BigEndian.Uint64(value[21:])),
			Records: value[header:],
		},
		sum:      binary.BigEndian.Uint32(value[chunkSumAt:]),
		previous: binary.BigEndian.Uint32(value[5:]),
	}
	if checksum(key, value[chunkSummed:]) != c.sum {
		return storedChunk{}, errChecksum
	}
	if c.Count < 1 || c.Last() != lastOfKey(key) {
		return storedChunk{}, damage("chunk does not match its key")
	}
	if header == chunkHeaderLen {
		c.Taken = int64(binary.BigEndian.Uint64(value[29:]))
		c.total = c.Taken + int64(len(c.Records))
	}
	return c, nil
}

// sealed is body behind the CRC-32C of key and body.
func sealed(key, body []byte) []byte {
	b := make([]byte, 4+len(body))
	copy(b[4:], body)
	seal(key, b)
	return b
}

// seal writes the checksum over the first four bytes of value.
func seal(key, value []byte) { binary.BigEndian.PutUint32(value, checksum(key, value[4:])) }

// unsealed is the body of a sealed value, which it aliases.
func unsealed(key, value []byte) ([]byte, error) {
	if len(value) < 4 || binary.BigEndian.Uint32(value) != checksum(key, value[4:]) {
		return nil, errChecksum
	}
	return value[4:], nil
}

func checksum(key, rest []byte) uint32 {
	table := castagnoli()
	return crc32.Update(crc32.Checksum(key, table), table, rest)
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func parse64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, damage("number is not of 8 bytes")
	}
	return binary.BigEndian.Uint64(b), nil
}

// logBegin is what kindLog stores: where the log begins, the checksum of the last chunk it had if it was empty when it was trimmed, and how many
// bytes of records it took before its begin.
type logBegin struct {
	begin engine.Offset
	sum   uint32
	taken int64
}

func (l logBegin) encode() []byte {
	b := binary.BigEndian.AppendUint32(be64(uint64(l.begin)), l.sum)
	return binary.BigEndian.AppendUint64(b, uint64(l.taken))
}

// parseLogBegin also reads what format 1 wrote, which had no count of bytes.
func parseLogBegin(body []byte) (l logBegin, err error) {
	switch len(body) {
	case 20:
		l.taken = int64(binary.BigEndian.Uint64(body[12:]))
	case 12:
	default:
		return logBegin{}, damage("begin of log is not of 20 bytes")
	}
	l.begin, l.sum = engine.Offset(binary.BigEndian.Uint64(body)), binary.BigEndian.Uint32(body[8:])
	return l, nil
}
