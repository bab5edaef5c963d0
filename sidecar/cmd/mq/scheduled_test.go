package main

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

func TestPublishTiming(t *testing.T) {
	at := timestamppb.New(time.Date(2026, 12, 24, 17, 0, 0, 500, time.UTC))
	for _, tt := range []struct {
		args []string
		want *brokerv1.Message
	}{
		{[]string{"--delay", "36h", "--ttl", "90s", "--priority", "3"},
			&brokerv1.Message{Delay: durationpb.New(36 * time.Hour), Ttl: durationpb.New(90 * time.Second), Priority: proto.Uint32(3)}},
		{[]string{"--deliver-at", "2026-12-24T18:00:00.0000005+01:00"}, &brokerv1.Message{DeliverAt: at}},
		// What is out of bounds is for the sidecar to refuse, and what is not set is for the schema to say.
		{[]string{"--delay", "10d", "--ttl", "1d"}, &brokerv1.Message{Delay: durationpb.New(240 * time.Hour), Ttl: durationpb.New(24 * time.Hour)}},
		{[]string{"--delay", "-1s", "--ttl", "0s", "--priority", "0"},
			&brokerv1.Message{Delay: durationpb.New(-time.Second), Ttl: durationpb.New(0), Priority: proto.Uint32(0)}},
		{nil, &brokerv1.Message{}},
	} {
		f := newFake(t, &brokerv1.PublishResponse{Receipts: []*brokerv1.Receipt{{Id: "5f0c", Partition: 3, Offset: -1, Scheduled: true}}})
		f.mq(t, "", append([]string{"publish", "t", "{}"}, tt.args...)...).want(t, 0, receiptHeader+"5f0c        3          scheduled   no\n", "")
		tt.want.Body = message(nil).Body
		f.mustAsk(t, &brokerv1.PublishRequest{Topic: "t", Messages: []*brokerv1.Message{tt.want}})
	}
}

func TestPublishRefusesBadTiming(t *testing.T) {
	const hint = "hint: mq publish --help shows how it is used\n"
	f := newFake(t)
	f.mq(t, "", "publish", "t", "{}", "--delay", "1s", "--deliver-at", "2026-12-24T18:00:00Z").want(t, 2, "",
		"mq: --delay and --deliver-at exclude each other\n"+hint)
	f.mq(t, "", "publish", "t", "{}", "--deliver-at", "2026-12-24").want(t, 2, "",
		"mq: --deliver-at \"2026-12-24\": must be a time with its zone, such as 2026-12-24T18:00:00Z\n"+hint)
	f.mustAsk(t)
}

func scheduledMessage(id string, priority uint32) *adminv1.Scheduled {
	return &adminv1.Scheduled{
		Id: id, Due: timestamppb.New(time.UnixMilli(1_800_000_000_123)), Partition: 3, Priority: priority, Key: []byte("SFO"),
		Json: message(map[string]any{"origin": "SFO\x1b"}).GetJson(),
	}
}

func TestScheduledList(t *testing.T) {
	pages := func() []any {
		return []any{
			&adminv1.ListScheduledResponse{Scheduled: []*adminv1.Scheduled{scheduledMessage("a", 2)}, NextPageToken: "p2"},
			&adminv1.ListScheduledResponse{Scheduled: []*adminv1.Scheduled{scheduledMessage("", 0)}, NextPageToken: "p3"},
		}
	}
	const header = "ID  DUE                       PARTITION  PRIORITY  KEY  MESSAGE\n"
	f := newFake(t, append(pages(), &adminv1.ListScheduledResponse{})...)
	f.mq(t, "", "scheduled", "list", "t", "-n", "0").want(t, 0, header+
		`a   2027-01-15T08:00:00.123Z  3          2         SFO  {"origin":"SFO\u001b"}
-   2027-01-15T08:00:00.123Z  3          -         SFO  {"origin":"SFO\u001b"}
`, "")
	f.mustAsk(t, &adminv1.ListScheduledRequest{Topic: "t", PageSize: 100}, &adminv1.ListScheduledRequest{Topic: "t", PageSize: 100, PageToken: "p2"},
		&adminv1.ListScheduledRequest{Topic: "t", PageSize: 100, PageToken: "p3"})

	f = newFake(t, pages()...)
	if got := f.mq(t, "", "scheduled", "list", "t", "--id", "a", "-n", "2"); got.status != 0 || got.err != "mq: there are more; -n 0 shows all\n" {
		t.Errorf("got %+v", got)
	}
	f.mustAsk(t, &adminv1.ListScheduledRequest{Topic: "t", Id: "a", PageSize: 2}, &adminv1.ListScheduledRequest{Topic: "t", Id: "a", PageSize: 1, PageToken: "p2"})

	newFake(t, &adminv1.ListScheduledResponse{}).mq(t, "", "scheduled", "list", "t", "-o", "json").want(t, 0,
		"{\n  \"scheduled\": [],\n  \"nextPageToken\": \"\"\n}\n", "")
}

func TestScheduledCancel(t *testing.T) {
	f := newFake(t, &brokerv1.CancelResponse{Canceled: 2}, &brokerv1.CancelResponse{Canceled: 1, UnknownIds: []string{"b", "c\n"}},
		refused(connect.CodeNotFound, "MESSAGE_UNKNOWN", "ids", "no scheduled message has one of the ids"), &brokerv1.CancelResponse{Canceled: 1})
	f.mq(t, "", "scheduled", "cancel", "t", "a", "b").want(t, 0, "canceled: 2\n", "")
	f.mq(t, "", "scheduled", "cancel", "t", "a", "b", "c\n").want(t, 1, "canceled: 1\n", "mq: no scheduled message has the id b, c\\n\n")
	f.mq(t, "", "scheduled", "cancel", "t", "a").want(t, 1, "", "mq: no scheduled message has one of the ids (MESSAGE_UNKNOWN, ids)\n"+
		"hint: mq scheduled list shows the messages that are not due yet; one that is due cannot be taken back\n")
	f.mq(t, "", "scheduled", "cancel", "t", "a", "-o", "json").want(t, 0, "{\n  \"canceled\": \"1\",\n  \"unknownIds\": []\n}\n", "")
	f.mustAsk(t, &brokerv1.CancelRequest{Topic: "t", Ids: []string{"a", "b"}}, &brokerv1.CancelRequest{Topic: "t", Ids: []string{"a", "b", "c\n"}},
		&brokerv1.CancelRequest{Topic: "t", Ids: []string{"a"}}, &brokerv1.CancelRequest{Topic: "t", Ids: []string{"a"}})
	newFake(t).mq(t, "", "scheduled", "cancel", "t").want(t, 2, "", "mq: requires at least 2 arg(s), only received 1\nhint: mq scheduled cancel --help shows how it is used\n")
}
