package server_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	"github.com/typedmq/typedmq/sidecar/internal/server"
)

func TestPublishPullSettle(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage}, boardRPC, rebookingRPC)
	receipts := h.publish("flights.departed",
		`{"origin":"SFO","destination":"LAX","delayMinutes":75}`, `{"origin":"SFO","destination":"HNL","delayMinutes":5}`)
	if receipts[0].GetPartition() != receipts[1].GetPartition() || receipts[1].GetOffset() != 1 {
		t.Fatalf("one key, two places: %v", receipts)
	}
	got := h.pull("board", "flights.departed", 10)
	if len(got) != 1 { // the second waits for the first: same key
		t.Fatalf("pulled %d messages, want 1", len(got))
	}
	m := got[0]
	if m.GetJson().GetFields()["destination"].GetStringValue() != "LAX" || string(m.GetKey()) != "SFO" || m.GetHeaders()["destination"] != "LAX" || m.GetAttempt() != 1 {
		t.Fatalf("pulled %v", m)
	}
	if r := h.settle("board", "flights.departed", ack(m.GetToken()), ack(m.GetToken())); len(r) != 0 {
		t.Fatalf("refused %v", r)
	}
	if got := h.pull("board", "flights.departed", 10); len(got) != 1 || got[0].GetJson().GetFields()["destination"].GetStringValue() != "HNL" {
		t.Fatalf("then pulled %v", got)
	}
	// The filter lets only the late flight through to the other group.
	late := h.pull("rebooking", "flights.departed", 10)
	if len(late) != 1 || late[0].GetJson().GetFields()["destination"].GetStringValue() != "LAX" {
		t.Fatalf("rebooking pulled %v", late)
	}
	h.settle("rebooking", "flights.departed", ack(late[0].GetToken()))
	if n := h.group("rebooking", "flights.departed"); n.lag != 0 || n.filtered != 1 {
		t.Fatalf("rebooking stands at %+v", n)
	}
}

type standing struct{ lag, filtered, dead, leased int64 }

func (h *harness) group(group, topic string) standing {
	h.t.Helper()
	r, err := h.admin.ListGroups(h.t.Context(), connect.NewRequest(&adminv1.ListGroupsRequest{Group: group, Topic: topic}))
	if err != nil {
		h.t.Fatal(err)
	}
	var s standing
	for _, p := range r.Msg.GetGroups()[0].GetPartitions() {
		s.lag += p.GetLag()
		s.filtered += p.GetCounters().GetFiltered()
		s.dead += p.GetDeadLetters()
		s.leased += p.GetLeased()
	}
	return s
}

func TestRestartKeepsWhatWasAcknowledged(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage}, boardRPC)
	for i := range 50 {
		h.publish("flights.departed", fmt.Sprintf(`{"flightId":"%d","origin":"O%d"}`, i, i))
	}
	seen := map[string]bool{}
	for _, m := range h.pull("board", "flights.departed", 20) {
		seen[m.GetId()] = true
		h.settle("board", "flights.departed", ack(m.GetToken()))
	}
	held := h.pull("board", "flights.departed", 5)
	h.stop()
	h.start()
	if r := h.settle("board", "flights.departed", ack(held[0].GetToken())); len(r) != 1 || r[0].GetRefusal().GetInfo().GetReason() != "LEASE_LOST" {
		t.Fatalf("a token from before the restart: %v", r)
	}
	rest := h.pull("board", "flights.departed", 100)
	for _, m := range rest {
		if seen[m.GetId()] {
			t.Errorf("message %s came again after it was acknowledged", m.GetId())
		}
		if m.GetAttempt() != 1 {
			t.Errorf("message %s comes as attempt %d: a restart uses none", m.GetId(), m.GetAttempt())
		}
	}
	if len(seen)+len(rest) != 50 {
		t.Fatalf("%d acknowledged and %d left of 50", len(seen), len(rest))
	}
}

