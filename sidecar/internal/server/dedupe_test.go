package server_test

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// TestPublishingTwiceOverTheWire: a frame that is sent again under its numbers, on another stream, and a message under its id.
func TestPublishingTwiceOverTheWire(t *testing.T) {
	h := newHarness(t)
	fds := flightFiles()
	for _, f := range fds.GetFile() {
		for _, m := range f.GetMessageType() {
			if f.GetPackage()+"."+m.GetName() == bagsMessage {
				deduplicate(m)
			}
		}
	}
	if _, err := h.api.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{Descriptors: fds, Topics: []string{flightMessage, bagsMessage}})); err != nil {
		t.Fatal(err)
	}
	send := func(frame *brokerv1.PublishStreamRequest) *brokerv1.BatchResult {
		t.Helper()
		stream := h.api.PublishStream(t.Context())
		if err := stream.Send(frame); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Receive()
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
		return answer.GetResults()[0]
	}
	frame := &brokerv1.PublishStreamRequest{
		ProducerId: []byte("0123456789abcdef"), AnsweredBelow: 1,
		Batches: []*brokerv1.TopicRecords{{Topic: "flights.departed", Records: flights(t, 3, 10), Number: 1}},
	}
	first := send(frame)
	if again := send(frame); first.GetRefusal() != nil || !proto.Equal(again, first) {
		t.Errorf("answered %v, and then %v", first, again)
	}
	for field, id := range map[string]string{"": "0123456789abcdeF", "producer_id": "short", "producer_id ": ""} {
		frame.ProducerId = []byte(id)
		if r := send(frame); r.GetRefusal().GetInfo().GetField() != strings.TrimSpace(field) {
			t.Errorf("producer %q: %v", id, r)
		}
	}

	publish := func(id, text string) (*brokerv1.Receipt, error) {
		body, err := structpb.NewStruct(map[string]any{"flightId": text, "origin": "SFO"})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := h.api.Publish(t.Context(), connect.NewRequest(&brokerv1.PublishRequest{
			Topic: "bags.checked", Messages: []*brokerv1.Message{{Id: id, Body: &brokerv1.Message_Json{Json: body}}},
		}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetReceipts()[0], nil
	}
	one, err := publish("a", "F1")
	two, err2 := publish("a", "F1")
	if err != nil || err2 != nil || one.GetDuplicate() || !two.GetDuplicate() || two.GetOffset() != one.GetOffset() || two.GetPartition() != one.GetPartition() {
		t.Errorf("%v, %v; %v, %v", one, err, two, err2)
	}
	if _, err := publish("a", "F2"); connect.CodeOf(err) != connect.CodeAlreadyExists || reason(err) != "DEDUPE_CONFLICT" {
		t.Errorf("a conflict was answered %v", err)
	}
	if r := send(&brokerv1.PublishStreamRequest{Batches: []*brokerv1.TopicRecords{{Topic: "bags.checked", Records: flights(t, 1, 10)}}}); r.GetRefusal() != nil ||
		!slices.Equal(r.GetDuplicates(), nil) {
		t.Errorf("without an id: %v", r)
	}
}

func deduplicate(m *descriptorpb.DescriptorProto) {
	o := proto.GetExtension(m.GetOptions(), mqv1.E_Topic).(*mqv1.TopicOptions)
	o.Dedupe = &mqv1.Dedupe{}
	proto.SetExtension(m.Options, mqv1.E_Topic, o)
}
