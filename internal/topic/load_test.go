package topic_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/typedmq/typedmq/internal/topic"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

var sources = map[string]string{
	"air/v1/flights.proto": header + `
import "google/protobuf/timestamp.proto";
service FlightEvents {
  option (mq.v1.publisher) = {};
  rpc Departed(FlightDeparted) returns (google.protobuf.Empty);
  rpc Later(Outer.Task) returns (google.protobuf.Empty) { option (mq.v1.publish) = {delay: {seconds: 5} ttl: {seconds: 60}}; }
}
message FlightDeparted {
  option (mq.v1.topic) = { name: "flights.departed" retention: {seconds: 60} dedupe: {} labels: {key: "team" value: "west"}
    aliases: "departures" max_message_bytes: 1000 ttl: {seconds: 9} retention_bytes: 77 };
  string flight_id = 1 [(mq.v1.field).dedupe_id = true];
  string origin = 2 [(mq.v1.field) = {key: true header: "origin"}];
  optional int32 delay = 3 [(mq.v1.field).header = "delay"];
  bool diverted = 4 [(mq.v1.field).header = "diverted"];
  Status status = 5 [(mq.v1.field).header = "status"];
  string note = 6 [(mq.v1.field).sensitive = true];
  oneof cargo { uint64 weight = 7 [(mq.v1.field).header = "weight"]; string parcel = 8; }
}
enum Status { STATUS_UNSPECIFIED = 0; STATUS_LATE = 1; }
message Outer {
  message Task {
    option (mq.v1.topic) = { delivery: DELIVERY_QUEUE ordering: ORDERING_NONE priority_levels: 3 partitions: 2 };
    option (mq.v1.topic).key = "inner.id";
    Inner inner = 1;
    int32 urgency = 2 [(mq.v1.field).priority = true];
    google.protobuf.Timestamp due = 3 [(mq.v1.field).deliver_at = true];
  }
  message Inner { sint64 id = 1; }
}
`,
	"air/v1/board.proto": header + `
import "air/v1/flights.proto";
service Board {
  option (mq.v1.consumer) = { group: "board" defaults: {
    filter: "msg.origin == 'SFO'"
    retry: {max_attempts: 3 initial_interval: {seconds: 1 nanos: 5} jitter: 0}
    dead_letter: {hold_key: true} start_from: START_FROM_LATEST lease: {seconds: 7} } };
  rpc OnDeparted(FlightDeparted) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {handler: HANDLER_STYLE_DELIVERY}; }
  rpc OnTask(Outer.Task) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {
    filter: "" retry: {initial_interval: {nanos: 2000000} backoff_coefficient: 3} dead_letter: {hold_key: false retention: {seconds: 8}}
    start_from: START_FROM_UNSPECIFIED max_in_flight: 9 processing_timeout: {seconds: 10}
    batch: {max_wait: {seconds: 2}} dead_letter_expired: true }; }
}
`,
}

