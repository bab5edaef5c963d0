package mq

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// drawer is a sender that keeps records until somebody takes them out.
type drawer struct {
	topics  []string
	records [][]byte
	err     error
}

func (d *drawer) Send(_ context.Context, p *Publication) (Receipt, error) {
	if d.err != nil {
		return Receipt{}, d.err
	}
	record, err := p.MarshalRecord()
	if err != nil {
		return Receipt{}, err
	}
	d.topics, d.records = append(d.topics, p.Topic()), append(d.records, record)
	return Receipt{ID: p.Record().ID, Topic: p.Topic(), Offset: -1}, nil
}

// What a publisher gives to a sender of another kind is, sent by a client later, what the publisher would have sent.
func TestRecordsOfAnotherSender(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.levels = 3
		var kept drawer
		later := NewPublisher(&kept, stringTopic, WithTTL(time.Hour))
		now := NewPublisher(c, stringTopic, WithTTL(time.Hour))
		at := time.Now().Add(time.Hour)
		for _, opts := range [][]PublishOption{
			nil,
			{WithID("id"), WithKey([]byte("k")), WithHeader("name", "value"), WithPriority(3)},
			{WithID("delayed"), WithDelay(1500 * time.Microsecond)},
			{WithID("at"), WithDeliverAt(at)},
		} {
			if receipt, err := later.Publish(t.Context(), wrapperspb.String("text"), opts...); err != nil || receipt.Offset != -1 {
				t.Fatal(receipt, err)
			}
			if _, err := now.Publish(t.Context(), wrapperspb.String("text"), opts...); err != nil {
				t.Fatal(err)
			}
		}
		if results := later.PublishBatch(t.Context(), []*wrapperspb.StringValue{wrapperspb.String("")}); results[0].Err != nil {
			t.Fatal(results)
		}
		if _, err := now.Publish(t.Context(), wrapperspb.String("")); err != nil {
			t.Fatal(err)
		}
		if receipt, err := later.PublishAsync(t.Context(), wrapperspb.String("a")).Wait(t.Context()); err != nil || receipt.Offset != -1 {
			t.Fatal(receipt, err)
		}
		if _, err := now.Publish(t.Context(), wrapperspb.String("a")); err != nil {
			t.Fatal(err)
		}

		direct := b.frames()
		for i, record := range kept.records {
			p, err := NewEncodedPublication(kept.topics[i], stringTopic.descriptor(), record)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := p.Message().(*wrapperspb.StringValue); !ok {
				t.Errorf("the message is a %T", p.Message())
			}
			if again, err := p.MarshalRecord(); err != nil || !bytes.Equal(again, record) {
				t.Errorf("encoded again: %q, %v, not %q", again, err, record)
			}
			if receipt, err := c.Send(t.Context(), p); err != nil || receipt.Topic != "strings" {
				t.Error(receipt, err)
			}
		}
		relayed := b.frames()[len(direct):]
		if len(relayed) != len(direct) || len(direct) != 6 {
			t.Fatalf("%d records were sent directly, %d through the other sender", len(direct), len(relayed))
		}
		for i := range direct {
			if got, want := relayed[i].GetBatches()[0], direct[i].GetBatches()[0]; !proto.Equal(records(got)[0], records(want)[0]) {
				t.Errorf("record %d: %v, want %v", i, records(got), records(want))
			}
		}
	})
}

// The payload of a record is sent as it is, whatever this program would make of it.
func TestEncodedPublicationKeepsBytes(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		payload := []byte{0x12, 1, 'u', 0x0a, 1, 'x', 0x0a, 1, 'y'} // an unknown field first, then the value twice
		record, err := proto.Marshal(&brokerv1.Record{Payload: payload, Id: "id"})
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewEncodedPublication("strings", stringTopic.descriptor(), record)
		if err != nil {
			t.Fatal(err)
		}
		clear(record)
		if _, err := c.Send(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if got := records(b.frames()[0].GetBatches()[0])[0]; !bytes.Equal(got.GetPayload(), payload) || got.GetId() != "id" {
			t.Errorf("sent %v", got)
		}
	})
}

