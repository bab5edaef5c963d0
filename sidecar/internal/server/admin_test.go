package server_test

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// TestAGroupIsMoved: back to the beginning, to an offset, to a time, and not where nothing is.
func TestAGroupIsMoved(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage}, boardRPC)
	for i := range 5 {
		h.publish("flights.departed", fmt.Sprintf(`{"flightId":"%d","origin":"SFO"}`, i))
	}
	got := h.pull("board", "flights.departed", 1)
	partition := got[0].GetPartition()
	h.settle("board", "flights.departed", ack(got[0].GetToken()))
	for name, test := range map[string]struct {
		q    *adminv1.SeekGroupRequest
		want int64
		code connect.Code
	}{
		"earliest":         {q: &adminv1.SeekGroupRequest{To: &adminv1.SeekGroupRequest_Edge{Edge: "earliest"}}},
		"latest":           {q: &adminv1.SeekGroupRequest{To: &adminv1.SeekGroupRequest_Edge{Edge: "latest"}}, want: 5},
		"an offset":        {q: &adminv1.SeekGroupRequest{Partition: &partition, To: &adminv1.SeekGroupRequest_Offset{Offset: 3}}, want: 3},
		"an hour ago":      {q: &adminv1.SeekGroupRequest{To: &adminv1.SeekGroupRequest_Time{Time: timestamppb.New(time.Now().Add(-time.Hour))}}},
		"the zero instant": {q: &adminv1.SeekGroupRequest{To: &adminv1.SeekGroupRequest_Time{Time: timestamppb.New(time.Time{})}}},
		"beyond the end":   {q: &adminv1.SeekGroupRequest{Partition: &partition, To: &adminv1.SeekGroupRequest_Offset{Offset: 6}}, code: connect.CodeOutOfRange},
		"an instant amiss": {q: &adminv1.SeekGroupRequest{To: &adminv1.SeekGroupRequest_Time{Time: &timestamppb.Timestamp{Nanos: -1}}}, code: connect.CodeOutOfRange},
		"nowhere":          {q: &adminv1.SeekGroupRequest{}, code: connect.CodeInvalidArgument},
	} {
		test.q.Group, test.q.Topic = "board", "flights.departed"
		a, err := h.admin.SeekGroup(t.Context(), connect.NewRequest(test.q))
		if test.code != 0 {
			if connect.CodeOf(err) != test.code {
				t.Errorf("%s: %v, want %v", name, err, test.code)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, p := range a.Msg.GetPositions() {
			if p.GetPartition() == partition && p.GetOffset() != test.want {
				t.Errorf("%s: partition %d at %d, want %d", name, partition, p.GetOffset(), test.want)
			}
		}
	}
}

func TestAGroupIsPaused(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{bagsMessage}, baggageRPC)
	h.publish("bags.checked", `{"flightId":"A"}`)
	paused := func() bool {
		t.Helper()
		a, err := h.admin.ListGroups(t.Context(), connect.NewRequest(&adminv1.ListGroupsRequest{Group: "baggage"}))
		if err != nil || len(a.Msg.GetGroups()) != 1 {
			t.Fatal(a, err)
		}
		return a.Msg.GetGroups()[0].GetPaused()
	}
	p, err := h.admin.PauseGroup(t.Context(), connect.NewRequest(&adminv1.PauseGroupRequest{Group: "baggage"}))
	if err != nil || fmt.Sprint(p.Msg.GetTopics()) != "[bags.checked]" || !paused() {
		t.Fatalf("pause: %v, %v, paused %v", p, err, paused())
	}
	if got := h.pull("baggage", "bags.checked", 1); len(got) != 0 {
		t.Errorf("a paused group got %v", got)
	}
	r, err := h.admin.ResumeGroup(t.Context(), connect.NewRequest(&adminv1.ResumeGroupRequest{Group: "baggage", Topic: "bags.checked"}))
	if err != nil || len(r.Msg.GetTopics()) != 1 || paused() {
		t.Fatalf("resume: %v, %v, paused %v", r, err, paused())
	}
	if got := h.pull("baggage", "bags.checked", 1); len(got) != 1 {
		t.Errorf("a resumed group got %v", got)
	}
}

