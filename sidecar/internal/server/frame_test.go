package server

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

func encodedFrame(t testing.TB, topic string, sets ...[]byte) []byte {
	t.Helper()
	frame := &brokerv1.PublishStreamRequest{Sequence: 7, ProducerId: []byte("0123456789abcdef"), AnsweredBelow: 3}
	for i, set := range sets {
		frame.Batches = append(frame.Batches, &brokerv1.TopicRecords{Topic: topic, Records: set, Number: uint64(i)})
	}
	b, err := proto.Marshal(frame)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The codec takes the frames that protobuf takes, and reads in them what protobuf reads, whatever the encoding.
func FuzzFrame(f *testing.F) {
	whole := encodedFrame(f, "t", []byte("records"), nil, bytes.Repeat([]byte("r"), 20_000))
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(whole, 0x28, 0x01))                            // an unknown field
	f.Add(append(whole, 0x08, 0x01))                            // sequence again: the last one counts
	f.Add([]byte{0x09, 1, 2, 3, 4, 5, 6, 7, 8})                 // sequence of another wire type
	f.Add([]byte{0x12, 0x03, 0x0a, 0x01, 0xff})                 // a topic that is no UTF-8
	f.Add([]byte{0x12, 0x06, 0x12, 0x01, 'a', 0x12, 0x01, 'b'}) // records twice
	f.Add(bytes.Repeat([]byte{0x13}, 200))                      // groups that nest
	f.Fuzz(func(t *testing.T, b []byte) {
		input := bytes.Clone(b)
		var got, want brokerv1.PublishStreamRequest
		err := protoCodec{}.Unmarshal(input, &got)
		wantErr := proto.UnmarshalOptions{RecursionLimit: maxDepth}.Unmarshal(b, &want)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%x: %v, protobuf says %v", b, err, wantErr)
		}
		clear(input) // connect reuses it
		if err == nil && !proto.Equal(&got, &want) {
			t.Fatalf("%x: %v, protobuf reads %v", b, &got, &want)
		}
		recycle(&got)
	})
}

// A message that the codec decodes into holds nothing of what it held.
func TestFrameReplacesWhatTheMessageHeld(t *testing.T) {
	frame := &brokerv1.PublishStreamRequest{Sequence: 1, Batches: []*brokerv1.TopicRecords{{Topic: "old"}}}
	if err := (protoCodec{}).Unmarshal(protowire.AppendVarint([]byte{0x20}, 9), frame); err != nil {
		t.Fatal(err)
	}
	if frame.GetSequence() != 0 || len(frame.GetBatches()) != 0 || frame.GetAnsweredBelow() != 9 {
		t.Errorf("%v", frame)
	}
}

// Records of frames that were not recycled stay what they are, and those of one that was share their memory with nobody but the next frame.
func TestRecordsBelongToTheirFrameUntilItIsRecycled(t *testing.T) {
	const size = 1 << minLentBits
	set := func(c byte) []byte { return bytes.Repeat([]byte{c}, size-int(c)) }
	decode := func(sets ...[]byte) *brokerv1.PublishStreamRequest {
		frame := &brokerv1.PublishStreamRequest{}
		if err := (protoCodec{}).Unmarshal(encodedFrame(t, "t", sets...), frame); err != nil {
			t.Fatal(err)
		}
		return frame
	}
	kept := decode(set('a'), set('b'))
	for range 100 {
		done := decode(set('x'), set('y'), set('z'))
		recycle(done)
		if done.GetBatches()[0].Records != nil {
			t.Fatal("a recycled frame still has its records")
		}
		recycle(done) // gives nothing back twice
		one, two := decode(set('c')), decode(set('d'))
		if !bytes.Equal(one.GetBatches()[0].GetRecords(), set('c')) || !bytes.Equal(two.GetBatches()[0].GetRecords(), set('d')) {
			t.Fatal("two frames share memory")
		}
		recycle(one)
		recycle(two)
	}
	if !bytes.Equal(kept.GetBatches()[0].GetRecords(), set('a')) || !bytes.Equal(kept.GetBatches()[1].GetRecords(), set('b')) {
		t.Error("the records of a frame changed before it was recycled")
	}
}

func TestLendingBounds(t *testing.T) {
	for _, n := range []int{0, 1, 1 << 13, 1<<13 + 1, 1 << 14, 1<<14 + 1, 3 << 20, 4 << 20, 4<<20 + 1, 1 << 23, 1<<23 + 1} {
		b := memory.take(n)
		if len(b) != 0 || cap(b) < n || cap(b) > max(2*n, 64) {
			t.Errorf("%d bytes: length %d, capacity %d", n, len(b), cap(b))
		}
		memory.give(b)
	}
}