func TestDeadLetters(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{bagsMessage}, baggageRPC)
	h.publish("bags.checked", `{"flightId":"A"}`, `{"flightId":"B"}`, `{"flightId":"C"}`)
	for _, m := range h.pull("baggage", "bags.checked", 10) {
		h.settle("baggage", "bags.checked", reject(m.GetToken(), "no belt"))
		if r := h.settle("baggage", "bags.checked", ack(m.GetToken())); len(r) != 1 {
			t.Fatal("a rejected message was acknowledged")
		}
	}
	list, err := h.admin.ListDeadLetters(t.Context(), connect.NewRequest(&adminv1.ListDeadLettersRequest{Group: "baggage", Topic: "bags.checked", PageSize: 2}))
	if err != nil {
		t.Fatal(err)
	}
	dead := list.Msg.GetDeadLetters()
	if len(dead) != 2 || dead[0].GetReason() != "permanent" || dead[0].GetLastError() != "no belt" || dead[0].GetJson().GetFields()["flightId"].GetStringValue() == "" {
		t.Fatalf("listed %v", list.Msg)
	}
	page, err := h.admin.ListDeadLetters(t.Context(), connect.NewRequest(&adminv1.ListDeadLettersRequest{
		Group: "baggage", Topic: "bags.checked", PageSize: 2, PageToken: list.Msg.GetNextPageToken(),
	}))
	if err != nil || len(page.Msg.GetDeadLetters()) != 1 || page.Msg.GetNextPageToken() != "" {
		t.Fatalf("second page %v, %v", page, err)
	}
	if _, err := h.admin.DiscardDeadLetters(t.Context(), connect.NewRequest(&adminv1.DiscardDeadLettersRequest{
		Group: "baggage", Topic: "bags.checked", Ids: []string{dead[0].GetId()},
	})); err != nil {
		t.Fatal(err)
	}
	redriven, err := h.admin.RedriveDeadLetters(t.Context(), connect.NewRequest(&adminv1.RedriveDeadLettersRequest{Group: "baggage", Topic: "bags.checked", All: true}))
	if err != nil || redriven.Msg.GetRedriven() != 2 {
		t.Fatalf("redrove %v, %v", redriven, err)
	}
	h.stop()
	h.start() // redriven messages are durable
	again := h.pull("baggage", "bags.checked", 10)
	if len(again) != 2 || again[0].GetAttempt() != 1 || !slices.ContainsFunc(again, func(m *brokerv1.PulledMessage) bool { return m.GetId() == dead[1].GetId() }) {
		t.Fatalf("redriven messages came as %v", again)
	}
	for _, m := range again {
		h.settle("baggage", "bags.checked", ack(m.GetToken()))
	}
	if s := h.group("baggage", "bags.checked"); s != (standing{}) {
		t.Fatalf("in the end %+v", s)
	}
}

func TestConsumeStream(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{bagsMessage}, baggageRPC)
	stream := h.api.Consume(t.Context())
	start := &brokerv1.ConsumeRequest_Start{Group: "baggage", Topic: "bags.checked", Credits: 3}
	if err := stream.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Start_{Start: start}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Receive(); err != nil || m.GetJoined().GetLease().AsDuration() != 30*time.Second {
		t.Fatalf("joined: %v, %v", m, err)
	}
	for i := range 5 {
		h.publish("bags.checked", fmt.Sprintf(`{"flightId":"%d"}`, i))
	}
	var tokens []byte
	receive := func(n int) {
		t.Helper()
		for len(tokens) < n*32 {
			m, err := stream.Receive()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range m.GetDeliveries().GetSlices() {
				tokens = append(tokens, s.GetTokens()...)
			}
		}
	}
	receive(3)
	if s := h.group("baggage", "bags.checked"); s.leased != 3 {
		t.Fatalf("%d are leased on 3 credits", s.leased)
	}
	if err := stream.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Heartbeat_{}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Receive(); err != nil || m.GetAlive() == nil {
		t.Fatalf("heartbeat: %v, %v", m, err)
	}
	settle := func() {
		r, err := h.api.Settle(t.Context(), connect.NewRequest(&brokerv1.SettleRequest{Group: "baggage", Topic: "bags.checked", Acks: tokens}))
		if err != nil || len(r.Msg.GetRefusals()) > 0 {
			t.Fatalf("settle: %v, %v", r, err)
		}
		tokens = nil
	}
	settle()
	receive(2)
	settle()
	if err := stream.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Fatalf("the stream ended with %v", err)
	}
	if s := h.group("baggage", "bags.checked"); s.lag != 0 || s.leased != 0 {
		t.Fatalf("in the end %+v", s)
	}
}

