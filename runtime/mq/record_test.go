package mq

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// The encoding written by hand is that of the generated code, byte for byte.
func TestRecordEncoding(t *testing.T) {
	for name, test := range map[string]struct {
		record  Record
		message string
	}{
		"empty":   {},
		"payload": {message: "payload"},
		"all": {Record{Key: []byte("key"), ID: "id", headers: []header{{"name", "value"}, {"empty", ""},
			{"long", string(bytes.Repeat([]byte("v"), 300))}}}, string(bytes.Repeat([]byte("p"), 70_000))},
		"numbers":       {Record{priority: 10, delayMS: 1 << 40, deliverAtMS: 1 << 41, ttlMS: 1}, "payload"},
		"numbers alone": {record: Record{priority: 1, delayMS: 1, deliverAtMS: 127, ttlMS: 128}},
	} {
		t.Run(name, func(t *testing.T) {
			message := wrapperspb.String(test.message)
			got, err := appendRecord([]byte("before"), &test.record, message, nil, proto.Size(message))
			if err != nil {
				t.Fatal(err)
			}
			payload, _ := proto.Marshal(message)
			want := &brokerv1.Record{Key: test.record.Key, Payload: payload, Id: test.record.ID, Priority: uint32(test.record.priority),
				DelayMs: test.record.delayMS, DeliverAtMs: test.record.deliverAtMS, TtlMs: test.record.ttlMS}
			for _, h := range test.record.headers {
				// The hand-written encoding states an empty value, which decodes to the same.
				want.Headers = append(want.Headers, &brokerv1.Header{Name: h.name, Value: h.value})
			}
			set := &brokerv1.RecordSet{}
			if err := proto.Unmarshal(bytes.TrimPrefix(got, []byte("before")), set); err != nil {
				t.Fatal(err)
			}
			if len(set.GetRecords()) != 1 || !proto.Equal(set.GetRecords()[0], want) {
				t.Errorf("got %v, want %v", set, want)
			}
			encoding, _ := proto.Marshal(want)
			r, err := parseRecord(encoding)
			if err != nil || !bytes.Equal(r.key, want.GetKey()) || !bytes.Equal(r.payload, payload) || r.id != want.GetId() {
				t.Errorf("parsed %+v, %v", r, err)
			}
			var headers []header
			for name, value := range r.headers() {
				headers = append(headers, header{name, value})
			}
			if !slices.Equal(headers, test.record.headers) {
				t.Errorf("headers %v", headers)
			}
		})
	}
}

// Whatever bytes come, they are walked to an end or an error, and what the generated code can decode gives the same fields.
func FuzzParseRecord(f *testing.F) {
	valid, _ := proto.Marshal(&brokerv1.Record{Key: []byte("k"), Payload: []byte("p"), Id: "id",
		Headers: []*brokerv1.Header{{Name: "n", Value: "v"}}})
	f.Add(valid)
	f.Add([]byte{0x0a, 0x05})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		n := 0
		for range r.headers() {
			n++
		}
		want := &brokerv1.Record{}
		if proto.Unmarshal(b, want) != nil {
			return
		}
		if err != nil {
			t.Fatalf("%x decodes, but parsing says %v", b, err)
		}
		if !bytes.Equal(r.key, want.GetKey()) || !bytes.Equal(r.payload, want.GetPayload()) || r.id != want.GetId() || n != len(want.GetHeaders()) {
			t.Fatalf("%x: parsed %+v with %d headers, want %v", b, r, n, want)
		}
	})
}

// Dropping and splitting keep each record, and each ticket finds its own.
func TestBatchSurgery(t *testing.T) {
	b := (&lane{pipeline: &pipeline{}}).newBatchLocked(&topic{name: "t"})
	texts := []string{"one", "two", "three", "four", "five", "six", "seven"}
	var tickets []ticket
	for _, text := range texts {
		tickets = append(tickets, ticket{answers: b.answers, index: uint32(b.add([]byte(text)))})
	}
	abandon := func(text string) {
		claim := tickets[slices.Index(texts, text)]
		for claim.answers.halves != nil {
			claim = claim.half()
		}
		claim.answers.batch.abandon(claim.answers.place(int(claim.index)))
	}
	check := func(b *batch, want ...string) {
		t.Helper()
		var got []string
		start := uint32(0)
		for _, end := range b.ends {
			got = append(got, string(b.records[start:end]))
			start = end
		}
		if !slices.Equal(got, want) || len(b.records) != int(start) {
			t.Errorf("%q in %d bytes, want %q", got, len(b.records), want)
		}
		for _, text := range want {
			claim := tickets[slices.Index(texts, text)]
			for claim.answers.halves != nil {
				claim = claim.half()
			}
			if place := claim.answers.place(int(claim.index)); claim.answers != b.answers || got[place] != text {
				t.Errorf("the ticket of %q leads to record %d", text, place)
			}
		}
	}
	p := &pipeline{}
	b.drop()
	check(b, texts...)
	abandon("two")
	b.drop()
	check(b, "one", "three", "four", "five", "six", "seven")
	abandon("six")
	abandon("six")
	b.drop()
	check(b, "one", "three", "four", "five", "seven")
	b.number = 1
	abandon("four")
	abandon("one")
	b.drop()
	check(b, "one", "three", "four", "five", "seven")
	first, second := p.split(b)
	check(first, "one", "three")
	check(second, "four", "five", "seven")
	first.drop()
	second.drop()
	check(first, "three")
	check(second, "five", "seven")
	third, fourth := p.split(second)
	check(third, "five")
	check(fourth, "seven")
	abandon("seven")
	fourth.drop()
	check(fourth)
}

func BenchmarkAppendRecord(b *testing.B) {
	message := wrapperspb.Bytes(make([]byte, 256))
	record := &Record{Key: []byte("SFO"), headers: []header{{"destination", "LAX"}}}
	b.ReportAllocs()
	var buffer []byte
	for b.Loop() {
		var err error
		if buffer, err = appendRecord(buffer[:0], record, message, nil, proto.Size(message)); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buffer)))
}

func TestFrameHoldsTenThousandRecords(t *testing.T) {
	f, one := newFrame(), &topic{name: "t"}
	b := (&lane{pipeline: &pipeline{}}).newBatchLocked(one)
	f.begin(b)
	n := 0
	for ; f.fits(one, 1) && n <= 10_000; n++ {
		f.add(b, []byte("x"))
	}
	if n != 10_000 {
		t.Errorf("%d records fit", n)
	}
}

// What looks like a place is nobody's own id; what only resembles one is allowed.
func TestIDsThatLookLikePlaces(t *testing.T) {
	for id, place := range map[string]bool{
		"0-0": true, "3-17": true, "0.3-17": true, "00-00": true, "2026-11": true,
		"": false, "-": false, "1-": false, "-1": false, "1": false, "1.2": false, "1.-2": false, ".1-2": false, "1.2.3-4": false, "1-2-3": false, "a-1": false,
		"2026-11-22": false, "5f0c9bb0d2f14f7c8a0e6a3f3f9f2a11": false,
	} {
		if isPlace(id) != place {
			t.Errorf("%q looks like a place: %v", id, !place)
		}
	}
}
