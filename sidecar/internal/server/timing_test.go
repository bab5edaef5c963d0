package server_test

import (
	"errors"
	"maps"
	"math"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// jobFiles declare the topic "jobs" with three priorities, whose messages {name, urgency, due} say how urgent they are and when they are due, and the
// group "workers".
func jobFiles() *descriptorpb.FileDescriptorSet {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, role *mqv1.FieldOptions) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, JsonName: &name, Number: &number, Type: &kind,
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Options: &descriptorpb.FieldOptions{}}
		if kind == descriptorpb.FieldDescriptorProto_TYPE_MESSAGE {
			f.TypeName = proto.String(".google.protobuf.Timestamp")
		}
		if role != nil {
			proto.SetExtension(f.Options, mqv1.E_Field, role)
		}
		return f
	}
	job := &descriptorpb.DescriptorProto{Name: proto.String("Job"), Options: &descriptorpb.MessageOptions{}, Field: []*descriptorpb.FieldDescriptorProto{
		field("name", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, nil),
		field("urgency", 2, descriptorpb.FieldDescriptorProto_TYPE_UINT32, &mqv1.FieldOptions{Priority: proto.Bool(true)}),
		field("due", 3, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, &mqv1.FieldOptions{DeliverAt: proto.Bool(true)}),
	}}
	proto.SetExtension(job.Options, mqv1.E_Topic, &mqv1.TopicOptions{Name: proto.String("jobs"), Partitions: proto.Uint32(1), PriorityLevels: proto.Uint32(3)})
	workers := &descriptorpb.ServiceDescriptorProto{Name: proto.String("Workers"), Options: &descriptorpb.ServiceOptions{},
		Method: []*descriptorpb.MethodDescriptorProto{{Name: proto.String("On"), InputType: proto.String(".jobs.Job"), OutputType: proto.String(".google.protobuf.Empty")}}}
	proto.SetExtension(workers.Options, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: proto.String("workers")})
	set := files(mqv1.File_mq_v1_options_proto, emptypb.File_google_protobuf_empty_proto, timestamppb.File_google_protobuf_timestamp_proto)
	set.File = append(set.File, &descriptorpb.FileDescriptorProto{
		Name: proto.String("jobs.proto"), Package: proto.String("jobs"), Syntax: proto.String("proto3"),
		Dependency:  []string{"mq/v1/options.proto", "google/protobuf/empty.proto", "google/protobuf/timestamp.proto"},
		MessageType: []*descriptorpb.DescriptorProto{job}, Service: []*descriptorpb.ServiceDescriptorProto{workers},
	})
	return set
}

// newJobs is a harness with the topic "jobs" and the group "workers".
func newJobs(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	r, err := h.api.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{
		Descriptors: jobFiles(), Topics: []string{"jobs.Job"}, Subscriptions: []string{"jobs.Workers/On"}}))
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Msg.GetTopics()[0]; d.GetName() != "jobs" || d.GetPriorityLevels() != 3 {
		t.Fatalf("declared %v", d)
	}
	return h
}

// send publishes one message of "jobs".
func (h *harness) send(m *brokerv1.Message) (*brokerv1.Receipt, error) {
	h.t.Helper()
	r, err := h.api.Publish(h.t.Context(), connect.NewRequest(&brokerv1.PublishRequest{Topic: "jobs", Messages: []*brokerv1.Message{m}}))
	if err != nil {
		return nil, err
	}
	return r.Msg.GetReceipts()[0], nil
}

func (h *harness) job(text string) *brokerv1.Message {
	return &brokerv1.Message{Body: &brokerv1.Message_Json{Json: structOf(h.t, text)}}
}

