package pebbleengine

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// Pebble writes its write-ahead logs and its manifest as records, cut into pieces that do not cross blocks of 32 KiB. A piece is
//
//	0  CRC-32C, masked, of all from byte 6 on
//	4  length of what follows the header
//	6  kind: which part of its record it is, and which of three headers it has
//	7  low 32 bits of the file's number (recyclable, synced)
//	11 up to where the file was synced when the piece was written (synced)
//
// all little-endian. Write-ahead logs of the engine's format have synced pieces and end, if they were closed, in a trailer: an empty recyclable header
// of the next number, without checksum. Manifests have plain pieces. Pebble takes the first piece that it cannot read for the end of the file
// unless a later block shows that there was more, so what was damaged near the end, or in a log's number, opens short and without an error.
// This file reads the same format, tells a flipped bit from a write that was torn, and finds what follows a damage in the same block.
const (
	pieceBlock   = 32 << 10
	plainHeader  = 7
	recycHeader  = 11
	syncedHeader = 19
	maxPieceKind = 12
)

// piece is one piece of a record.
type piece struct {
	at, end int // in the file, header included
	body    []byte
	first   bool // of its record
	last    bool
	synced  int64 // up to where the file was synced when it was written; -1 in a header that does not tell
}

// recordFile is the content of a write-ahead log, or of a manifest, whose number is 0.
type recordFile struct {
	data   []byte
	number uint32
	log    bool
}

// state is what stands at a place of a file.
type state int

const (
	sound   state = iota // a piece
	closed               // the trailer of a log, or the end of the file where it can end
	unread               // neither: zeros, or what is damaged, or torn
	nothing              // padding: pieces go on in the next block
)

func headerOf(kind byte) int {
	switch {
	case kind == 0 || kind > maxPieceKind:
		return 0
	case kind <= 4:
		return plainHeader
	case kind <= 8:
		return recycHeader
	}
	return syncedHeader
}

// maskedSum is a CRC as it is stored.
func maskedSum(sum uint32) uint32 { return (sum>>15 | sum<<17) + 0xa282ead8 }

// block returns what is left of the block from at on.
func (f *recordFile) block(at int) []byte {
	return f.data[at:min(len(f.data), at/pieceBlock*pieceBlock+pieceBlock)]
}

// at reads what stands at a place.
func (f *recordFile) at(at int) (piece, state) {
	if at >= len(f.data) {
		return piece{at: at, end: at}, closed
	}
	left := f.block(at)
	full := (at+len(left))%pieceBlock == 0
	if f.isTrailer(left) {
		return piece{at: at, end: at + recycHeader}, closed
	}
	if len(left) < plainHeader || len(left) < syncedHeader && allZero(left) {
		if full {
			return piece{at: at, end: at + len(left)}, nothing
		}
		return piece{at: at, end: at}, unread
	}
	return f.parse(at, left, headerOf(left[6]), int(binary.LittleEndian.Uint16(left[4:])))
}

// parse reads a piece whose header and body have the given lengths.
func (f *recordFile) parse(at int, left []byte, header, length int) (piece, state) {
	p := piece{at: at, end: at, synced: -1}
	if header == 0 || f.log != (header > plainHeader) || header+length > len(left) {
		return p, unread
	}
	if f.log && binary.LittleEndian.Uint32(left[7:]) != f.number {
		return p, unread
	}
	if maskedSum(crc32.Checksum(left[6:header+length], castagnoli())) != binary.LittleEndian.Uint32(left) {
		return p, unread
	}
	part := (left[6] - 1) % 4 // full, first, middle, last
	p.end, p.body, p.first, p.last = at+header+length, left[header:header+length], part <= 1, part == 0 || part == 3
	if header == syncedHeader {
		p.synced = int64(binary.LittleEndian.Uint64(left[11:]))
	}
	return p, sound
}

func (f *recordFile) trailer() [recycHeader]byte {
	t := [recycHeader]byte{6: 5}
	binary.LittleEndian.PutUint32(t[7:], f.number+1)
	return t
}

