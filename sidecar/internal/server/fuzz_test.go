package server

import (
	"bytes"
	"compress/gzip"
	"io"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// What the codecs take, they give back the same.
func FuzzProtoCodec(f *testing.F) {
	whole, err := proto.Marshal(&brokerv1.PublishRequest{Topic: "t", Messages: []*brokerv1.Message{{
		Body: &brokerv1.Message_Payload{Payload: []byte("p")}, Key: []byte{}, Headers: map[string]string{"a": "b"}, Priority: proto.Uint32(1),
		Delay: durationpb.New(time.Second), DeliverAt: timestamppb.New(time.Unix(1, 1)), Ttl: durationpb.New(1)}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{0x0a, 0x05})
	f.Add(bytes.Repeat([]byte{0x0b}, 200)) // groups that nest
	f.Fuzz(func(t *testing.T, b []byte) { decodes(t, protoCodec{}, b) })
}

func FuzzJSONCodec(f *testing.F) {
	for _, text := range []string{
		`{}`, ``, `null`, `[]`, `{"topic":"t","messages":[{"json":{"a":[1,{"b":null}]},"delay":"1.5s","deliverAt":"2026-12-24T18:00:00Z","ttl":"-1s","priority":1}]}`,
		`{"messages":[{"delay":"NaN"}]}`, `{"messages":[{"priority":-1}]}`, `{"unknown":1}`, `{"messages":[{"json":` + string(bytes.Repeat([]byte(`{"a":`), 120)),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) { decodes(t, jsonCodec{"json"}, b) })
}

func decodes(t *testing.T, codec interface {
	Marshal(any) ([]byte, error)
	Unmarshal([]byte, any) error
}, b []byte) {
	m := &brokerv1.PublishRequest{}
	if codec.Unmarshal(b, m) != nil {
		return
	}
	again, err := codec.Marshal(m)
	if err != nil {
		return // such as a duration that JSON cannot write
	}
	back := &brokerv1.PublishRequest{}
	if err := codec.Unmarshal(again, back); err != nil {
		t.Fatalf("%q was taken and is written as %q: %v", b, again, err)
	}
	once, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m) // bytes: a NaN is not equal to itself
	twice, _ := proto.MarshalOptions{Deterministic: true}.Marshal(back)
	if !bytes.Equal(once, twice) {
		t.Fatalf("%q became\n%v\nand then\n%v", b, m, back)
	}
}

// Whatever a message says of its time and priority, it is refused with a reason or is in order.
func FuzzDraft(f *testing.F) {
	f.Add(true, int64(1), int32(0), false, int64(0), int32(0), true, int64(1), int32(1), uint32(1), true)
	f.Add(true, int64(0), int32(-1), false, int64(0), int32(0), true, int64(0), int32(0), uint32(0), true)
	f.Add(false, int64(0), int32(0), false, int64(0), int32(0), true, int64(0), int32(0), uint32(1), true)
	f.Add(false, int64(0), int32(0), true, int64(-62_135_596_800), int32(0), false, int64(0), int32(0), uint32(0), false)
	f.Add(true, int64(0), int32(0), true, int64(math.MaxInt64), int32(math.MaxInt32), true, int64(math.MinInt64), int32(math.MinInt32), uint32(math.MaxUint32), true)
	f.Fuzz(func(t *testing.T, hasDelay bool, delayS int64, delayN int32, hasAt bool, atS int64, atN int32, hasTTL bool, ttlS int64, ttlN int32,
		priority uint32, hasPriority bool) {
		m := &brokerv1.Message{}
		if hasDelay {
			m.Delay = &durationpb.Duration{Seconds: delayS, Nanos: delayN}
		}
		if hasAt {
			m.DeliverAt = &timestamppb.Timestamp{Seconds: atS, Nanos: atN}
		}
		if hasTTL {
			m.Ttl = &durationpb.Duration{Seconds: ttlS, Nanos: ttlN}
		}
		if hasPriority {
			m.Priority = &priority
		}
		d, err := draft(m)
		if err != nil {
			e := broker.Refusal(err)
			if e.Reason != broker.BadDelay && e.Reason != broker.BadTTL && e.Reason != broker.BadPriority || e.Field == "" || e.Message == "" {
				t.Fatalf("refused as %+v", e)
			}
			return
		}
		switch {
		case hasDelay && hasAt, d.HasPriority != hasPriority, d.HasTTL != hasTTL, !hasTTL && d.TTL != 0, hasAt && d.DeliverAt.Before(time.Unix(0, 0)),
			!hasAt && !hasDelay && !d.DeliverAt.IsZero(), d.Delay != 0 && !d.DeliverAt.IsZero(), hasAt && !d.DeliverAt.Equal(time.Unix(atS, int64(atN))):
			t.Fatalf("%v became %+v", m, d)
		}
	})
}

// No body inflates to more than a message may have, and what fits comes out as it went in.
func FuzzCappedGzip(f *testing.F) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(bytes.Repeat([]byte("a"), 1000))
	_ = w.Close()
	f.Add(packed.Bytes(), []byte("text"))
	var bomb bytes.Buffer
	w = gzip.NewWriter(&bomb)
	_, _ = w.Write(make([]byte, MaxRequestBytes+1))
	_ = w.Close()
	f.Add(bomb.Bytes(), []byte("text"))
	f.Add(packed.Bytes()[:20], []byte{})
	f.Add([]byte{}, []byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, hostile, honest []byte) {
		z := newCappedGzip(MaxRequestBytes)()
		if z.Reset(bytes.NewReader(hostile)) == nil {
			if n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, z, make([]byte, 1000)); n > MaxRequestBytes {
				t.Fatalf("%d bytes came out of %d", n, len(hostile))
			}
			_ = z.Close()
		}
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(honest)
		_ = w.Close()
		if err := z.Reset(&packed); err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(z); err != nil || !bytes.Equal(out, honest) {
			t.Fatalf("%q came out as %q, %v", honest, out, err)
		}
	})
}