func TestBadTimingIsRefused(t *testing.T) {
	h := newJobs(t)
	for name, tt := range map[string]struct {
		change        func(*brokerv1.Message)
		reason, field string
	}{
		"negative delay":    {func(m *brokerv1.Message) { m.Delay = durationpb.New(-1) }, "BAD_DELAY", "delay"},
		"100 years":         {func(m *brokerv1.Message) { m.Delay = durationpb.New(100 * 365 * 24 * time.Hour) }, "BAD_DELAY", "delay"},
		"10,000 years":      {func(m *brokerv1.Message) { m.Delay = &durationpb.Duration{Seconds: 315_576_000_000} }, "BAD_DELAY", "delay"},
		"mixed signs":       {func(m *brokerv1.Message) { m.Delay = &durationpb.Duration{Seconds: 1, Nanos: -1} }, "BAD_DELAY", "delay"},
		"overflow":          {func(m *brokerv1.Message) { m.Delay = &durationpb.Duration{Seconds: math.MaxInt64} }, "BAD_DELAY", "delay"},
		"both":              {func(m *brokerv1.Message) { m.Delay, m.DeliverAt = durationpb.New(0), timestamppb.Now() }, "BAD_DELAY", "delay"},
		"bad nanos":         {func(m *brokerv1.Message) { m.DeliverAt = &timestamppb.Timestamp{Nanos: -1} }, "BAD_DELAY", "deliver_at"},
		"year 10,000":       {func(m *brokerv1.Message) { m.DeliverAt = &timestamppb.Timestamp{Seconds: 253_402_300_800} }, "BAD_DELAY", "deliver_at"},
		"year 9999":         {func(m *brokerv1.Message) { m.DeliverAt = &timestamppb.Timestamp{Seconds: 253_402_300_799} }, "BAD_DELAY", "deliver_at"},
		"1969":              {func(m *brokerv1.Message) { m.DeliverAt = &timestamppb.Timestamp{Seconds: -1} }, "BAD_DELAY", "deliver_at"},
		"zero time":         {func(m *brokerv1.Message) { m.DeliverAt = timestamppb.New(time.Time{}) }, "BAD_DELAY", "deliver_at"},
		"ttl 0":             {func(m *brokerv1.Message) { m.Ttl = durationpb.New(0) }, "BAD_TTL", "ttl"},
		"ttl of 999 µs":     {func(m *brokerv1.Message) { m.Ttl = durationpb.New(time.Millisecond - 1) }, "BAD_TTL", "ttl"},
		"ttl of 1000 years": {func(m *brokerv1.Message) { m.Ttl = &durationpb.Duration{Seconds: 31_557_600_000} }, "BAD_TTL", "ttl"},
		"negative ttl":      {func(m *brokerv1.Message) { m.Ttl = durationpb.New(-time.Second) }, "BAD_TTL", "ttl"},
		"ttl of 100 years":  {func(m *brokerv1.Message) { m.Ttl = durationpb.New(100 * 365 * 24 * time.Hour) }, "BAD_TTL", "ttl"},
		"ttl, mixed signs":  {func(m *brokerv1.Message) { m.Ttl = &durationpb.Duration{Seconds: -1, Nanos: 1} }, "BAD_TTL", "ttl"},
		"priority 0":        {func(m *brokerv1.Message) { m.Priority = proto.Uint32(0) }, "BAD_PRIORITY", "priority"},
		"priority 4":        {func(m *brokerv1.Message) { m.Priority = proto.Uint32(4) }, "BAD_PRIORITY", "priority"},
		"priority of 2^32":  {func(m *brokerv1.Message) { m.Priority = proto.Uint32(math.MaxUint32) }, "BAD_PRIORITY", "priority"},
		"field out of line": {func(m *brokerv1.Message) { m.Body = h.job(`{"urgency":4}`).Body }, "BAD_PRIORITY", "priority"},
		"due in the year 1": {func(m *brokerv1.Message) { m.Body = h.job(`{"due":"0001-01-01T00:00:00Z"}`).Body }, "BAD_DELAY", "deliver_at"},
		"due in 1969":       {func(m *brokerv1.Message) { m.Body = h.job(`{"due":"1969-12-31T23:59:59Z"}`).Body }, "BAD_DELAY", "deliver_at"},
	} {
		t.Run(name, func(t *testing.T) {
			m := h.job(`{"name":"a"}`)
			tt.change(m)
			_, err := h.send(m)
			if reason(err) != tt.reason || connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("got %v, want %s", err, tt.reason)
			}
			if got, want := infoOf(err).GetField(), "messages[0]."+tt.field; got != want {
				t.Errorf("field %q, want %q", got, want)
			}
			want := map[string]string{"bound": "87672h0m0s"}
			if tt.reason == "BAD_PRIORITY" {
				want["bound"] = "3"
			}
			if name == "both" {
				want = nil
			}
			if got := infoOf(err).GetMetadata(); !maps.Equal(got, want) {
				t.Errorf("metadata %v, want %v", got, want)
			}
		})
	}
	if got := h.pull("workers", "jobs", 10); len(got) != 0 {
		t.Errorf("delivered %v", got)
	}
}