func (f *recordFile) isTrailer(left []byte) bool {
	return f.log && len(left) >= recycHeader && [recycHeader]byte(left) == f.trailer()
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// flip is the place of one bit of a file.
type flip struct {
	at  int
	bit byte // as a mask
}

// findFlip finds the one bit at and after a place which, flipped, makes a sound piece, a trailer, or padding of what stands there. A CRC-32C tells any two
// flips of one bit in 32 KiB apart, so there is at most one in a piece whose length is right.
func (f *recordFile) findFlip(at int) (flip, bool) {
	left := f.block(at)
	if f.log && len(left) >= recycHeader {
		if t := f.trailer(); distance(left[:recycHeader], t[:]) == 1 {
			return difference(at, left[:recycHeader], t[:]), true
		}
	}
	if len(left) < syncedHeader {
		zeros := make([]byte, len(left))
		if distance(left, zeros) == 1 {
			return difference(at, left, zeros), true
		}
	}
	if len(left) < plainHeader {
		return flip{}, false
	}
	// In the kind, the file's number, or the length: few, and each is simply tried.
	for i := 4; i < min(recycHeader, len(left)); i++ {
		for bit := range 8 {
			left[i] ^= 1 << bit
			_, s := f.parse(at, left, headerOf(left[6]), int(binary.LittleEndian.Uint16(left[4:])))
			left[i] ^= 1 << bit
			if s == sound {
				return flip{at + i, 1 << bit}, true
			}
		}
	}
	header := headerOf(left[6])
	end := header + int(binary.LittleEndian.Uint16(left[4:]))
	if header == 0 || f.log != (header > plainHeader) || end > len(left) {
		return flip{}, false
	}
	sum := crc32.Checksum(left[6:end], castagnoli())
	stored := binary.LittleEndian.Uint32(left)
	if wrong := stored ^ maskedSum(sum); bits.OnesCount32(wrong) == 1 {
		bit := bits.TrailingZeros32(wrong)
		return flip{at + bit/8, 1 << (bit % 8)}, true
	}
	unmasked := stored - 0xa282ead8
	unmasked = unmasked<<15 | unmasked>>17
	i, bit, ok := flippedBit(left[6:end], sum^unmasked)
	if !ok || f.log && i < recycHeader-6 { // the file's number was tried above, and is right
		return flip{}, false
	}
	return flip{at + 6 + i, bit}, true
}

// flippedBit finds the bit of data whose flip changes its CRC-32C by syndrome. The change that a flip makes depends on its distance from the end alone.
func flippedBit(data []byte, syndrome uint32) (i int, bit byte, ok bool) {
	table := castagnoli()
	for b := range 8 {
		change := table[1<<b]
		for i := len(data) - 1; i >= 0; i-- {
			if change == syndrome {
				return i, 1 << b, true
			}
			change = table[byte(change)] ^ change>>8
		}
	}
	return 0, 0, false
}

// distance is the number of bits in which a and b, of one length, differ.
func distance(a, b []byte) (n int) {
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

// difference is the first bit in which a and b differ.
func difference(at int, a, b []byte) flip {
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return flip{at + i, x & -x}
		}
	}
	return flip{}
}

// written finds a piece after a place that proves that what stood at the place was synced: in a log one that was written when the file was synced beyond it, in
// a manifest the beginning of a record, since each is synced before the next. It looks at every byte, not only where pieces would be.
func (f *recordFile) written(after int) (piece, bool) {
	for at := after + 1; at+plainHeader <= len(f.data); at++ {
		kind := f.data[at+6]
		if header := headerOf(kind); header == 0 || f.log != (header == syncedHeader) {
			continue
		}
		left := f.block(at)
		if len(left) < plainHeader || f.log && (len(left) < syncedHeader || binary.LittleEndian.Uint32(left[7:]) != f.number) {
			continue
		}
		p, s := f.parse(at, left, headerOf(kind), int(binary.LittleEndian.Uint16(left[4:])))
		if s == sound && (f.log && p.synced > int64(after) || !f.log && p.first && len(p.body) > 0) {
			return p, true
		}
	}
	return piece{}, false
}
