package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func departed() *adminv1.Topic {
	return &adminv1.Topic{
		Name: "flights.departed", Message: "air.flights.v1.FlightDeparted", Partitions: 2, Delivery: "pubsub", Ordering: "per_key", Key: "origin",
		Retention: durationpb.New(168 * time.Hour), MaxMessageBytes: 1 << 20, Labels: map[string]string{"team": "ops", "pii": "no"},
		Groups:          []string{"board", "rebooking"},
		PartitionBounds: []*adminv1.Partition{{Partition: 0, Begin: 5, End: 12}, {Partition: 1, End: 3, Fault: "lost\x1b[2J"}},
	}
}

func TestTopics(t *testing.T) {
	bags := &adminv1.Topic{Name: "bags.checked", Partitions: 8, Delivery: "queue", Ordering: "none"}
	list := &adminv1.ListTopicsResponse{Topics: []*adminv1.Topic{departed(), bags}}

	newFake(t, list).mq(t, "", "topics").want(t, 0, `NAME              PARTITIONS  DELIVERY  ORDERING  KEY     RETENTION  MESSAGES  GROUPS
bags.checked      8           queue     none      -       -          0         -
flights.departed  2           pubsub    per_key   origin  168h       10        board, rebooking
`, `mq: topic flights.departed, partition 1: lost\x1b[2J
`)
	newFake(t, &adminv1.ListTopicsResponse{Topics: []*adminv1.Topic{bags}}).mq(t, "", "topics", "--output", "json").want(t, 0, `{
  "topics": [
    {
      "name": "bags.checked",
      "message": "",
      "partitions": 8,
      "delivery": "queue",
      "ordering": "none",
      "key": "",
      "maxMessageBytes": 0,
      "labels": {},
      "groups": [],
      "partitionBounds": [],
      "priorityLevels": 0,
      "retentionBytes": "0"
    }
  ]
}
`, "")
	newFake(t, &adminv1.ListTopicsResponse{}).mq(t, "", "topics", "-o", "json").want(t, 0, "{\n  \"topics\": []\n}\n", "")
}

func TestTopicDescribe(t *testing.T) {
	limited := departed()
	limited.PriorityLevels, limited.Ttl, limited.RetentionBytes = 3, durationpb.New(90*time.Minute), 1<<30
	f := newFake(t, &adminv1.DescribeTopicResponse{
		Topic: limited, ProtoText: "syntax = \"proto3\";\n\nmessage A {\n\tint32 b = 1; // \x1b[31m\n}\n",
		Subscriptions: []*adminv1.Subscription{
			{Group: "rebooking", Rpc: "air.Rebooking/OnDeparted", Filter: "msg.delay_minutes > 60", MaxInFlight: 64, MaxAttempts: 8,
				InitialInterval: durationpb.New(time.Second), MaxInterval: durationpb.New(5 * time.Minute), BackoffCoefficient: 2,
				Lease: durationpb.New(30 * time.Second), ProcessingTimeout: durationpb.New(90 * time.Second), Jitter: 0.2, StartFrom: "latest",
				DeadLetterRetention: durationpb.New(720 * time.Hour), HoldKey: true, DeadLetterExpired: true},
			{Group: "board", Rpc: "air.Board/OnDeparted", MaxInFlight: 1, StartFrom: "earliest"},
			{Group: "drop", Rpc: "air.Drop/OnDeparted", MaxInFlight: 1, DeadLettersDisabled: true},
		},
	})
	f.mq(t, "", "topic", "describe", "flights.departed").want(t, 0, `topic:            flights.departed
message:          air.flights.v1.FlightDeparted
delivery:         pubsub
ordering:         per_key
key:              origin
partitions:       2
priority levels:  3
retention:        168h
retention bytes:  1073741824
ttl:              1h30m
largest message:  1048576 bytes
labels:           pii=no, team=ops
messages held:    10
fault:            topic flights.departed, partition 1: lost\x1b[2J

GROUP      RPC                       FILTER                  IN FLIGHT  ATTEMPTS  RETRY            LEASE  TIMEOUT  START     DEAD LETTERS
board      air.Board/OnDeparted      -                       1          0          ×0 ≤  +0%       -      -        earliest  kept
drop       air.Drop/OnDeparted       -                       1          0          ×0 ≤  +0%       -      -        -         dropped
rebooking  air.Rebooking/OnDeparted  msg.delay_minutes > 60  64         8         1s ×2 ≤ 5m +20%  30s    1m30s    latest    kept 720h, hold their key, expired ones too

syntax = "proto3";

message A {
	int32 b = 1; // \x1b[31m
}
`, "")
	f.mustAsk(t, &adminv1.DescribeTopicRequest{Topic: "flights.departed"})
}