// TestLostOwnership: when the cluster takes ownership away, old tokens are refused, and messages come again under a new epoch.
func TestLostOwnership(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{bagsMessage}, baggageRPC)
	h.publish("bags.checked", `{"flightId":"A"}`)
	before := h.pull("baggage", "bags.checked", 1)
	h.member.Expire()
	r, err := h.api.Pull(t.Context(), connect.NewRequest(&brokerv1.PullRequest{Group: "baggage", Topic: "bags.checked", Wait: durationpb.New(5 * time.Second)}))
	for err != nil && connect.CodeOf(err) == connect.CodeUnavailable { // while ownership is being regained
		r, err = h.api.Pull(t.Context(), connect.NewRequest(&brokerv1.PullRequest{Group: "baggage", Topic: "bags.checked", Wait: durationpb.New(5 * time.Second)}))
	}
	if err != nil || len(r.Msg.GetMessages()) != 1 {
		t.Fatalf("after the loss: %v, %v", r, err)
	}
	if f := h.settle("baggage", "bags.checked", ack(before[0].GetToken())); len(f) != 1 || f[0].GetRefusal().GetInfo().GetReason() != "LEASE_LOST" {
		t.Fatalf("the old token: %v", f)
	}
	if f := h.settle("baggage", "bags.checked", ack(r.Msg.GetMessages()[0].GetToken())); len(f) != 0 {
		t.Fatalf("the new token: %v", f)
	}
}

