package broker

import (
	"encoding/binary"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// transactionsShard is where applied transactions are remembered: a shard like any other, of a group that no user can name.
var transactionsShard = engine.ShardID{Group: "__transactions"}

// Keys of the map of transactions, beside keyClock. docs/formats/transactions.md describes them.
const (
	keyApplied = 't' // + id: a Transaction
	keyAge     = 'm' // + minutes since 1970, 8 bytes, big-endian, + id: nothing
)

func appliedKey(id transactionID) []byte { return append([]byte{keyApplied}, id[:]...) }

func ageKey(minute int64, id transactionID) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{keyAge}, uint64(minute)), id[:]...)
}

func parseAgeKey(key []byte) (minute int64, id transactionID, err error) {
	if len(key) != 1+8+TransactionIDSize {
		return 0, id, fmt.Errorf("key %x of the transactions is malformed", key)
	}
	copy(id[:], key[9:])
	return int64(binary.BigEndian.Uint64(key[1:])), id, nil
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// fieldFirsts is Transaction.firsts.
const fieldFirsts = 15

// appendFirsts ends an encoded Transaction so that n offsets may follow.
func appendFirsts(value []byte, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(value, fieldFirsts, protowire.BytesType), uint64(8*n))
}

func parseApplied(id transactionID, value []byte) (*storagev1.Transaction, error) {
	m := new(storagev1.Transaction)
	if err := proto.Unmarshal(value, m); err != nil {
		return nil, fmt.Errorf("transaction %x: %w", id, err)
	}
	return m, nil
}

// firstsOf are the offsets of a transaction's appends.
func firstsOf(m *storagev1.Transaction) (firsts []engine.Offset, err error) {
	b := m.GetFirsts()
	if len(b)%8 != 0 {
		return nil, fmt.Errorf("transaction: offsets of %d bytes", len(b))
	}
	for ; len(b) > 0; b = b[8:] {
		firsts = append(firsts, engine.Offset(binary.BigEndian.Uint64(b)))
	}
	return firsts, nil
}

// remember is where the records of a publication go, as far as that is known before they are stored. It is to be called before place.
func (pub *publication) remember() (out []*storagev1.Transaction_Placed) {
	number := make(map[*part]uint32, len(pub.owners)) // 1 + the append of a part
	for i, p := range pub.owners {
		number[p] = uint32(i) + 1
	}
	for _, r := range pub.routes {
		m := &storagev1.Transaction_Placed{}
		duplicates := r.duplicates
		for i, at := range r.order {
			if len(duplicates) > 0 && duplicates[0].index == i {
				partition, offset := duplicates[0].remember(pub)
				m.Partitions, m.Appends, m.Offsets = append(m.Partitions, partition), append(m.Appends, 0), append(m.Offsets, offset)
				m.Duplicates = append(m.Duplicates, uint32(i))
				duplicates = duplicates[1:]
				continue
			}
			m.Partitions = append(m.Partitions, r.partition(at))
			if at&isScheduled != 0 {
				m.Appends = append(m.Appends, 0)
				m.Offsets = append(m.Offsets, int64(engine.NoOffset))
				continue
			}
			m.Appends = append(m.Appends, number[&r.parts[at]])
		}
		out = append(out, m)
	}
	return out
}

// remember is where a duplicate rests: an offset below -1 stands for that of the transaction's own record, counted from -2 downwards.
func (d duplicate) remember(pub *publication) (partition uint32, offset int64) {
	if d.of == nil {
		return d.partition, d.offset
	}
	before := 0
	for _, r := range pub.routes {
		if r == d.of {
			break
		}
		before += len(r.order)
	}
	return d.of.partition(d.of.order[d.at]), -2 - int64(before+d.at)
}

// recallPlaced is where the records of a batch rest. next are the offsets of the next record of each append, which it moves on, and earlier those of the
// records before.
func recallPlaced(m *storagev1.Transaction_Placed, next []engine.Offset, earlier []int64) (Placement, error) {
	p := Placement{Partitions: m.GetPartitions(), Duplicates: m.GetDuplicates()}
	others := m.GetOffsets()
	for _, n := range m.GetAppends() {
		switch {
		case n == 0 && len(others) > 0:
			offset := others[0]
			if offset < int64(engine.NoOffset) {
				i := int(-2 - offset)
				switch {
				case i < len(earlier):
					offset = earlier[i]
				case i-len(earlier) < len(p.Offsets):
					offset = p.Offsets[i-len(earlier)]
				default:
					return Placement{}, fmt.Errorf("transaction: a duplicate of record %d", i)
				}
			}
			p.Offsets = append(p.Offsets, offset)
			others = others[1:]
		case n > 0 && int(n) <= len(next):
			p.Offsets = append(p.Offsets, int64(next[n-1]))
			next[n-1]++
		default:
			return Placement{}, fmt.Errorf("transaction: a record of append %d of %d", n, len(next))
		}
	}
	if len(p.Offsets) != len(p.Partitions) {
		return Placement{}, fmt.Errorf("transaction: %d offsets of %d records", len(p.Offsets), len(p.Partitions))
	}
	return p, nil
}