// What a time.Duration cannot hold is not shown as what it can hold.
func TestRefusedTimesAreShownAsGiven(t *testing.T) {
	h := newJobs(t)
	for want, change := range map[string]func(*brokerv1.Message){
		"delay 31557600000s: must be 0s to 87672h0m0s (10 years)":         func(m *brokerv1.Message) { m.Delay = &durationpb.Duration{Seconds: 31_557_600_000} },
		"delay 31557600000s and 5ns: must be 0s to 87672h0m0s (10 years)": func(m *brokerv1.Message) { m.Delay = &durationpb.Duration{Seconds: 31_557_600_000, Nanos: 5} },
		"ttl -31557600000s: must be 1ms to 87672h0m0s (10 years)":         func(m *brokerv1.Message) { m.Ttl = &durationpb.Duration{Seconds: -31_557_600_000} },
		"deliver_at 0001-01-01T00:00:00Z: must not lie before 1970 nor more than 87672h0m0s (10 years) ahead": func(m *brokerv1.Message) {
			m.DeliverAt = timestamppb.New(time.Time{})
		},
	} {
		m := h.job(`{"name":"a"}`)
		change(m)
		_, err := h.send(m)
		var ce *connect.Error
		if !errors.As(err, &ce) || ce.Message() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func infoOf(err error) *brokerv1.ErrorInfo {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return nil
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*brokerv1.ErrorInfo); ok {
				return info
			}
		}
	}
	return nil
}

// What is kept back has no place, is not delivered, and can be taken back once.
func TestPublishScheduledAndCancel(t *testing.T) {
	h := newJobs(t)
	later := h.job(`{"name":"later"}`)
	later.Delay = durationpb.New(time.Hour)
	drawn, err := h.send(later)
	if err != nil {
		t.Fatal(err)
	}
	if !drawn.GetScheduled() || drawn.GetOffset() != -1 || len(drawn.GetId()) != 32 {
		t.Errorf("receipt %v", drawn)
	}
	mine := h.job(`{"name":"mine","due":"2020-01-01T00:00:00Z"}`)
	mine.DeliverAt, mine.Id = timestamppb.New(time.Now().Add(time.Hour)), "mine"
	if r, err := h.send(mine); err != nil || r.GetId() != "mine" || !r.GetScheduled() {
		t.Errorf("receipt %v, %v", r, err)
	}
	if got := h.pull("workers", "jobs", 10); len(got) != 0 {
		t.Errorf("delivered %v", got)
	}
	cancel := func(ids ...string) (*brokerv1.CancelResponse, error) {
		r, err := h.api.Cancel(t.Context(), connect.NewRequest(&brokerv1.CancelRequest{Topic: "jobs", Ids: ids}))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	}
	if r, err := cancel("mine", "nobody's", drawn.GetId()); err != nil || r.GetCanceled() != 2 || len(r.GetUnknownIds()) != 1 || r.GetUnknownIds()[0] != "nobody's" {
		t.Errorf("cancelled %v, %v", r, err)
	}
	if _, err := cancel("mine"); reason(err) != "MESSAGE_UNKNOWN" || connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("cancelled twice: %v", err)
	}
	if _, err := cancel(); reason(err) != "BAD_REQUEST" {
		t.Errorf("no ids: %v", err)
	}
	if _, err := h.api.Cancel(t.Context(), connect.NewRequest(&brokerv1.CancelRequest{Topic: "nothing", Ids: []string{"a"}})); reason(err) != "TOPIC_UNKNOWN" {
		t.Errorf("unknown topic: %v", err)
	}
}

// A delay of zero is now, whatever the schema derives; a message that is due is delivered.
func TestDueMessagesAreDelivered(t *testing.T) {
	h := newJobs(t)
	now := h.job(`{"name":"now","due":"2030-01-01T00:00:00Z"}`)
	now.Delay = durationpb.New(0)
	if r, err := h.send(now); err != nil || r.GetScheduled() || r.GetId() != "0-0" {
		t.Fatalf("receipt %v, %v", r, err)
	}
	if r, err := h.send(h.job(`{"name":"derived","due":"2030-01-01T00:00:00Z"}`)); err != nil || !r.GetScheduled() {
		t.Fatalf("receipt %v, %v", r, err)
	}
	soon := h.job(`{"name":"soon"}`)
	soon.Delay, soon.Priority = durationpb.New(20*time.Millisecond), proto.Uint32(3)
	published := time.Now()
	if r, err := h.send(soon); err != nil || !r.GetScheduled() {
		t.Fatalf("receipt %v, %v", r, err)
	}
	if got := h.pull("workers", "jobs", 1); len(got) != 1 || got[0].GetJson().GetFields()["name"].GetStringValue() != "now" {
		t.Fatalf("pulled %v", got)
	}
	r, err := h.api.Pull(t.Context(), connect.NewRequest(&brokerv1.PullRequest{Group: "workers", Topic: "jobs", MaxMessages: 1, Wait: durationpb.New(time.Minute)}))
	if err != nil || len(r.Msg.GetMessages()) != 1 {
		t.Fatalf("pulled %v, %v", r, err)
	}
	if m := r.Msg.GetMessages()[0]; m.GetJson().GetFields()["name"].GetStringValue() != "soon" || m.GetPriority() != 3 || time.Since(published) < 20*time.Millisecond {
		t.Errorf("pulled %v after %v", m, time.Since(published))
	}
}

