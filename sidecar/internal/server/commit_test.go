package server_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/server"
)

// flights is an encoded RecordSet of n records with payloads of about size bytes.
func flights(t *testing.T, n, size int) (records []byte) {
	t.Helper()
	payload, err := proto.Marshal(&flightsv1.FlightDeparted{Origin: "SFO", Destination: strings.Repeat("x", size)})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		records = engine.AppendRecord(records, broker.NewRecord([]byte("SFO"), payload, nil, ""))
	}
	return records
}

// TestCommit: consume, transform and produce over the wire, twice under one id.
func TestCommit(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage, bagsMessage}, boardRPC, baggageRPC)
	h.publish("bags.checked", `{"flightId":"F1","origin":"SFO"}`)
	token := h.pull("baggage", "bags.checked", 1)[0].GetToken()
	req := &brokerv1.CommitRequest{
		TransactionId:    []byte("0123456789abcdef"),
		Publishes:        []*brokerv1.TopicRecords{{Topic: "flights.departed", Records: flights(t, 3, 10)}},
		Acknowledgements: []*brokerv1.Acknowledgement{{Group: "baggage", Topic: "bags.checked", Tokens: token}},
		Cancels:          []*brokerv1.CancelRequest{{Topic: "flights.departed", Ids: []string{"nobody"}}},
	}
	first, err := h.api.Commit(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	if r := first.Msg; r.GetDuplicate() || len(r.GetResults()) != 1 || len(r.GetResults()[0].GetOffsets()) != 3 || r.GetResults()[0].GetOffsets()[2] != 2 ||
		len(r.GetCancels()) != 1 || len(r.GetCancels()[0].GetUnknownIds()) != 1 {
		t.Fatalf("answered %v", r)
	}
	again, err := h.api.Commit(t.Context(), connect.NewRequest(req))
	if err != nil || !again.Msg.GetDuplicate() || !proto.Equal(again.Msg.GetResults()[0], first.Msg.GetResults()[0]) {
		t.Fatalf("then answered %v, %v", again, err)
	}
	if s := h.group("baggage", "bags.checked"); s.lag != 0 || s.leased != 0 {
		t.Errorf("the acknowledged message: %+v", s)
	}
	if s := h.group("board", "flights.departed"); s.lag != 3 {
		t.Errorf("the published messages: %+v", s)
	}
	for _, c := range []struct {
		name   string
		change func(*brokerv1.CommitRequest)
		code   connect.Code
		reason string
		field  string
	}{
		{"other content", func(r *brokerv1.CommitRequest) { r.Cancels = nil }, connect.CodeAlreadyExists, "TRANSACTION_CONFLICT", "transaction_id"},
		{"settled before", func(r *brokerv1.CommitRequest) { r.TransactionId = make([]byte, 16) }, connect.CodeFailedPrecondition, "LEASE_LOST", "acknowledgements[0]"},
		{"a number", func(r *brokerv1.CommitRequest) { r.Publishes[0].Number = 1 }, connect.CodeInvalidArgument, "BAD_REQUEST", "publishes[0].number"},
		{"no id", func(r *brokerv1.CommitRequest) { r.TransactionId = nil }, connect.CodeInvalidArgument, "BAD_REQUEST", "transaction_id"},
		{"nothing", func(r *brokerv1.CommitRequest) { r.Publishes, r.Acknowledgements, r.Cancels = nil, nil, nil }, connect.CodeInvalidArgument, "BATCH_EMPTY", ""},
		{"no records", func(r *brokerv1.CommitRequest) { r.Publishes[0].Records = nil }, connect.CodeInvalidArgument, "BATCH_EMPTY", "publishes[0].records"},
		{"too many", func(r *brokerv1.CommitRequest) {
			r.Publishes[0].Records = flights(t, 5000, 1)
			r.Publishes = append(r.Publishes, r.Publishes[0], r.Publishes[0])
		}, connect.CodeResourceExhausted, "BATCH_TOO_LARGE", ""},
		{"too large", func(r *brokerv1.CommitRequest) { r.Publishes[0].Records = flights(t, 17, 1<<20) }, connect.CodeResourceExhausted, "BATCH_TOO_LARGE", ""},
	} {
		bad := proto.CloneOf(req)
		c.change(bad)
		_, err := h.api.Commit(t.Context(), connect.NewRequest(bad))
		if connect.CodeOf(err) != c.code || reason(err) != c.reason || infoOf(err).GetField() != c.field {
			t.Errorf("%s: %v, %s of %q, want %v, %s of %q", c.name, err, reason(err), infoOf(err).GetField(), c.code, c.reason, c.field)
		}
	}
	large := proto.CloneOf(req)
	large.TransactionId, large.Acknowledgements = []byte("fedcba9876543210"), nil
	large.Publishes[0].Records = flights(t, 15, 1<<20-100)
	if r, err := h.api.Commit(t.Context(), connect.NewRequest(large)); err != nil || len(r.Msg.GetResults()[0].GetOffsets()) != 15 {
		t.Errorf("15 MiB: %v", err)
	}
	zipped := brokerv1connect.NewBrokerServiceClient(h.http, h.url, connect.WithSendGzip())
	large.TransactionId[0]++
	if r, err := zipped.Commit(t.Context(), connect.NewRequest(large)); err != nil || len(r.Msg.GetResults()[0].GetOffsets()) != 15 {
		t.Errorf("15 MiB, compressed: %v", err)
	}
}

// TestGzipBombInACommit: it may be larger than other requests, and no larger.
func TestGzipBombInACommit(t *testing.T) {
	h := newHarness(t)
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, _ = w.Write(make([]byte, 64<<20))
	_ = w.Close()
	if status, text := h.post("/mq.broker.v1.BrokerService/Commit", "application/json", "gzip", bomb.Bytes()); !strings.Contains(text, fmt.Sprintf("larger than %d bytes when decompressed", server.MaxCommitBytes)) {
		t.Fatalf("got %d %s", status, text)
	}
}