func TestLoad(t *testing.T) {
	compiled := compile(t, sources, false, "air/v1/flights.proto", "air/v1/board.proto")
	for name, files := range map[string][]protoreflect.FileDescriptor{"compiled": compiled, "uploaded": uploaded(t, compiled)} {
		t.Run(name, func(t *testing.T) {
			set, faults := topic.Load(files)
			if faults != nil {
				t.Fatal(faults)
			}
			departed := files[0].Messages().ByName("FlightDeparted")
			task := files[0].Messages().ByName("Outer").Messages().ByName("Task")
			field := func(m protoreflect.MessageDescriptor, name protoreflect.Name) protoreflect.FieldDescriptor {
				return m.Fields().ByName(name)
			}
			wantDeparted := &topic.Topic{
				Name: "flights.departed", Message: departed, Partitions: 16, Delivery: topic.PubSub, Ordering: topic.PerKey,
				Retention: time.Minute, RetentionBytes: 77, Key: topic.Path{field(departed, "origin")},
				Headers: []topic.Header{
					{Name: "origin", Field: field(departed, "origin")}, {Name: "delay", Field: field(departed, "delay")},
					{Name: "diverted", Field: field(departed, "diverted")}, {Name: "status", Field: field(departed, "status")},
					{Name: "weight", Field: field(departed, "weight")},
				},
				Dedupe:         topic.Dedupe{Window: 10 * time.Minute, ID: field(departed, "flight_id")},
				PriorityLevels: 1, MaxMessageBytes: 1000, Aliases: []string{"departures"}, Labels: map[string]string{"team": "west"},
				TTL: 9 * time.Second,
			}
			inner := field(task, "inner")
			wantTask := &topic.Topic{
				Name: "air.v1.Outer.Task", Message: task, Partitions: 2, Delivery: topic.Queue, Ordering: topic.Unordered,
				Key: topic.Path{inner, field(inner.Message(), "id")}, PriorityLevels: 3, MaxMessageBytes: 1 << 20,
				Priority: field(task, "urgency"), DeliverAt: field(task, "due"),
			}
			equal(t, set.Topics, []*topic.Topic{wantDeparted, wantTask})
			equal(t, set.Publications, []*topic.Publication{
				{RPC: "air.v1.FlightEvents/Departed", Topic: set.Topics[0]},
				{RPC: "air.v1.FlightEvents/Later", Topic: set.Topics[1], Delay: 5 * time.Second, TTL: time.Minute},
			})
			equal(t, set.Subscriptions, []*topic.Subscription{
				{
					RPC: "air.v1.Board/OnDeparted", Group: "board", Topic: set.Topics[0], Filter: "msg.origin == 'SFO'",
					Retry:      topic.Retry{MaxAttempts: 3, InitialInterval: time.Second + 5, MaxInterval: 5 * time.Minute, Coefficient: 2},
					DeadLetter: topic.DeadLetter{HoldKey: true}, MaxInFlight: 64, ProcessingTimeout: 5 * time.Minute, Lease: 7 * time.Second,
					StartFrom: topic.Latest, Handler: topic.HandlerDelivery,
				},
				{
					RPC: "air.v1.Board/OnTask", Group: "board", Topic: set.Topics[1],
					Retry:      topic.Retry{MaxAttempts: 3, InitialInterval: 2 * time.Millisecond, MaxInterval: 5 * time.Minute, Coefficient: 3},
					DeadLetter: topic.DeadLetter{Retention: 8 * time.Second}, MaxInFlight: 9, ProcessingTimeout: 10 * time.Second,
					Lease: 7 * time.Second, StartFrom: topic.Latest,
					Batch: &topic.Batch{MaxMessages: 9, MaxWait: 2 * time.Second, MaxBytes: 1 << 20}, DeadLetterExpired: true,
				},
			})
			if got, ok := set.ByMessage("air.v1.Outer.Task"); !ok || got != set.Topics[1] {
				t.Errorf("ByMessage: %v, %t", got, ok)
			}
			if !topic.Sensitive(field(departed, "note")) || topic.Sensitive(field(departed, "origin")) {
				t.Error("note is sensitive, origin is not")
			}
		})
	}
}