// TestDeadLettersByFailure: counted, and moved with a limit from page to page.
func TestDeadLettersByFailure(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{bagsMessage}, baggageRPC)
	for i := range 6 {
		h.publish("bags.checked", fmt.Sprintf(`{"flightId":"%d"}`, i))
	}
	for i, m := range h.pull("baggage", "bags.checked", 10) {
		h.settle("baggage", "bags.checked", reject(m.GetToken(), []string{"no belt 1", "no belt 22", "no gate"}[i%3]))
	}
	sum, err := h.admin.SummarizeDeadLetters(t.Context(), connect.NewRequest(&adminv1.SummarizeDeadLettersRequest{Group: "baggage", Topic: "bags.checked"}))
	if err != nil || len(sum.Msg.GetFailures()) != 2 {
		t.Fatal(sum, err)
	}
	f := sum.Msg.GetFailures()[0]
	if f.GetDeadLetters() != 4 || f.GetReason() != "permanent" || f.GetError()[:7] != "no belt" || f.GetSampleId() == "" || len(f.GetFailure()) != 16 ||
		time.Since(f.GetFirstDied().AsTime()) > time.Hour || f.GetLastDied().AsTime().Before(f.GetFirstDied().AsTime()) {
		t.Fatalf("the most frequent is %v", f)
	}
	q := &adminv1.RedriveDeadLettersRequest{Group: "baggage", Topic: "bags.checked", Failure: f.GetFailure(), Limit: 3}
	a, err := h.admin.RedriveDeadLetters(t.Context(), connect.NewRequest(q))
	if err != nil || a.Msg.GetRedriven() != 3 || !a.Msg.GetMore() || a.Msg.GetNextPageToken() == "" {
		t.Fatal(a, err)
	}
	q.PageToken = a.Msg.GetNextPageToken()
	a, err = h.admin.RedriveDeadLetters(t.Context(), connect.NewRequest(q))
	if err != nil || a.Msg.GetRedriven() != 1 || a.Msg.GetMore() {
		t.Fatal(a, err)
	}
	d, err := h.admin.DiscardDeadLetters(t.Context(), connect.NewRequest(&adminv1.DiscardDeadLettersRequest{Group: "baggage", Topic: "bags.checked", All: true, Limit: 1 << 63}))
	if err != nil || d.Msg.GetDiscarded() != 2 || d.Msg.GetMore() {
		t.Fatal(d, err)
	}
}

