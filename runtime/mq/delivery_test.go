package mq

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Whatever slice comes, it is refused as a whole or each of its records becomes a delivery with its own offset, attempt and token.
func FuzzSlice(f *testing.F) {
	for _, slice := range []*brokerv1.Slice{
		{},
		{Partition: 2, Priority: 3, Offsets: []int64{7, 9}, Attempts: []uint32{1, 4}, Tokens: append(token(7), token(9)...), Records: []byte("\x0a\x00\x0a\x04\x22\x02id")},
		{Offsets: []int64{1}, Tokens: token(1), Records: []byte{0x0a, 0x05}},
		{Offsets: []int64{1}, Tokens: token(1), Records: []byte{0x10, 0x05, 0x0a, 0}},
		{Offsets: []int64{1, 2}, Tokens: token(1), Records: []byte{0x0a, 0, 0x0a, 0}},
		{Offsets: []int64{1}, Tokens: token(1), Records: []byte{0x0a, 0, 0x0a, 0}},
		{Offsets: []int64{1}, Attempts: []uint32{1, 2}, Tokens: token(1), Records: []byte{0x0a, 0}},
		{Priority: 1 << 31, Offsets: []int64{-1}, Tokens: token(-1), Records: []byte{0x0a, 0}},
	} {
		encoding, err := proto.Marshal(slice)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoding)
	}
	f.Fuzz(func(t *testing.T, encoding []byte) {
		slice := &brokerv1.Slice{}
		if proto.Unmarshal(encoding, slice) != nil {
			return
		}
		s := &session{consumer: &consumer{subscription: &subscription{}}}
		var w waiting
		err := s.unpack(&w, slice)
		var all []*delivery
		for d := w.first(); d != nil; d = w.first() {
			all = append(all, d)
		}
		set := &brokerv1.RecordSet{}
		if proto.Unmarshal(slice.GetRecords(), set) == nil && err == nil && len(set.GetRecords()) != len(all) {
			t.Fatalf("%d deliveries of %d records", len(all), len(set.GetRecords()))
		}
		if err != nil {
			return
		}
		var offsets []int64
		var tokens []byte
		for i, d := range all {
			offsets, tokens = append(offsets, d.offset), append(tokens, d.token[:]...)
			if n := len(slice.GetAttempts()); n == 0 && d.attempt != 1 || n > 0 && d.attempt != slice.GetAttempts()[i] {
				t.Fatalf("attempt %d of %v", d.attempt, slice)
			}
			_, _ = parseRecord(d.encoding)
			_ = d.place.id()
			w.push(d)
		}
		if !slices.Equal(offsets, slice.GetOffsets()) || !bytes.Equal(tokens, slice.GetTokens()) {
			t.Fatalf("offsets %v and tokens %x of %v", offsets, tokens, slice)
		}
		for range all {
			if w.first() == nil {
				t.Fatal("a delivery was lost while it waited")
			}
		}
	})
}
