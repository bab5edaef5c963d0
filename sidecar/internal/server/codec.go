package server

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// maxDepth bounds how deep the messages of a request may nest.
const maxDepth = 100

// protoCodec is protobuf's binary encoding with bounded depth. The records of a publisher's frame are in memory that recycle takes back.
type protoCodec struct{}

// Name implements connect.Codec.
func (protoCodec) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (protoCodec) Marshal(m any) ([]byte, error) {
	msg, err := message(m)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(msg)
}

// MarshalAppend lets connect reuse its buffers.
func (protoCodec) MarshalAppend(b []byte, m any) ([]byte, error) {
	msg, err := message(m)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(b, msg)
}

// Unmarshal implements connect.Codec.
func (protoCodec) Unmarshal(b []byte, m any) error {
	msg, err := message(m)
	if err != nil {
		return err
	}
	if frame, ok := m.(*brokerv1.PublishStreamRequest); ok {
		proto.Reset(frame)
		if decodeFrame(b, frame) {
			return nil
		}
		recycle(frame)
	}
	return proto.UnmarshalOptions{RecursionLimit: maxDepth}.Unmarshal(b, msg)
}

// jsonCodec is protobuf's JSON with bounded depth, in which an unknown field is an error.
type jsonCodec struct{ name string }

// Name implements connect.Codec.
func (c jsonCodec) Name() string { return c.name }

// Marshal implements connect.Codec.
func (jsonCodec) Marshal(m any) ([]byte, error) {
	msg, err := message(m)
	if err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{}.Marshal(msg)
}

// Unmarshal implements connect.Codec. An empty body is an empty message, as for connect's own codec.
func (jsonCodec) Unmarshal(b []byte, m any) error {
	msg, err := message(m)
	if err != nil {
		return err
	}
	if len(b) == 0 {
		return errors.New("the body is empty: an empty message is {}")
	}
	return protojson.UnmarshalOptions{RecursionLimit: maxDepth}.Unmarshal(b, msg)
}

func message(m any) (proto.Message, error) {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", m)
	}
	return msg, nil
}

// cappedGzip stops inflating a body once it is larger than any message may be: connect's own limit would read on to the end to tell
// how large it is, which a few megabytes can draw out to gigabytes.
type cappedGzip struct {
	gzip.Reader
	most, left int64
}

func newCappedGzip(most int64) func() connect.Decompressor {
	return func() connect.Decompressor { return &cappedGzip{most: most, left: most} }
}

// Read implements io.Reader.
func (z *cappedGzip) Read(p []byte) (int, error) {
	if z.left <= 0 {
		return 0, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("message is larger than %d bytes when decompressed", z.most))
	}
	if int64(len(p)) > z.left {
		p = p[:z.left]
	}
	n, err := z.Reader.Read(p)
	z.left -= int64(n)
	return n, err
}

// Reset implements connect.Decompressor.
func (z *cappedGzip) Reset(r io.Reader) error {
	z.left = z.most
	return z.Reader.Reset(r)
}

func newGzipWriter() connect.Compressor { return gzip.NewWriter(io.Discard) }