func TestBadInput(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage, bagsMessage}, boardRPC, baggageRPC)
	publish := func(topic string, m *brokerv1.Message) error {
		_, err := h.api.Publish(t.Context(), connect.NewRequest(&brokerv1.PublishRequest{Topic: topic, Messages: []*brokerv1.Message{m}}))
		return err
	}
	json := func(text string) *brokerv1.Message {
		return &brokerv1.Message{Body: &brokerv1.Message_Json{Json: structOf(t, text)}}
	}
	declare := func(change func(*descriptorpb.FileDescriptorSet), topics []string, subs ...string) error {
		fds := flightFiles()
		change(fds)
		_, err := h.api.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{Descriptors: fds, Topics: topics, Subscriptions: subs}))
		return err
	}
	pull := func(r *brokerv1.PullRequest) error {
		_, err := h.api.Pull(t.Context(), connect.NewRequest(r))
		return err
	}
	big := strings.Repeat("x", 2<<20)
	for _, c := range []struct {
		name   string
		err    error
		code   connect.Code
		reason string
	}{
		{"unknown topic", publish("nowhere", json(`{}`)), connect.CodeNotFound, "TOPIC_UNKNOWN"},
		{"unknown field", publish("flights.departed", json(`{"orign":"SFO"}`)), connect.CodeInvalidArgument, "SCHEMA_MISMATCH"},
		{"2^63", publish("flights.departed", json(`{"origin":"SFO","delayMinutes":9223372036854775808}`)), connect.CodeInvalidArgument, "SCHEMA_MISMATCH"},
		{"payload of another message", publish("flights.departed", &brokerv1.Message{Body: &brokerv1.Message_Payload{Payload: []byte("\x08\x01")}}), connect.CodeInvalidArgument, "SCHEMA_MISMATCH"},
		{"no key on an ordered topic", publish("flights.departed", json(`{"destination":"LAX"}`)), connect.CodeInvalidArgument, "KEY_MISSING"},
		{"2 MiB", publish("flights.departed", json(`{"origin":"SFO","flightId":"`+big+`"}`)), connect.CodeResourceExhausted, "MESSAGE_TOO_LARGE"},
		{"key of 2 KiB", publish("flights.departed", &brokerv1.Message{Body: json(`{}`).GetBody(), Key: make([]byte, 2048)}), connect.CodeInvalidArgument, "KEY_TOO_LARGE"},
		{"CR in a header", publish("bags.checked", &brokerv1.Message{Body: json(`{}`).GetBody(), Headers: map[string]string{"a": "b\r\n"}}), connect.CodeInvalidArgument, "BAD_HEADER"},
		{"reserved header", publish("bags.checked", &brokerv1.Message{Body: json(`{}`).GetBody(), Headers: map[string]string{"mq.x": "b"}}), connect.CodeInvalidArgument, "BAD_HEADER"},
		{"batch of none", func() error {
			_, err := h.api.Publish(t.Context(), connect.NewRequest(&brokerv1.PublishRequest{Topic: "bags.checked"}))
			return err
		}(), connect.CodeInvalidArgument, "BATCH_EMPTY"},
		{"other partition count", declare(func(f *descriptorpb.FileDescriptorSet) { topicOf(f, 0).Partitions = proto.Uint32(8) }, []string{flightMessage}),
			connect.CodeFailedPrecondition, "TOPIC_INCOMPATIBLE"},
		{"other key", declare(func(f *descriptorpb.FileDescriptorSet) {
			for i, key := range []bool{true, false} {
				opts := message(f, 0).GetField()[i].Options
				if opts == nil {
					opts = &descriptorpb.FieldOptions{}
					message(f, 0).GetField()[i].Options = opts
				}
				proto.SetExtension(opts, mqv1.E_Field, &mqv1.FieldOptions{Key: proto.Bool(key)})
			}
		}, []string{flightMessage}), connect.CodeFailedPrecondition, "TOPIC_INCOMPATIBLE"},
		{"second group on a queue", declare(func(f *descriptorpb.FileDescriptorSet) {
			file := fileOf(f, "air/baggage/v1/baggage.proto")
			o := proto.GetExtension(file.Service[0].Options, mqv1.E_Consumer).(*mqv1.ConsumerOptions)
			o.Group = proto.String("thieves")
			proto.SetExtension(file.Service[0].Options, mqv1.E_Consumer, o)
		}, nil, baggageRPC), connect.CodeFailedPrecondition, "QUEUE_HAS_GROUP"},
		{"unknown message", declare(func(*descriptorpb.FileDescriptorSet) {}, []string{"x.Y"}), connect.CodeNotFound, "MESSAGE_UNKNOWN"},
		{"unknown rpc", declare(func(*descriptorpb.FileDescriptorSet) {}, nil, "x.Y/Z"), connect.CodeNotFound, "RPC_UNKNOWN"},
		{"missing import", declare(func(f *descriptorpb.FileDescriptorSet) { f.File = f.File[1:] }, nil), connect.CodeInvalidArgument, "DESCRIPTOR_MISSING_IMPORT"},
		{"unknown group", pull(&brokerv1.PullRequest{Group: "nobody", Topic: "bags.checked"}), connect.CodeNotFound, "GROUP_UNKNOWN"},
		{"lease of 100 years", pull(&brokerv1.PullRequest{Group: "baggage", Topic: "bags.checked", Lease: durationpb.New(100 * 365 * 24 * time.Hour)}), connect.CodeInvalidArgument, "BAD_LEASE"},
		{"fetch of 2^31", pull(&brokerv1.PullRequest{Group: "baggage", Topic: "bags.checked", MaxMessages: 1 << 31}), connect.CodeInvalidArgument, "BAD_REQUEST"},
		{"forged page token", func() error {
			_, err := h.admin.ListDeadLetters(t.Context(), connect.NewRequest(&adminv1.ListDeadLettersRequest{Group: "baggage", Topic: "bags.checked", PageToken: "99.1"}))
			return err
		}(), connect.CodeInvalidArgument, "BAD_PAGE_TOKEN"},
	} {
		if connect.CodeOf(c.err) != c.code || reason(c.err) != c.reason {
			t.Errorf("%s: got %v with reason %q, want %v %s", c.name, c.err, reason(c.err), c.code, c.reason)
		}
	}
}

