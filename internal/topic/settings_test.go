package topic_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// Each setting has the value in force and who says so; an rpc stands over its service, field by field.
func TestSettings(t *testing.T) {
	files := compile(t, map[string]string{"a.proto": header + `
message M { option (mq.v1.topic) = {}; int32 id = 1 [(mq.v1.field).key = true]; }
service S {
  option (mq.v1.consumer) = { group: "g" defaults: {
    retry: {max_attempts: 3 jitter: 0} lease: {seconds: 7} start_from: START_FROM_LATEST batch: {max_messages: 5}
  } };
  rpc On(M) returns (google.protobuf.Empty) {
    option (mq.v1.subscribe) = {
      retry: {max_attempts: 9}
      start_from: START_FROM_UNSPECIFIED
      dead_letter: {hold_key: false}
    };
  }
}`}, true, "a.proto")
	set, faults := topic.Load(files)
	if faults != nil {
		t.Fatal(faults)
	}
	var got []string
	for _, s := range set.Settings(set.Subscriptions[0]) {
		line := fmt.Sprintf("%s=%s %s", s.Name, s.Value, s.From)
		if s.From != topic.FromDefault && (s.Place.File != "a.proto" || s.Place.Line == 0) {
			line += " nowhere"
		}
		got = append(got, line)
	}
	want := []string{
		"filter= default", "retry.max_attempts=9 rpc", "retry.initial_interval=1s default", "retry.max_interval=5m default",
		"retry.backoff_coefficient=2 default", "retry.jitter=0 service", "dead_letter.disabled=false default", "dead_letter.hold_key=false rpc",
		"dead_letter.retention=for ever default", "max_in_flight=64 default", "processing_timeout=5m default", "lease=7s service",
		"batch.max_messages=5 service", "batch.max_wait=0s default", "batch.max_bytes=1048576 default", "start_from=latest service",
		"handler=batch service", "dead_letter_expired=false default",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestSettingsAreAll: a field of SubscribeOptions that Settings does not know is forgotten by mq explain.
func TestSettingsAreAll(t *testing.T) {
	files := compile(t, map[string]string{"a.proto": header + `
message M { option (mq.v1.topic) = {}; int32 id = 1; }
service S { option (mq.v1.consumer).group = "g"; rpc On(M) returns (google.protobuf.Empty); }`}, false, "a.proto")
	set, faults := topic.Load(files)
	if faults != nil {
		t.Fatal(faults)
	}
	known := map[string]bool{}
	for _, s := range set.Settings(set.Subscriptions[0]) {
		known[s.Name] = true
	}
	for _, name := range leaves((&mqv1.SubscribeOptions{}).ProtoReflect().Descriptor(), "") {
		if !known[name] {
			t.Errorf("no setting %s", name)
		}
		delete(known, name)
	}
	if len(known) > 0 {
		t.Errorf("settings that no option is: %v", known)
	}
}

// leaves are the paths of fields that hold no options of their own.
func leaves(d protoreflect.MessageDescriptor, prefix string) (names []string) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := prefix + string(f.Name())
		if f.Message() != nil && f.Message().ParentFile() == d.ParentFile() {
			names = append(names, leaves(f.Message(), name+".")...)
		} else {
			names = append(names, name)
		}
	}
	return names
}
