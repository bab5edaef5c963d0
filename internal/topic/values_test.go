package topic_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/typedmq/typedmq/internal/topic"
)

func dump(v any) string {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice {
		return fmt.Sprintf("%+v", reflect.Indirect(r))
	}
	var lines []string
	for i := range r.Len() {
		lines = append(lines, dump(r.Index(i).Interface()))
	}
	return strings.Join(lines, "\n")
}

func TestKeyOfAndHeadersOf(t *testing.T) {
	source := header + `
enum Status { ZERO = 0; LATE = 1; }
message Text { option (mq.v1.topic).name = "text"; string k = 1 [(mq.v1.field).key = true]; }
message Bytes { option (mq.v1.topic).name = "bytes"; bytes k = 1 [(mq.v1.field).key = true]; }
message Signed { option (mq.v1.topic).name = "signed"; sfixed32 k = 1 [(mq.v1.field).key = true]; }
message Unsigned { option (mq.v1.topic).name = "unsigned"; fixed64 k = 1 [(mq.v1.field).key = true]; }
message Nested { option (mq.v1.topic) = {name: "nested" key: "a.b.k"}; A a = 1; }
message A { B b = 1; } message B { int64 k = 1; }
message None { option (mq.v1.topic).name = "none"; }
message All { option (mq.v1.topic).name = "all";
  string s = 1 [(mq.v1.field).header = "s"]; sint64 i = 2 [(mq.v1.field).header = "i"]; uint32 u = 3 [(mq.v1.field).header = "u"];
  bool b = 4 [(mq.v1.field).header = "b"]; Status e = 5 [(mq.v1.field).header = "e"]; optional int32 o = 6 [(mq.v1.field).header = "o"]; }
`
	files := compile(t, map[string]string{"m.proto": source}, false, "m.proto")
	set, faults := topic.Load(files)
	if faults != nil {
		t.Fatal(faults)
	}
	copies := uploaded(t, files)
	for _, test := range []struct{ message, json, key, headers string }{
		{"Text", `{"k": "ä"}`, "ä", ""},
		{"Text", `{}`, "", ""},
		{"Bytes", `{"k": "AP8="}`, "\x00\xff", ""},
		{"Signed", `{"k": -7}`, "-7", ""},
		{"Signed", `{}`, "0", ""},
		{"Unsigned", `{"k": "18446744073709551615"}`, "18446744073709551615", ""},
		{"Nested", `{"a": {"b": {"k": "-9223372036854775808"}}}`, "-9223372036854775808", ""},
		{"Nested", `{}`, "0", ""},
		{"None", `{}`, "no key", ""},
		{"All", `{"s": "x y", "i": -1, "u": 2, "b": true, "e": 1, "o": 0}`, "no key", "s=x y i=-1 u=2 b=true e=LATE o=0"},
		{"All", `{}`, "no key", "s= i=0 u=0 b=false e=ZERO o=0"},
		{"All", `{"e": 9}`, "no key", "s= i=0 u=0 b=false e=9 o=0"},
	} {
		declared, _ := set.ByMessage(files[0].Messages().ByName(protoreflect.Name(test.message)).FullName())
		for origin, file := range map[string]int{"same descriptor": 0, "copy of the descriptor": 1} {
			d := files[0].Messages().ByName(protoreflect.Name(test.message))
			if file == 1 {
				d = copies[0].Messages().ByName(protoreflect.Name(test.message))
			}
			m := dynamicpb.NewMessage(d)
			if err := protojson.Unmarshal([]byte(test.json), m); err != nil {
				t.Fatal(err)
			}
			key := "no key"
			if k := declared.KeyOf(m); k != nil {
				key = string(k)
			}
			var headers []string
			for _, h := range declared.HeadersOf(m) {
				headers = append(headers, h.Name+"="+h.Value)
			}
			if got := strings.Join(headers, " "); key != test.key || got != test.headers {
				t.Errorf("%s %s, %s: got key %q and headers %q", test.message, test.json, origin, key, got)
			}
		}
	}
}

func TestIDOf(t *testing.T) {
	source := header + `
message None { option (mq.v1.topic) = {name: "none" dedupe: {}}; string id = 1; }
message Text { option (mq.v1.topic).name = "text"; string id = 1 [(mq.v1.field).dedupe_id = true]; }
message Bytes { option (mq.v1.topic).name = "bytes"; bytes id = 1 [(mq.v1.field).dedupe_id = true]; }
message Signed { option (mq.v1.topic).name = "signed"; sint64 id = 1 [(mq.v1.field).dedupe_id = true]; }
message Unsigned { option (mq.v1.topic).name = "unsigned"; fixed64 id = 1 [(mq.v1.field).dedupe_id = true]; }
`
	files := compile(t, map[string]string{"m.proto": source}, false, "m.proto")
	set, faults := topic.Load(files)
	if faults != nil {
		t.Fatal(faults)
	}
	copies := uploaded(t, files)
	for _, test := range []struct{ message, text, want string }{
		{"None", `id: "x"`, ""}, {"Text", `id: "ä b"`, "ä b"}, {"Text", ``, ""}, {"Bytes", `id: "\000\377"`, "00ff"}, {"Bytes", ``, ""},
		{"Signed", `id: -7`, "-7"}, {"Signed", ``, "0"}, {"Unsigned", `id: 18446744073709551615`, "18446744073709551615"},
	} {
		declared, _ := set.ByMessage(files[0].Messages().ByName(protoreflect.Name(test.message)).FullName())
		for _, file := range []protoreflect.FileDescriptor{files[0], copies[0]} {
			m := dynamicpb.NewMessage(file.Messages().ByName(protoreflect.Name(test.message)))
			if err := prototext.Unmarshal([]byte(test.text), m); err != nil {
				t.Fatal(err)
			}
			if got := declared.IDOf(m); got != test.want {
				t.Errorf("%s %s: got id %q, want %q", test.message, test.text, got, test.want)
			}
		}
	}
}