func fileOf(f *descriptorpb.FileDescriptorSet, name string) *descriptorpb.FileDescriptorProto {
	for _, file := range f.File {
		if file.GetName() == name {
			return file
		}
	}
	return nil
}

func message(f *descriptorpb.FileDescriptorSet, i int) *descriptorpb.DescriptorProto {
	return fileOf(f, "air/flights/v1/flights.proto").MessageType[i]
}

// topicOf is the topic option of a message, which may be changed in place.
func topicOf(f *descriptorpb.FileDescriptorSet, i int) *mqv1.TopicOptions {
	o := proto.GetExtension(message(f, i).Options, mqv1.E_Topic).(*mqv1.TopicOptions)
	proto.SetExtension(message(f, i).Options, mqv1.E_Topic, o)
	return o
}

func TestForgedTokens(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{bagsMessage}, baggageRPC)
	h.publish("bags.checked", `{"flightId":"A"}`)
	token := h.pull("baggage", "bags.checked", 1)[0].GetToken()
	for bit := range len(token) * 8 {
		forged := bytes.Clone(token)
		forged[bit/8] ^= 1 << (bit % 8)
		f := h.settle("baggage", "bags.checked", ack(forged))
		if len(f) != 1 || f[0].GetRefusal().GetInfo().GetReason() != "BAD_TOKEN" {
			t.Fatalf("bit %d: %v", bit, f)
		}
	}
	for _, forged := range [][]byte{nil, token[:31], append(bytes.Clone(token), 0)} {
		if f := h.settle("baggage", "bags.checked", ack(forged)); len(f) != 1 || f[0].GetRefusal().GetInfo().GetReason() != "BAD_TOKEN" {
			t.Fatalf("%x: %v", forged, f)
		}
	}
	if f := h.settle("baggage", "bags.checked", ack(token)); len(f) != 0 {
		t.Fatalf("the real one: %v", f)
	}
}

func (h *harness) post(procedure, contentType, encoding string, body []byte) (int, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.url+procedure, bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := http.DefaultClient.Do(req) // HTTP/1.1, as curl would
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

const publishPath = "/mq.broker.v1.BrokerService/Publish"

func TestBadBytes(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage})
	deep := []byte("{}")
	for range 101 {
		deep = []byte(`{"a":` + string(deep) + `}`)
	}
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b)
		_ = w.Close()
		return out.Bytes()
	}
	good := []byte(`{"topic":"flights.departed","messages":[{"json":{"origin":"SFO"}}]}`)
	for _, c := range []struct {
		name, encoding string
		body           []byte
		want           string
	}{
		{"good", "", good, `"receipts"`},
		{"good, zipped", "gzip", zip(good), `"receipts"`},
		{"unknown JSON field", "", []byte(`{"topik":"x"}`), `"invalid_argument"`},
		{"nested 101 deep", "", []byte(`{"topic":"flights.departed","messages":[{"json":` + string(deep) + `}]}`), `"invalid_argument"`},
		{"invalid UTF-8", "", []byte("{\"topic\":\"\xff\"}"), `"invalid_argument"`},
		{"NaN", "", []byte(`{"topic":"flights.departed","messages":[{"json":{"delayMinutes":NaN}}]}`), `"invalid_argument"`},
		{"empty", "", nil, `"invalid_argument"`},
		{"truncated gzip", "gzip", zip(good)[:20], `"invalid_argument"`},
		{"unknown encoding", "br", good, `"unimplemented"`},
	} {
		if _, text := h.post(publishPath, "application/json", c.encoding, c.body); !strings.Contains(text, c.want) {
			t.Errorf("%s: answered %s, want %s", c.name, text, c.want)
		}
	}
	if status, _ := h.post(publishPath, "application/proto", "", bytes.Repeat([]byte{0x0a}, 3)); status != http.StatusBadRequest {
		t.Errorf("malformed protobuf: status %d", status)
	}
}