func TestGroups(t *testing.T) {
	list := func() *adminv1.ListGroupsResponse {
		return &adminv1.ListGroupsResponse{Groups: []*adminv1.GroupTopic{
			{Group: "rebooking", Topic: "flights.departed", Consumers: 3, Partitions: []*adminv1.GroupPartition{
				{Partition: 1, Position: 3, End: 3, Fault: "quarantined"},
				{Partition: 0, Position: 5, End: 12, Lag: 7, Leased: 2, Waiting: 1, DeadLetters: 4, Parked: 11, Held: 3,
					Counters: &adminv1.Counters{Expired: 21, LostDeliveries: 22, RetentionLost: 23}},
			}, Paused: true},
			{Group: "board", Topic: "flights.departed"},
		}}
	}
	f := newFake(t, list())
	f.mq(t, "", "groups").want(t, 0, `GROUP      TOPIC             PARTITION  POSITION  END  LAG  LEASED  WAITING  PARKED  DEAD  HELD  EXPIRED  LOST  DELETED  CONSUMERS  STATE
board      flights.departed  total      -         -    0    0       0        0       0     0     0        0     0        0          -
rebooking  flights.departed  0          5         12   7    2       1        11      4     3     21       22    23       -          -
rebooking  flights.departed  1          3         3    0    0       0        0       0     0     0        0     0        -          -
rebooking  flights.departed  total      -         -    7    2       1        11      4     3     21       22    23       3          paused
`, "mq: group rebooking, topic flights.departed, partition 1: quarantined\n")
	f.mustAsk(t, &adminv1.ListGroupsRequest{})

	f = newFake(t, list())
	got := f.mq(t, "", "groups", "rebooking", "--topic", "flights.departed", "-o", "json")
	if got.status != 0 || !strings.Contains(got.out, `"lag": "7"`) || strings.Index(got.out, `"partition": 0`) > strings.Index(got.out, `"partition": 1`) {
		t.Errorf("got %+v", got)
	}
	f.mustAsk(t, &adminv1.ListGroupsRequest{Group: "rebooking", Topic: "flights.departed"})
}

// What filters do is shown where they did something.
func TestGroupsWithFilters(t *testing.T) {
	f := newFake(t, &adminv1.ListGroupsResponse{Groups: []*adminv1.GroupTopic{{Group: "g", Topic: "t", Partitions: []*adminv1.GroupPartition{
		{Partition: 0, Counters: &adminv1.Counters{Filtered: 41, FilterErrors: 2}}, {Partition: 1, Counters: &adminv1.Counters{Filtered: 1}},
	}}}})
	f.mq(t, "", "groups").want(t, 0, `GROUP  TOPIC  PARTITION  POSITION  END  LAG  LEASED  WAITING  PARKED  DEAD  HELD  EXPIRED  LOST  DELETED  FILTERED  FILTER ERRORS  CONSUMERS  STATE
g      t      0          0         0    0    0       0        0       0     0     0        0     0        41        2              -          -
g      t      1          0         0    0    0       0        0       0     0     0        0     0        1         0              -          -
g      t      total      -         -    0    0       0        0       0     0     0        0     0        42        2              0          -
`, "")
}