// Where max_in_flight or batch.max_messages is left open, the other lets a batch be filled. An rpc that chooses its handler's signature, by
// handler or batch, is free of that of the defaults.
func TestLoadBatches(t *testing.T) {
	type want struct {
		inFlight, batch uint32
		handler         topic.HandlerStyle
	}
	for _, test := range []struct {
		defaults, policy string
		want             want
	}{
		{"", "", want{64, 0, topic.HandlerSimple}},
		{"", "batch: {}", want{100, 100, topic.HandlerSimple}},
		{"", "batch: {max_messages: 10}", want{64, 10, topic.HandlerSimple}},
		{"", "batch: {max_messages: 1000}", want{1000, 1000, topic.HandlerSimple}},
		{"", "batch: {} max_in_flight: 10", want{10, 10, topic.HandlerSimple}},
		{"max_in_flight: 10", "batch: {}", want{10, 10, topic.HandlerSimple}},
		{"", "batch: {} max_in_flight: 1000", want{1000, 100, topic.HandlerSimple}},
		{"", "batch: {max_messages: 5} max_in_flight: 9", want{9, 5, topic.HandlerSimple}},
		{"batch: {max_messages: 5}", "batch: {max_bytes: 1}", want{64, 5, topic.HandlerSimple}},
		{"batch: {max_messages: 500}", "handler: HANDLER_STYLE_SIMPLE", want{64, 0, topic.HandlerSimple}},
		{"batch: {max_messages: 500}", "handler: HANDLER_STYLE_UNSPECIFIED", want{500, 500, topic.HandlerSimple}},
		{"batch: {}", "handler: HANDLER_STYLE_DELIVERY", want{64, 0, topic.HandlerDelivery}},
		{"handler: HANDLER_STYLE_DELIVERY", "", want{64, 0, topic.HandlerDelivery}},
		{"handler: HANDLER_STYLE_DELIVERY", "batch: {}", want{100, 100, topic.HandlerSimple}},
		{"handler: HANDLER_STYLE_DELIVERY", "handler: HANDLER_STYLE_SIMPLE", want{64, 0, topic.HandlerSimple}},
	} {
		set, faults := topic.Load(compile(t, map[string]string{"a.proto": header + `message M { option (mq.v1.topic) = {}; }
			service S { option (mq.v1.consumer) = {group: "g" defaults: {` + test.defaults + `}};
			 rpc On(M) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {` + test.policy + `}; } }`,
		}, false, "a.proto"))
		if faults != nil {
			t.Fatal(faults)
		}
		s := set.Subscriptions[0]
		got := want{s.MaxInFlight, 0, s.Handler}
		if s.Batch != nil {
			got.batch = s.Batch.MaxMessages
		}
		if got != test.want {
			t.Errorf("{%s} over {%s}: got %v, want %v", test.policy, test.defaults, got, test.want)
		}
	}
}

// A subscription's defaults, and a topic that another file declares.
func TestLoadDefaults(t *testing.T) {
	files := compile(t, map[string]string{
		"a.proto": header + `message M { option (mq.v1.topic) = {}; int32 id = 1; }`,
		"b.proto": header + `import "a.proto"; service S { option (mq.v1.consumer).group = "g"; rpc On(M) returns (google.protobuf.Empty); }`,
	}, false, "b.proto")
	set, faults := topic.Load(files)
	if faults != nil {
		t.Fatal(faults)
	}
	if len(set.Topics) != 0 {
		t.Errorf("the topic is of another file: %v", set.Topics)
	}
	m, _ := set.ByMessage("air.v1.M")
	equal(t, m, &topic.Topic{
		Name: "air.v1.M", Message: m.Message, Partitions: 16, Retention: 7 * 24 * time.Hour, PriorityLevels: 1, MaxMessageBytes: 1 << 20,
	})
	equal(t, set.Subscriptions, []*topic.Subscription{{
		RPC: "air.v1.S/On", Group: "g", Topic: m, MaxInFlight: 64, ProcessingTimeout: 5 * time.Minute, Lease: 30 * time.Second,
		Retry: topic.Retry{MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: 5 * time.Minute, Coefficient: 2, Jitter: 0.2},
	}})
}

// The generated Go descriptors of this module, linked in with the extensions as Go types.
func TestLoadLinkedDescriptors(t *testing.T) {
	set, faults := topic.Load([]protoreflect.FileDescriptor{mqv1.File_mq_v1_options_proto})
	if faults != nil || len(set.Topics) != 0 {
		t.Errorf("got %v and %v", set, faults)
	}
}

// Extension 51700 of a file that does not import the annotations is somebody else's.
func TestLoadIgnoresForeignExtensions(t *testing.T) {
	foreign := `syntax = "proto2"; package other; import "google/protobuf/descriptor.proto";
		extend google.protobuf.MessageOptions { optional string owner = 51700; }
		message M { option (owner) = "\010\001 not a topic"; }`
	set, faults := topic.Load(compile(t, map[string]string{"other.proto": foreign}, false, "other.proto"))
	if faults != nil || len(set.Topics) != 0 {
		t.Errorf("got %v and %v", set, faults)
	}
}

