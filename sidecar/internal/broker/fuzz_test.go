package broker

import (
	"bytes"
	"hash/maphash"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/typedmq/typedmq/internal/topic"
	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// FuzzParseRecord: what is accepted can be walked, and its parts lie within it.
func FuzzParseRecord(f *testing.F) {
	f.Add([]byte{})
	f.Add(NewRecord([]byte("k"), []byte("payload"), []topic.HeaderValue{{Name: "a", Value: "b"}}, "id"))
	f.Add([]byte{5 << 3, 1, 6 << 3, 0xff, 0xff, 3, 8 << 3, 9})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseRecord(raw)
		if err != nil {
			return
		}
		size := 0
		n := 0
		for name, value := range r.Headers() {
			size += len(name) + len(value)
			n++
		}
		if n != r.count || size != r.headers {
			t.Errorf("%d headers of %d bytes, counted %d of %d", n, size, r.count, r.headers)
		}
		if len(r.Key)+len(r.Payload)+len(r.ID)+size > len(raw) {
			t.Errorf("parts of %d+%d+%d+%d bytes of a record of %d", len(r.Key), len(r.Payload), len(r.ID), size, len(raw))
		}
	})
}

// FuzzTokens: a token that is read is the one that is written, and no byte of it may be another.
func FuzzTokens(f *testing.F) {
	k := newTokens([16]byte{1}, "g", "t")
	f.Add(k.append(nil, Token{dispatch.Token{Epoch: 1, Offset: 2, Lease: 3}, 4, 5}))
	f.Add(make([]byte, TokenSize))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if token, ok := k.read(raw); ok && !bytes.Equal(k.append(nil, token), raw) {
			t.Errorf("%x is read as %+v", raw, token)
		}
		if len(raw) < TokenSize {
			return
		}
		copy(raw, k.append(nil, Token{dispatch.Token{Epoch: uint64(raw[0]), Offset: dispatch.Offset(raw[1]), Lease: uint32(raw[2])}, uint32(raw[3]), raw[4]}))
		raw = raw[:TokenSize]
		if _, ok := k.read(raw); !ok {
			t.Fatalf("%x is not read", raw)
		}
		raw[int(raw[2])%TokenSize] ^= 1
		if token, ok := k.read(raw); ok {
			t.Errorf("%x with a bit flipped is read as %+v", raw, token)
		}
	})
}

// FuzzPlaces: page tokens and ids that are accepted name one place only.
func FuzzPlaces(f *testing.F) {
	for _, s := range []string{"", "1.2", "3-17", "3.2-17", "3.1-17", "-1.5", "0.9223372036854775807", "0.128-0", "0.0-5"} {
		f.Add(s)
	}
	pages, others := letterPages{tokens{1}, 10}, letterPages{tokens{2}, 10}
	f.Add(pages.token(3, 17))
	f.Add(pages.token(10, 17))
	f.Add(pages.token(3, 17) + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		p, number, err := pages.parse(s)
		if err == nil && s != "" && (p < 0 || p >= 10 || number < 0 || pages.token(uint32(p), number) != s) {
			t.Errorf("page %q is %d, %d", s, p, number)
		}
		if _, _, otherErr := others.parse(s); err == nil && otherErr == nil && s != "" {
			t.Errorf("page %q is one of two calls", s)
		}
		if p, number, ok := parsePlace(s); ok {
			lane, offset := laneOf(number)
			if got := placeID(p, lane, int64(offset)); got != s || number < 0 || !isPlace([]byte(s)) {
				t.Errorf("id %q is %d, %x, which is %q", s, p, number, got)
			}
		}
	})
}

// FuzzState: no key or value of a shard's map breaks who loads it, and a dead letter that is read tells its place.
func FuzzState(f *testing.F) {
	letter, err := proto.Marshal(&storagev1.DeadLetter{Record: NewRecord(nil, []byte("p"), nil, ""), Reason: "permanent", DiedMs: 5, HoldsKey: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shardKey(keyDeadLetter, laneNumber(1, 7)), letter)
	f.Add([]byte{keyHead}, []byte{8, 5})
	f.Add([]byte{keyHead, 1}, []byte{})
	f.Add(shardKey(keyBlock, 3), append([]byte{10, 32}, make([]byte, 32)...))
	f.Add(shardKey(keyFailure, 3), []byte{8, 1, 32, 5, 40, 9})
	f.Add(shardKey(keyRedriven, 3), []byte{10, 0})
	g := &group{topic: &topicState{decl: &topic.Topic{PriorityLevels: 3, Partitions: 1}}, broker: &Broker{seed: maphash.MakeSeed()}}
	sv := &serving{shard: &shard{group: g}, broker: g.broker}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		_ = sv.loadPair(make([]laneState, 3), engine.Pair{Key: key, Value: value}, time.UnixMilli(1_000), 1)
		n, err := keyNumber(key)
		if err != nil {
			return
		}
		if d, err := sv.parseDeadLetter(n, value); err == nil {
			if lane, offset := laneOf(n); int64(offset) != d.Offset || d.Priority != uint32(lane)+1 || d.ID == "" {
				t.Errorf("key %x is %+v", key, d)
			}
		}
	})
}

// FuzzScheduled: no entry of the schedule breaks who reads it.
func FuzzScheduled(f *testing.F) {
	value, err := proto.Marshal(&storagev1.Scheduled{Record: NewRecord(nil, []byte("p"), nil, "id"), Topic: 1, Partition: 2, Lane: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{'s'}, make([]byte, 16)...), value)
	f.Fuzz(func(_ *testing.T, key, value []byte) {
		_, _ = parseScheduled(key, value)
	})
}