func tailed(partition uint32, offset int64, key string) *adminv1.TailMessage {
	body, _ := structpb.NewStruct(map[string]any{"origin": key, "delayMinutes": 75})
	return &adminv1.TailMessage{
		Id: "a", Partition: partition, Offset: offset, Key: []byte(key), Headers: map[string]string{"destination": "LAX"}, Json: body,
		AppendTime: timestamppb.New(time.Date(2001, 1, 1, 0, 47, 0, 5e6, time.UTC)),
	}
}

func TestTail(t *testing.T) {
	answers := func() []any {
		return []any{
			&adminv1.TailResponse{Messages: []*adminv1.TailMessage{tailed(0, 0, "SFO")}},
			&adminv1.TailResponse{Messages: []*adminv1.TailMessage{tailed(13, 1234, ""), {Partition: 1, Offset: 7, Priority: 3, Key: []byte("\x1b[2J\xff\u009b")}}},
		}
	}
	f := newFake(t, answers()...)
	f.mq(t, "", "tail", "flights.departed", "--from", "earliest", "-n", "3", "-o", "table").want(t, 0,
		`0-0         2001-01-01T00:47:00.005Z  SFO  {"delayMinutes":75,"origin":"SFO"}
13-1234     2001-01-01T00:47:00.005Z  -  {"delayMinutes":75,"origin":""}
1.3-7         \x1b[2J\xff\u009b  (does not decode)
`, "")
	f.mustAsk(t, &adminv1.TailRequest{Topic: "flights.departed", From: "earliest", Limit: 3},
		&adminv1.TailRequest{Topic: "flights.departed", From: "earliest", Limit: 3})

	for _, args := range [][]string{{"tail", "t"}, {"tail", "t", "-o", "json"}} {
		newFake(t, &adminv1.TailResponse{Messages: []*adminv1.TailMessage{tailed(0, 0, "SFO\u009b")}}).mq(t, "", args...).want(t, 0,
			`{"id":"a","partition":0,"offset":"0","appendTime":"2001-01-01T00:47:00.005Z","key":"U0ZPwps=","headers":{"destination":"LAX"},`+
				`"json":{"delayMinutes":75,"origin":"SFO\u009b"},"priority":0}`+"\n", "")
	}
	newFake(t, answers()[0], refused(connect.CodeUnavailable, "DRAINING", "", "the sidecar is shutting down")).mq(t, "", "tail", "t", "-o", "table").want(t, 1,
		`0-0         2001-01-01T00:47:00.005Z  SFO  {"delayMinutes":75,"origin":"SFO"}`+"\n", "mq: the sidecar is shutting down (DRAINING)\n")
	newFake(t).mq(t, "", "tail", "t", "--from", "now").want(t, 2, "",
		"mq: --from \"now\": must be earliest or latest\nhint: mq tail --help shows how it is used\n")
}

func TestTailEndsWellOnInterrupt(t *testing.T) {
	wait := forever{make(chan struct{})}
	f := newFake(t, wait)
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		<-wait.reached
		interrupt()
	}()
	var out, complaint strings.Builder
	status := run(ctx, []string{"tail", "t"}, streams{nil, &out, &complaint}, []string{"MQ_ADDR=" + f.addr})
	result{status, out.String(), complaint.String()}.want(t, 0, "", "")
}

func deadLetter(id string) *adminv1.DeadLetter {
	body, _ := structpb.NewStruct(map[string]any{"origin": "SFO"})
	return &adminv1.DeadLetter{
		Id: id, Group: "g", Topic: "t", Partition: 3, Offset: 17, Reason: "attempts_spent", Attempts: 8, FirstError: "no seat", LastError: "panic: nil\n\tmain.go:1\x1b",
		Published: timestamppb.New(time.Date(2001, 1, 1, 0, 47, 0, 0, time.UTC)), Died: timestamppb.New(time.Date(2001, 1, 1, 0, 48, 0, 0, time.UTC)),
		Key: []byte("SFO"), Headers: map[string]string{"destination": "LAX"}, Json: body, Payload: []byte("xyz"),
	}
}