// The annotations of a file count if it imports them, itself or by a public import.
func TestLoadFollowsPublicImports(t *testing.T) {
	set, faults := topic.Load(compile(t, map[string]string{
		"public.proto": `syntax = "proto3"; import public "mq/v1/options.proto";`,
		"a.proto":      `syntax = "proto3"; package a; import "public.proto"; message M { option (mq.v1.topic) = {name: "m"}; }`,
	}, false, "a.proto"))
	if faults != nil || len(set.Topics) != 1 {
		t.Errorf("got %v and %v", set.Topics, faults)
	}
	// Behind a private import the number belongs to others: this is a file that was never checked against the annotations.
	options := &descriptorpb.MessageOptions{}
	proto.SetExtension(options, mqv1.E_Topic, &mqv1.TopicOptions{Partitions: proto.Uint32(0)})
	files := new(protoregistry.Files)
	private := &descriptorpb.FileDescriptorProto{Name: proto.String("private.proto"), Dependency: []string{"mq/v1/options.proto"}}
	f, err := protodesc.NewFile(private, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.RegisterFile(f); err != nil {
		t.Fatal(err)
	}
	f, err = protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("b.proto"), Dependency: []string{"private.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M"), Options: options}},
	}, files)
	if err != nil {
		t.Fatal(err)
	}
	if set, faults := topic.Load([]protoreflect.FileDescriptor{f}); faults != nil || len(set.Topics) != 0 {
		t.Errorf("got %v and %v", set.Topics, faults)
	}
}

// Since edition 2024 a file may import the annotations for options only.
func TestLoadOptionImport(t *testing.T) {
	options := &descriptorpb.MessageOptions{}
	proto.SetExtension(options, mqv1.E_Topic, &mqv1.TopicOptions{Name: proto.String("orders")})
	files := new(protoregistry.Files)
	for _, f := range []protoreflect.FileDescriptor{mqv1.File_mq_v1_options_proto} {
		if err := files.RegisterFile(f); err != nil {
			t.Fatal(err)
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("m.proto"), Syntax: proto.String("editions"), Edition: descriptorpb.Edition_EDITION_2024.Enum(),
		OptionDependency: []string{"mq/v1/options.proto"},
		MessageType:      []*descriptorpb.DescriptorProto{{Name: proto.String("M"), Options: options}},
	}, files)
	if err != nil {
		t.Fatal(err)
	}
	set, faults := topic.Load([]protoreflect.FileDescriptor{file})
	if faults != nil || len(set.Topics) != 1 || set.Topics[0].Name != "orders" {
		t.Errorf("got %v and %v", set, faults)
	}
}

// Settings of a later version are refused, not ignored.
func TestLoadNewerAnnotations(t *testing.T) {
	newer := &mqv1.TopicOptions{Delivery: mqv1.Delivery(9).Enum()}
	unknown := &mqv1.TopicOptions{}
	unknown.ProtoReflect().SetUnknown([]byte{0xf8, 0x3f, 1})
	for want, o := range map[string]*mqv1.TopicOptions{
		"m.proto: (mq.v1.topic) of M: delivery has the value 9, which this version of typedmq does not know":                newer,
		"m.proto: (mq.v1.topic) of M: mq.v1.TopicOptions has a setting that this version of typedmq does not know; use the": unknown,
	} {
		options := &descriptorpb.MessageOptions{}
		proto.SetExtension(options, mqv1.E_Topic, o)
		file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
			Name: proto.String("m.proto"), Syntax: proto.String("proto3"), Dependency: []string{"mq/v1/options.proto"},
			MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M"), Options: options}},
		}, protoregistry.GlobalFiles)
		if err != nil {
			t.Fatal(err)
		}
		_, faults := topic.Load([]protoreflect.FileDescriptor{file})
		if len(faults) != 1 || !strings.HasPrefix(faults[0].String(), want) {
			t.Errorf("got %v", faults)
		}
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", dump(got), dump(want))
	}
}