func TestEncodedPublicationRefusals(t *testing.T) {
	encode := func(r *brokerv1.Record) []byte {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, test := range map[string]struct {
		record []byte
		reason string
	}{
		"no record":          {[]byte{0xff}, "BAD_MESSAGE"},
		"no message":         {encode(&brokerv1.Record{Payload: []byte{0xff}}), "BAD_MESSAGE"},
		"id":                 {encode(&brokerv1.Record{Id: "0-7"}), "BAD_NAME"},
		"key":                {encode(&brokerv1.Record{Key: make([]byte, 1025)}), "KEY_TOO_LARGE"},
		"header":             {encode(&brokerv1.Record{Headers: []*brokerv1.Header{{Name: "a b"}}}), "BAD_HEADER"},
		"priority":           {encode(&brokerv1.Record{Priority: 11}), "BAD_PRIORITY"},
		"delay":              {encode(&brokerv1.Record{DelayMs: 1 << 63}), "BAD_DELAY"},
		"delay and instant":  {encode(&brokerv1.Record{DelayMs: 1, DeliverAtMs: 1}), "BAD_DELAY"},
		"instant before 0":   {encode(&brokerv1.Record{DeliverAtMs: -1}), "BAD_DELAY"},
		"ttl beyond 10 year": {encode(&brokerv1.Record{TtlMs: 1 << 62}), "BAD_TTL"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewEncodedPublication("strings", stringTopic.descriptor(), test.record)
			var e *Error
			if !errors.As(err, &e) || e.Reason != test.reason || p != nil {
				t.Errorf("got %v, %v", p, err)
			}
		})
	}
}

func TestMarshalRecordRefusals(t *testing.T) {
	var kept drawer
	p := NewPublisher(&kept, stringTopic)
	for name, test := range map[string]struct {
		message *wrapperspb.StringValue
		opt     PublishOption
		reason  string
	}{
		"id":      {wrapperspb.String(""), WithID("1-1"), "BAD_NAME"},
		"ttl":     {wrapperspb.String(""), WithTTL(-1), "BAD_TTL"},
		"payload": {wrapperspb.String("\xff"), WithID(""), "BAD_MESSAGE"},
		"size":    {wrapperspb.String(strings.Repeat("x", 4<<20)), WithKey(nil), "MESSAGE_TOO_LARGE"},
		"nil":     {nil, WithKey(nil), "BAD_MESSAGE"},
	} {
		t.Run(name, func(t *testing.T) {
			var e *Error
			if _, err := p.Publish(t.Context(), test.message, test.opt); !errors.As(err, &e) || e.Reason != test.reason {
				t.Errorf("got %v", err)
			}
		})
	}
	kept.err = errors.New("jammed")
	if _, err := p.Publish(t.Context(), wrapperspb.String("")); !errors.Is(err, kept.err) || !strings.HasPrefix(err.Error(), `publish to "strings": `) {
		t.Errorf("got %v", err)
	}
	if _, err := p.PublishAsync(t.Context(), wrapperspb.String("")).Wait(t.Context()); !errors.Is(err, kept.err) {
		t.Errorf("got %v", err)
	}
	if results := p.PublishBatch(t.Context(), []*wrapperspb.StringValue{wrapperspb.String("")}); !errors.Is(results[0].Err, kept.err) {
		t.Errorf("got %v", results)
	}
	if len(kept.records) > 0 {
		t.Errorf("%d records were kept", len(kept.records))
	}
}

// The client's interceptors see what a relay sends, with its message, and can add to it.
func TestSendPassesInterceptors(t *testing.T) {
	var seen []string
	trace := func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, p *Publication) (Receipt, error) {
			seen = append(seen, p.Topic()+" "+p.Message().(*wrapperspb.StringValue).GetValue())
			p.Record().AddHeader("trace", "1")
			return next(ctx, p)
		}
	}
	withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
		c := dialed(t, b, WithPublishInterceptors(trace))
		var kept drawer
		if _, err := NewPublisher(&kept, stringTopic).Publish(t.Context(), wrapperspb.String("x")); err != nil {
			t.Fatal(err)
		}
		p, err := NewEncodedPublication("strings", stringTopic.descriptor(), kept.records[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Send(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if want := []string{"strings x"}; !slices.Equal(seen, want) {
			t.Errorf("the interceptor saw %q", seen)
		}
		headers := records(b.frames()[0].GetBatches()[0])[0].GetHeaders()
		if len(headers) != 2 || headers[1].GetName() != "trace" {
			t.Errorf("headers %v", headers)
		}
	})
}