func TestDLQList(t *testing.T) {
	pages := func() []any {
		return []any{
			&adminv1.ListDeadLettersResponse{DeadLetters: []*adminv1.DeadLetter{deadLetter("3-17")}, NextPageToken: "p2"},
			&adminv1.ListDeadLettersResponse{DeadLetters: []*adminv1.DeadLetter{{Id: "b", Priority: 2, Offset: 9, Reason: "permanent", LastError: strings.Repeat("é", 61)}}},
		}
	}
	f := newFake(t, pages()...)
	f.mq(t, "", "dlq", "list", "g", "t").want(t, 0, `ID    PLACE  REASON          ATTEMPTS  DIED                      KEY  LAST ERROR
3-17  3-17   attempts_spent  8         2001-01-01T00:48:00.000Z  SFO  panic: nil…
b     0.2-9  permanent       0         -                         -    `+strings.Repeat("é", 60)+"…\n", "")
	f.mustAsk(t, &adminv1.ListDeadLettersRequest{Group: "g", Topic: "t", PageSize: 100},
		&adminv1.ListDeadLettersRequest{Group: "g", Topic: "t", PageSize: 100, PageToken: "p2"})

	got := newFake(t, pages()...).mq(t, "", "dlq", "list", "g", "t", "-o", "json")
	if got.status != 0 || strings.Count(got.out, `"id": `) != 2 || !strings.Contains(got.out, `"nextPageToken": ""`) {
		t.Errorf("pages are not joined: %+v", got)
	}
}

func TestDLQShow(t *testing.T) {
	undecodable := &adminv1.DeadLetter{Id: "3-17", Reason: "undecodable", Payload: []byte("xyz")}
	f := newFake(t, &adminv1.ListDeadLettersResponse{DeadLetters: []*adminv1.DeadLetter{deadLetter("3-17"), undecodable}})
	f.mq(t, "", "dlq", "show", "g", "t", "3-17").want(t, 0, `id:         3-17
group:      g
topic:      t
place:      3-17
reason:     attempts_spent
attempts:   8
published:  2001-01-01T00:47:00.000Z
died:       2001-01-01T00:48:00.000Z
key:        SFO
headers:    destination=LAX
first error:
  no seat
last error:
  panic: nil
  	main.go:1\x1b
message:
{
  "origin": "SFO"
}

id:         3-17
group:      -
topic:      -
place:      0-0
reason:     undecodable
attempts:   0
published:  -
died:       -
key:        -
headers:    -
message: 3 bytes that do not decode; --output json shows them
`, "")
	f.mustAsk(t, &adminv1.ListDeadLettersRequest{Group: "g", Topic: "t", Id: "3-17", PageSize: 100})

	newFake(t, &adminv1.ListDeadLettersResponse{}).mq(t, "", "dlq", "show", "g", "t", "9").want(t, 1, "",
		"mq: no dead letter \"9\" of group g in topic t; mq dlq list shows those there are\n")
}

func TestDLQNamesUnknownIDs(t *testing.T) {
	newFake(t, &adminv1.RedriveDeadLettersResponse{Redriven: 1, UnknownIds: []string{"8-1", "8-2"}}).
		mq(t, "", "dlq", "redrive", "g", "t", "3-17", "8-1", "8-2").want(t, 1, "redriven: 1\n", "mq: no dead letter has the id 8-1, 8-2\n")
	newFake(t, &adminv1.DiscardDeadLettersResponse{Discarded: 1, UnknownIds: []string{"8-1"}}).
		mq(t, "", "dlq", "discard", "g", "t", "3-17", "8-1").want(t, 1, "discarded: 1\n", "mq: no dead letter has the id 8-1\n")
}