// TestScheduledMessagesAreListed: by due time, page by page.
func TestScheduledMessagesAreListed(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{bagsMessage})
	for i, delay := range []time.Duration{3 * time.Hour, time.Hour, 2 * time.Hour} {
		body, err := structpb.NewStruct(map[string]any{"flightId": fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.api.Publish(t.Context(), connect.NewRequest(&brokerv1.PublishRequest{Topic: "bags.checked", Messages: []*brokerv1.Message{{
			Body: &brokerv1.Message_Json{Json: body}, Id: fmt.Sprint("m", i), Delay: durationpb.New(delay),
		}}})); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for token, more := "", true; more; more = token != "" {
		a, err := h.admin.ListScheduled(t.Context(), connect.NewRequest(&adminv1.ListScheduledRequest{Topic: "bags.checked", PageSize: 2, PageToken: token}))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.Msg.GetScheduled() {
			ids = append(ids, m.GetId())
			if m.GetJson().GetFields()["flightId"].GetStringValue() != m.GetId()[1:] || time.Until(m.GetDue().AsTime()) < 50*time.Minute {
				t.Errorf("listed %v", m)
			}
		}
		token = a.Msg.GetNextPageToken()
	}
	if fmt.Sprint(ids) != "[m1 m2 m0]" {
		t.Errorf("listed %v", ids)
	}
	_, err := h.admin.ListScheduled(t.Context(), connect.NewRequest(&adminv1.ListScheduledRequest{Topic: "bags.checked", PageSize: 1001}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a page of 1001: %v", err)
	}
}

// TestATopicIsDescribed: with all that its .proto file says about it and its subscriptions.
func TestATopicIsDescribed(t *testing.T) {
	h := newHarness(t)
	fds := flightFiles()
	o := topicOf(fds, 0)
	o.Ttl, o.RetentionBytes = durationpb.New(time.Hour), proto.Uint64(1<<30)
	service := fileOf(fds, "air/board/v1/board.proto").Service[0]
	policy := proto.GetExtension(service.Options, mqv1.E_Consumer).(*mqv1.ConsumerOptions)
	policy.Defaults = &mqv1.SubscribeOptions{
		Retry: &mqv1.Retry{Jitter: proto.Float64(0.5)}, StartFrom: mqv1.StartFrom_START_FROM_LATEST.Enum(), DeadLetterExpired: proto.Bool(true),
		DeadLetter: &mqv1.DeadLetter{HoldKey: proto.Bool(true), Retention: durationpb.New(48 * time.Hour)},
	}
	proto.SetExtension(service.Options, mqv1.E_Consumer, policy)
	service = fileOf(fds, "air/rebooking/v1/rebooking.proto").Service[0]
	policy = proto.GetExtension(service.Options, mqv1.E_Consumer).(*mqv1.ConsumerOptions)
	policy.Defaults = &mqv1.SubscribeOptions{DeadLetter: &mqv1.DeadLetter{Disabled: proto.Bool(true)}}
	proto.SetExtension(service.Options, mqv1.E_Consumer, policy)
	if _, err := h.api.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{
		Descriptors: fds, Topics: []string{flightMessage}, Subscriptions: []string{boardRPC, rebookingRPC},
	})); err != nil {
		t.Fatal(err)
	}
	a, err := h.admin.DescribeTopic(t.Context(), connect.NewRequest(&adminv1.DescribeTopicRequest{Topic: "flights.departed"}))
	if err != nil {
		t.Fatal(err)
	}
	if d := a.Msg.GetTopic(); d.GetTtl().AsDuration() != time.Hour || d.GetRetentionBytes() != 1<<30 || d.GetPriorityLevels() != 1 {
		t.Errorf("the topic is %v", d)
	}
	for _, s := range a.Msg.GetSubscriptions() {
		got := fmt.Sprint(s.GetGroup(), s.GetJitter(), s.GetStartFrom(), s.GetDeadLettersDisabled(), s.GetHoldKey(), s.GetDeadLetterRetention().AsDuration(), s.GetDeadLetterExpired())
		want := map[string]string{
			"board":     fmt.Sprint("board", 0.5, "latest", false, true, 48*time.Hour, true),
			"rebooking": fmt.Sprint("rebooking", 0.2, "earliest", true, false, time.Duration(0), false),
		}[s.GetGroup()]
		if got != want || s.GetDeadLetterRetention() != nil != (s.GetGroup() == "board") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if n := len(a.Msg.GetSubscriptions()); n != 2 {
		t.Errorf("%d subscriptions", n)
	}
}

// TestTailTellsPriorities: offsets are of one level, so that a place without it names several messages.
func TestTailTellsPriorities(t *testing.T) {
	for levels, want := range map[uint32]string{1: "[0-0 0 0-1 0]", 3: "[0-0 1 0.3-0 3]"} {
		h := newHarness(t)
		fds := flightFiles()
		o := topicOf(fds, 1)
		o.PriorityLevels, o.Partitions = &levels, proto.Uint32(1)
		if _, err := h.api.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{Descriptors: fds, Topics: []string{bagsMessage}})); err != nil {
			t.Fatal(err)
		}
		for _, priority := range []uint32{1, levels} {
			if _, err := h.api.Publish(t.Context(), connect.NewRequest(&brokerv1.PublishRequest{Topic: "bags.checked", Messages: []*brokerv1.Message{{
				Body: &brokerv1.Message_Json{Json: structOf(t, `{"flightId":"A"}`)}, Priority: &priority,
			}}})); err != nil {
				t.Fatal(err)
			}
		}
		s, err := h.admin.Tail(t.Context(), connect.NewRequest(&adminv1.TailRequest{Topic: "bags.checked", From: "earliest", StopAtEnd: true}))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for s.Receive() {
			for _, m := range s.Msg().GetMessages() {
				got = append(got, m.GetId(), fmt.Sprint(m.GetPriority()))
			}
		}
		if fmt.Sprint(got) != want || s.Err() != nil {
			t.Errorf("%d levels: %v, %v, want %s", levels, got, s.Err(), want)
		}
		_ = s.Close()
	}
}
