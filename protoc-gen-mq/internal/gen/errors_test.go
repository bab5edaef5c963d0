package gen_test

import (
	"testing"
)

// The file's header takes five lines: the source of each case begins in line 6.
const errorHeader = `syntax = "proto3";
package air.v1;
import "mq/v1/options.proto";
import "google/protobuf/empty.proto";
option go_package = "example.com/air/v1;airv1";
`

var errorCases = []struct{ name, parameter, source, want string }{
	{"all at once", "", `message A { option (mq.v1.topic) = {name: "a" partitions: 0}; string k = 1 [(mq.v1.field).key = true]; bytes h = 2 [(mq.v1.field).header = "h"]; }
service P { option (mq.v1.publisher) = {};
 rpc Stream(stream A) returns (google.protobuf.Empty);
 rpc Answer(A) returns (A);
 rpc NoTopic(google.protobuf.Empty) returns (google.protobuf.Empty); }
service C { option (mq.v1.consumer) = {};
 rpc On(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "msg.x"}; }
 rpc Batch(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {max_in_flight: 10 batch: {max_messages: 65}}; } }`,
		`air.proto:6:13: partitions 0: must be 1 to 1024
air.proto:6:117: field h cannot be a header: it is of type bytes; choose a string, integer, bool or enum field
air.proto:8:2: rpc Stream is streaming; write it without stream: it publishes one message at a time
air.proto:9:2: rpc Answer returns air.v1.A, so it is a call, which one group answers; make topic "a" DELIVERY_QUEUE, or write returns (google.protobuf.Empty)
air.proto:10:2: rpc NoTopic publishes google.protobuf.Empty, which is no topic; write a message of your own with option (mq.v1.topic) = {}
air.proto:11:13: consumer C has no group; set group: "…"
air.proto:12:46: filter of rpc On: 1:4: undefined field 'x'; write a CEL expression of type bool over msg (air.v1.A), key and headers
air.proto:13:49: batch max_messages 65 of rpc Batch exceeds max_in_flight 10, so that no batch is ever full; set max_in_flight to at least 65, or a smaller max_messages`},
	{"two signatures of one handler", "", `message A { option (mq.v1.topic) = {name: "a"}; }
service C { option (mq.v1.consumer) = {group: "c" defaults: {handler: HANDLER_STYLE_DELIVERY batch: {}}};
 rpc On(A) returns (google.protobuf.Empty); }`,
		`air.proto:7:13: batch contradicts handler HANDLER_STYLE_DELIVERY, which takes one message at a time; remove one of the two`},
	{"services of one Go name", "", `message A { option (mq.v1.topic) = {name: "a"}; }
service Bar { option (mq.v1.publisher) = {}; rpc Do(A) returns (google.protobuf.Empty); }
service bar { option (mq.v1.publisher) = {}; rpc Do(A) returns (google.protobuf.Empty); }
service NewBar { option (mq.v1.publisher) = {}; rpc Do(A) returns (google.protobuf.Empty); }`,
		`air.proto:8:1: service air.v1.bar becomes BarPublisher in Go, which is the name of service air.v1.Bar already; rename one of the two
air.proto:8:1: service air.v1.bar becomes NewBarPublisher in Go, which is the name of service air.v1.Bar already; rename one of the two
air.proto:8:1: service air.v1.bar becomes barPublisher in Go, which is the name of service air.v1.Bar already; rename one of the two
air.proto:9:1: service air.v1.NewBar becomes NewBarPublisher in Go, which is the name of service air.v1.Bar already; rename one of the two`},
	{"rpcs of one Go name", "", `message A { option (mq.v1.topic) = {name: "a"}; }
service Bar { option (mq.v1.publisher) = {}; rpc Do(A) returns (google.protobuf.Empty); rpc do(A) returns (google.protobuf.Empty); }`,
		`air.proto:7:89: rpc do becomes Do in Go, as rpc Do does; rename one of the two`},
	{"an rpc named like a publisher", "", `message A { option (mq.v1.topic) = {name: "a"}; }
service Bar { option (mq.v1.publisher) = {}; rpc BazPublisher(A) returns (google.protobuf.Empty); }
service BarBaz { option (mq.v1.publisher) = {}; rpc Do(A) returns (google.protobuf.Empty); }`,
		`air.proto:8:1: service air.v1.BarBaz becomes NewBarBazPublisher in Go, which is the name of rpc air.v1.Bar.BazPublisher already; rename one of the two`},
	{"messages of one Go name", "", `message A { message B { option (mq.v1.topic) = {name: "a"}; } }
message A_B { option (mq.v1.topic) = {name: "b"}; }`,
		`air.proto:7:1: message air.v1.A_B becomes A_BTopic in Go, which is the name of message air.v1.A.B already; rename one of the two`},
	{"name of a message in the same package", "package_suffix=", `message Order { option (mq.v1.topic) = {name: "a"}; }
message OrderTopic {}
enum Kind { KIND = 0; }
service S { option (mq.v1.consumer) = {group: "g"}; rpc On(Order) returns (google.protobuf.Empty); }
message SConsumer { oneof x { int32 y = 1; } }
message Register { oneof x { int32 SConsumer = 1; } }`,
		`air.proto:6:1: message air.v1.Order becomes OrderTopic in Go, which is the name of message air.v1.OrderTopic already; rename one of the two
air.proto:9:1: service air.v1.S becomes SConsumer in Go, which is the name of message air.v1.SConsumer already; rename one of the two`},
}