func TestDLQRedrive(t *testing.T) {
	f := newFake(t, &adminv1.RedriveDeadLettersResponse{Redriven: 2}, &adminv1.RedriveDeadLettersResponse{Redriven: 7})
	f.mq(t, "", "dlq", "redrive", "g", "t", "3-17", "5-2").want(t, 0, "redriven: 2\n", "")
	f.mq(t, "", "dlq", "redrive", "g", "t", "--all", "-o", "json").want(t, 0, "{\n  \"redriven\": \"7\",\n  \"unknownIds\": [],\n  \"more\": false,\n  \"nextPageToken\": \"\"\n}\n", "")
	f.mustAsk(t, &adminv1.RedriveDeadLettersRequest{Group: "g", Topic: "t", Ids: []string{"3-17", "5-2"}},
		&adminv1.RedriveDeadLettersRequest{Group: "g", Topic: "t", All: true, Limit: 10_000})
	f.mq(t, "", "dlq", "redrive", "g", "t").want(t, 2, "", "mq: name the ids of dead letters, or use --all or --failure\nhint: mq dlq redrive --help shows how it is used\n")
	f.mq(t, "", "dlq", "redrive", "g", "t", "1", "--all").want(t, 2, "", "mq: --all and ids exclude each other\nhint: mq dlq redrive --help shows how it is used\n")
}

func TestDLQDiscard(t *testing.T) {
	f := newFake(t, &adminv1.DiscardDeadLettersResponse{Discarded: 1}, &adminv1.DiscardDeadLettersResponse{Discarded: 7})
	f.mq(t, "", "dlq", "discard", "g", "t", "3-17").want(t, 0, "discarded: 1\n", "")
	f.mq(t, "", "dlq", "discard", "g", "t", "--all").want(t, 2, "", "mq: --all throws every dead letter of group g in topic t away, for good; confirm with --yes\n"+
		"hint: mq dlq discard --help shows how it is used\n")
	f.mq(t, "", "dlq", "discard", "g", "t", "--all", "--yes").want(t, 0, "discarded: 7\n", "")
	f.mustAsk(t, &adminv1.DiscardDeadLettersRequest{Group: "g", Topic: "t", Ids: []string{"3-17"}},
		&adminv1.DiscardDeadLettersRequest{Group: "g", Topic: "t", All: true, Limit: 10_000})
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		err        error
	}{
		{"a refusal with a hint", "mq: topic \"x\" is unknown (TOPIC_UNKNOWN, topic)\n" +
			"hint: mq topics lists the topics; an application declares its own when it connects\n",
			refused(connect.CodeNotFound, "TOPIC_UNKNOWN", "topic", `topic "x" is unknown`)},
		{"a refusal of several lines", "mq: one\nmq: two (BAD_NAME)\n", refused(connect.CodeInvalidArgument, "BAD_NAME", "", "one\ntwo")},
		{"an error without a reason", "mq: internal: oops\n", connect.NewError(connect.CodeInternal, errors.New("oops"))},
		{"another server", "mq: unimplemented: 404\nhint: what answers at ADDR may be no sidecar, or one of another version\n",
			connect.NewError(connect.CodeUnimplemented, errors.New("404"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, tt.err)
			f.mq(t, "", "topics").want(t, 1, "", strings.ReplaceAll(tt.want, "ADDR", f.addr))
		})
	}
}

// The hint to an id that is unknown is about what the command looked for.
func TestHintsOfUnknownMessages(t *testing.T) {
	for _, tt := range []struct{ args, field, hint string }{
		{"dlq redrive g t 1", "ids", "mq dlq list shows dead letters and their ids"},
		{"dlq discard g t 1", "ids", "mq dlq list shows dead letters and their ids"},
		{"dlq redrive g t --failure x", "failure", "mq dlq failures shows what dead letters died of"},
	} {
		f := newFake(t, refused(connect.CodeNotFound, "MESSAGE_UNKNOWN", tt.field, "none"))
		f.mq(t, "", strings.Fields(tt.args)...).want(t, 1, "", "mq: none (MESSAGE_UNKNOWN, "+tt.field+")\nhint: "+tt.hint+"\n")
	}
}

