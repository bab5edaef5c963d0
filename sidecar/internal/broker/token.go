package broker

import (
	"encoding/binary"
	"hash/fnv"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

// TokenSize is the length of a lease token on the wire.
const TokenSize = 32

// Token is a lease as clients see it: the machine's token, the lane and the partition, and a tag that only this store's sidecar can make, so that a
// damaged or invented token is told from a stale one. The tag is no defence against an attacker: whoever reaches
// the socket may consume anyway.
//
//	epoch 8 | offset 8 | lease 4 | partition 3 | lane 1 | tag 8, little-endian
type Token struct {
	dispatch.Token
	Partition uint32 // below 1<<24
	Lane      uint8
}

// place is the partition and the lane as one number.
func (t Token) place() uint32 { return uint32(t.Lane)<<24 | t.Partition }

// tokens makes and reads the tokens of a group in a topic.
type tokens struct{ secret uint64 }

func newTokens(secret [16]byte, group, topic string) tokens {
	h := fnv.New64a()
	h.Write(secret[:])
	h.Write([]byte(group))
	h.Write([]byte{0})
	h.Write([]byte(topic))
	return tokens{scramble(h.Sum64() ^ binary.LittleEndian.Uint64(secret[8:]))}
}

func (k tokens) append(dst []byte, t Token) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, t.Epoch)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(t.Offset))
	dst = binary.LittleEndian.AppendUint32(dst, t.Lease)
	dst = binary.LittleEndian.AppendUint32(dst, t.place())
	return binary.LittleEndian.AppendUint64(dst, k.tag(t))
}

// read takes a token of TokenSize bytes apart. ok is false if it was not made by append with the same secret.
func (k tokens) read(b []byte) (t Token, ok bool) {
	if len(b) != TokenSize {
		return t, false
	}
	t.Epoch = binary.LittleEndian.Uint64(b)
	t.Offset = dispatch.Offset(binary.LittleEndian.Uint64(b[8:]))
	t.Lease = binary.LittleEndian.Uint32(b[16:])
	t.Partition, t.Lane = tokenPlace(b)
	return t, binary.LittleEndian.Uint64(b[24:]) == k.tag(t)
}

// tokenPlace is the partition and the lane that a token of TokenSize bytes names, whoever made it.
func tokenPlace(b []byte) (partition uint32, lane uint8) {
	place := binary.LittleEndian.Uint32(b[20:])
	return place & (1<<24 - 1), uint8(place >> 24)
}

func (k tokens) tag(t Token) uint64 {
	h := scramble(k.secret ^ t.Epoch)
	h = scramble(h ^ uint64(t.Offset))
	return scramble(h^uint64(t.Lease)<<32^uint64(t.place())) ^ k.secret
}

// scramble is the finaliser of MurmurHash3 (Appleby, public domain).
func scramble(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