// TestGzipBomb: a body that inflates to gigabytes is refused without inflating it.
func TestGzipBomb(t *testing.T) {
	h := newHarness(t)
	var member bytes.Buffer
	w := gzip.NewWriter(&member)
	_, _ = w.Write(make([]byte, 1<<20))
	_ = w.Close()
	bomb := bytes.Repeat(member.Bytes(), 1024) // members of a gzip stream are inflated one after the other: a gigabyte
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	status, text := h.post(publishPath, "application/json", "gzip", bomb)
	runtime.ReadMemStats(&after)
	if !strings.Contains(text, `"resource_exhausted"`) {
		t.Fatalf("a bomb of %d bytes got %d %s", len(bomb), status, text)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 10*server.MaxRequestBytes {
		t.Fatalf("%d MiB were allocated for a bomb", grown>>20)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	h := newHarness(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, err := http.Get(h.url + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answered %d", path, resp.StatusCode)
		}
	}
	if _, text := h.post("/grpc.health.v1.Health/Check", "application/json", "", []byte(`{"service":"mq.broker.v1.BrokerService"}`)); !strings.Contains(text, "SERVING") {
		t.Errorf("health answered %s", text)
	}
	if _, text := h.post("/grpc.health.v1.Health/Check", "application/json", "", []byte(`{"service":"nope"}`)); !strings.Contains(text, "not_found") {
		t.Errorf("health of nope answered %s", text)
	}
}

func TestTail(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage})
	h.publish("flights.departed", `{"origin":"SFO"}`, `{"origin":"LAX"}`)
	read := func(r *adminv1.TailRequest) (n int) {
		t.Helper()
		s, err := h.admin.Tail(t.Context(), connect.NewRequest(r))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for s.Receive() {
			n += len(s.Msg().GetMessages())
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		return n
	}
	if n := read(&adminv1.TailRequest{Topic: "flights.departed", From: "earliest", Limit: 1}); n != 1 {
		t.Errorf("limit 1 gave %d", n)
	}
	if n := read(&adminv1.TailRequest{Topic: "flights.departed", From: "earliest", StopAtEnd: true}); n != 2 {
		t.Errorf("to the end gave %d", n)
	}
	if n := read(&adminv1.TailRequest{Topic: "flights.departed", StopAtEnd: true}); n != 0 {
		t.Errorf("from the end to the end gave %d", n)
	}
}

// TestAnswersAreNotCompressed: also for clients that say they could read it. Requests may be.
func TestAnswersAreNotCompressed(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage}, boardRPC)
	h.publish("flights.departed", `{"origin":"SFO","flightId":"`+strings.Repeat("x", 100_000)+`"}`)
	body := `{"group":"board","topic":"flights.departed","maxMessages":1,"wait":"5s"}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url+brokerv1connect.BrokerServicePullProcedure, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "gzip") // said here, it is not undone by the client
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || len(text) < 100_000 || answer.Header.Get("Content-Encoding") != "" {
		t.Fatalf("%d bytes in encoding %q, status %d, %v", len(text), answer.Header.Get("Content-Encoding"), answer.StatusCode, err)
	}
}