func TestPriorityOfAndDeliverAtOf(t *testing.T) {
	source := header + `
import "google/protobuf/timestamp.proto";
message Plain { option (mq.v1.topic).name = "plain"; int32 p = 1; }
message Signed { option (mq.v1.topic) = {name: "signed" priority_levels: 5}; sint64 p = 1 [(mq.v1.field).priority = true]; }
message Unsigned { option (mq.v1.topic) = {name: "unsigned" priority_levels: 5}; fixed64 p = 1 [(mq.v1.field).priority = true]; }
message At { option (mq.v1.topic).name = "at"; google.protobuf.Timestamp at = 1 [(mq.v1.field).deliver_at = true]; }
`
	files := compile(t, map[string]string{"m.proto": source}, false, "m.proto")
	set, faults := topic.Load(files)
	if faults != nil {
		t.Fatal(faults)
	}
	copies := uploaded(t, files)
	for _, test := range []struct{ message, text, want string }{
		{"Plain", `p: 3`, "0 -"},
		{"Signed", ``, "0 -"}, {"Signed", `p: 1`, "1 -"}, {"Signed", `p: 5`, "5 -"}, {"Signed", `p: 6`, "priority 6: must be 0 to 5"},
		{"Signed", `p: -1`, "priority -1: must be 0 to 5"}, {"Signed", `p: 4294967297`, "priority 4294967297: must be 0 to 5"},
		{"Unsigned", `p: 2`, "2 -"}, {"Unsigned", `p: 18446744073709551615`, "priority 18446744073709551615: must be 0 to 5"},
		{"At", ``, "0 -"}, {"At", `at {}`, "0 1970-01-01T00:00:00Z"}, {"At", `at {seconds: 86400 nanos: 1}`, "0 1970-01-02T00:00:00.000000001Z"},
		{"At", `at {seconds: -1}`, "field at: 1969-12-31T23:59:59Z: must not lie before 1970"}, {"At", `at {nanos: 1000000000}`, "is no instant"}, {"At", `at {nanos: -1}`, "is no instant"},
		{"At", `at {seconds: -1 nanos: 999999999}`, "must not lie before 1970"}, {"At", `at {seconds: -62135596800}`, "0001-01-01T00:00:00Z: must not lie before 1970"},
		{"At", `at {seconds: 253402300800}`, "is no instant"}, {"At", `at {seconds: -62135596801}`, "is no instant"},
	} {
		declared, _ := set.ByMessage(files[0].Messages().ByName(protoreflect.Name(test.message)).FullName())
		for origin, file := range map[string]protoreflect.FileDescriptor{"same descriptor": files[0], "copy of the descriptor": copies[0]} {
			m := dynamicpb.NewMessage(file.Messages().ByName(protoreflect.Name(test.message)))
			if err := prototext.Unmarshal([]byte(test.text), m); err != nil {
				t.Fatal(err)
			}
			level, err := declared.PriorityOf(m)
			at, atErr := declared.DeliverAtOf(m)
			got := fmt.Sprint(level, " -")
			if !at.IsZero() {
				got = fmt.Sprint(level, " ", at.UTC().Format(time.RFC3339Nano))
			}
			if err := errors.Join(err, atErr); err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, test.want) && !strings.Contains(got, test.want+" ") {
				t.Errorf("%s {%s}, %s: %s, want %s", test.message, test.text, origin, got, test.want)
			}
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "flights.departed", "A-b_c.9", "mq", "mqx.y", strings.Repeat("x", 249)} {
		if err := topic.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, rule := range map[string]string{
		"": "empty", ".": `".."`, "..": `".."`, "a/b": "letters", "a\x00": "letters", "a\r\nb": "letters", "a b": "letters", "fligһts": "letters",
		"$SYS": "letters", "mq.dead": "reserved", "MQ.dead": "reserved", "__offsets": "reserved", strings.Repeat("x", 250): "249 bytes long, not 250",
	} {
		err, ok := topic.CheckName(name).(*topic.NameError)
		if !ok || !strings.Contains(err.Rule, rule) || !strings.Contains(err.Error(), err.Rule) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCheckHeaderName(t *testing.T) {
	for _, name := range []string{"a", "X-Trace", "a:b/c", strings.Repeat("x", 249)} {
		if err := topic.CheckHeaderName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a b", "a\n", "ä", "\x7f", "mq.id", strings.Repeat("x", 250)} {
		if topic.CheckHeaderName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}