func TestErrors(t *testing.T) {
	for _, test := range errorCases {
		t.Run(test.name, func(t *testing.T) {
			r := generate(t, request(t, inMemory(map[string]string{"air.proto": errorHeader + test.source}), test.parameter, "air.proto"))
			if r.GetError() != test.want {
				t.Errorf("got\n%s\nwant\n%s", r.GetError(), test.want)
			}
			if len(r.GetFile()) != 0 {
				t.Errorf("with errors it generates %s", names(r))
			}
			t.Log("\n" + r.GetError())
		})
	}
}

// Two files of one Go package that would be written to the same place.
func TestErrorsOfOnePath(t *testing.T) {
	sources := map[string]string{
		"a/air.proto": errorHeader + `message A { option (mq.v1.topic) = {}; }`,
		"b/air.proto": errorHeader + `message B { option (mq.v1.topic) = {}; }`,
	}
	r := generate(t, request(t, inMemory(sources), "", "a/air.proto", "b/air.proto"))
	want := "b/air.proto: its generated code goes to example.com/air/v1/airv1mq/air.mq.go, as that of a/air.proto does; " +
		"rename one of the two, or give them different go_package options"
	if r.GetError() != want || len(r.GetFile()) != 0 {
		t.Errorf("got %s and\n%s\nwant\n%s", names(r), r.GetError(), want)
	}
	r = generate(t, request(t, inMemory(sources), "paths=source_relative", "a/air.proto", "b/air.proto"))
	if r.GetError() != "" || len(r.GetFile()) != 2 {
		t.Errorf("with paths=source_relative: got %s and %q", names(r), r.GetError())
	}
}

// A fault in one file keeps all files from being generated.
func TestErrorsOfSeveralFiles(t *testing.T) {
	sources := map[string]string{
		"good.proto": errorHeader + `message Good { option (mq.v1.topic) = {}; }`,
		"bad.proto":  errorHeader + `message Bad { option (mq.v1.topic) = {name: "air.v1.Good"}; }`,
		"ugly.proto": errorHeader + `message Ugly { option (mq.v1.topic) = {name: "a b"}; }`,
	}
	r := generate(t, request(t, inMemory(sources), "", "good.proto", "bad.proto", "ugly.proto"))
	want := `bad.proto:6:15: topic "air.v1.Good" is declared by message air.v1.Good already; give air.v1.Bad another name
ugly.proto:6:16: topic name "a b": must consist of letters, digits, '.', '_' and '-' of ASCII; set another name`
	if r.GetError() != want || len(r.GetFile()) != 0 {
		t.Errorf("got %s and\n%s\nwant\n%s", names(r), r.GetError(), want)
	}
}