func TestNobodyAnswers(t *testing.T) {
	missing := "unix://" + t.TempDir() + "/s"
	got := mq(t, nil, nil, "topics", "--addr", missing)
	if got.status != 1 || !strings.HasPrefix(got.err, "mq: no sidecar answers: dial unix ") ||
		!strings.HasSuffix(got.err, "\nhint: is mq serve running at "+missing+"? Use --addr or MQ_ADDR for another address\n") {
		t.Errorf("got %+v", got)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"group seek g t --to 5", "mq: an offset is of one partition: name it with --partition\n"},
		{"group seek g t --to -5", "mq: offset -5: must be 0 or more; for a span of time add a unit, such as -1h\n"},
		{"group seek g t --to 1h", "mq: --to 1h is in the future; write -1h for the time before now\n"},
		{"group seek g t --to yesterday", "mq: --to \"yesterday\": must be earliest, latest, a time such as"},
		{"group seek g t", "mq: say where with --to: earliest, latest, a time or an offset\n"},
		{"publish t {} --delay 10x", "mq: invalid argument \"10x\" for \"--delay\" flag: must be a span of time such as 90s, 36h or 10d\n"},
		{"publish t {} --ttl 1.5d", "mq: invalid argument \"1.5d\" for \"--ttl\" flag: must be a span of time such as 90s, 36h or 10d\n"},
		{"dlq redrive g t 1 --failure x", "mq: --failure and ids exclude each other\n"},
		{"dlq redrive g t --all --failure x", "mq: --failure and --all exclude each other\n"},
		{"dlq redrive g t 1 --rate 5", "mq: --limit and --rate go with --all or --failure\n"},
		{"dlq redrive g t --all --rate -1", "mq: rate -1: must be 0 to 1e9\n"},
		{"dlq redrive g t --all --rate NaN", "mq: rate NaN: must be 0 to 1e9\n"},
		{"dlq discard g t --failure x", "mq: --failure throws every dead letter of it of group g in topic t away, for good; confirm with --yes\n"},
		{"bogus", "mq: unknown command \"bogus\"\nhint: mq --help"},
		{"topcis", "mq: unknown command \"topcis\"; did you mean topics"},
		{"topic show", "mq: unknown command \"show\"\nhint: mq topic --help"},
		{"topic describe", "mq: accepts 1 arg(s), received 0\nhint: mq topic describe --help"},
		{"topics --bogus", "mq: unknown flag: --bogus\nhint: mq topics --help"},
		{"topics -o xml", "mq: invalid argument \"xml\" for \"-o, --output\" flag: must be table or json\n"},
		{"topics --addr ftp://x", "mq: address \"ftp://x\": must be http://host:port or unix:///path\n"},
		{"topics --addr unix://relative", "mq: address \"unix://relative\": must be http://host:port or unix:///path\n"},
		{"serve --addr http://127.0.0.1:1", "mq: --addr is where the other commands connect to; mq serve listens on --listen and --socket\n"},
		{"serve now", "mq: unknown command \"now\" for \"mq serve\"\n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := mq(t, nil, nil, strings.Fields(tt.args)...)
			if got.status != 2 || got.out != "" || !strings.HasPrefix(got.err, tt.want) {
				t.Errorf("got %+v, want %s", got, tt.want)
			}
		})
	}
	for _, args := range []string{"", "--help", "topic", "dlq", "group", "group seek --help", "dlq redrive --help", "serve --help", "version", "--version"} {
		if got := mq(t, nil, nil, strings.Fields(args)...); got.status != 0 || got.out == "" || got.err != "" {
			t.Errorf("mq %s: got %+v", args, got)
		}
	}
}