// The highest priority is delivered first, by Pull and by Consume, and says so.
func TestPriorityOnTheWire(t *testing.T) {
	h := newJobs(t)
	urgent := h.job(`{"name":"urgent","urgency":1}`)
	urgent.Priority = proto.Uint32(3)
	var ids []string
	for _, m := range []*brokerv1.Message{h.job(`{"name":"plain"}`), h.job(`{"name":"derived","urgency":2}`), urgent} {
		r, err := h.send(m)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.GetId())
	}
	want := []struct {
		name, id string
		priority uint32
	}{{"urgent", "0.3-0", 3}, {"derived", "0.2-0", 2}, {"plain", "0-0", 1}}
	got := h.pull("workers", "jobs", 10)
	if len(got) != 3 {
		t.Fatalf("pulled %v", got)
	}
	for i, w := range want {
		if m := got[i]; m.GetJson().GetFields()["name"].GetStringValue() != w.name || m.GetId() != w.id || m.GetPriority() != w.priority || m.GetOffset() != 0 {
			t.Errorf("message %d: %v, want %v", i, m, w)
		}
		if ids[2-i] != w.id {
			t.Errorf("receipt of %s has the id %s", w.name, ids[2-i])
		}
		h.settle("workers", "jobs", &brokerv1.Settlement{Token: got[i].GetToken(), Outcome: &brokerv1.Settlement_Release_{Release: &brokerv1.Settlement_Release{}}})
	}
	stream := h.consume(t, &brokerv1.ConsumeRequest_Start{Group: "workers", Topic: "jobs", Credits: 3, CreditBytes: 1})
	defer func() { _ = stream.CloseRequest(); _ = stream.CloseResponse() }()
	first := stream.next(t)
	if first.GetPriority() != 3 || len(first.GetOffsets()) != 1 {
		t.Errorf("with one byte of credit: %v", first)
	}
	if err := stream.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Heartbeat_{Heartbeat: &brokerv1.ConsumeRequest_Heartbeat{}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Receive(); err != nil || m.GetAlive() == nil || len(stream.slices) > 0 {
		t.Fatalf("beyond one byte of credit: %v, %v", m, err)
	}
	if err := stream.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Credit_{Credit: &brokerv1.ConsumeRequest_Credit{Credits: 3, CreditBytes: 1 << 20}}}); err != nil {
		t.Fatal(err)
	}
	for _, priority := range []uint32{2, 1} {
		if s := stream.next(t); s.GetPriority() != priority {
			t.Errorf("then %v, want priority %d", s, priority)
		}
	}
}

// consumer is a Consume stream, and the slices that came and were not looked at yet.
type consumer struct {
	*connect.BidiStreamForClient[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]
	slices []*brokerv1.Slice
}

func (h *harness) consume(t *testing.T, start *brokerv1.ConsumeRequest_Start) *consumer {
	t.Helper()
	c := &consumer{BidiStreamForClient: h.api.Consume(t.Context())}
	if err := c.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Start_{Start: start}}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *consumer) next(t *testing.T) *brokerv1.Slice {
	t.Helper()
	for len(c.slices) == 0 {
		m, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		c.slices = m.GetDeliveries().GetSlices()
	}
	slice := c.slices[0]
	c.slices = c.slices[1:]
	return slice
}

func TestBadCreditsAreRefused(t *testing.T) {
	h := newJobs(t)
	for field, start := range map[string]*brokerv1.ConsumeRequest_Start{
		"start.credits":      {Credits: 65_537},
		"start.credit_bytes": {CreditBytes: 1<<30 + 1},
	} {
		start.Group, start.Topic = "workers", "jobs"
		stream := h.consume(t, start)
		if _, err := stream.Receive(); reason(err) != "BAD_CREDITS" || infoOf(err).GetField() != field {
			t.Errorf("%s: got %v", field, err)
		}
		_ = stream.CloseRequest()
	}
	stream := h.consume(t, &brokerv1.ConsumeRequest_Start{Group: "workers", Topic: "jobs"})
	if _, err := stream.Receive(); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Credit_{Credit: &brokerv1.ConsumeRequest_Credit{CreditBytes: math.MaxUint64}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); reason(err) != "BAD_CREDITS" || infoOf(err).GetField() != "credit.credit_bytes" {
		t.Errorf("credit: got %v", err)
	}
	_ = stream.CloseRequest()
}
