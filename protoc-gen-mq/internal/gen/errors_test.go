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
 rpc Batch(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {batch: {max_messages: 10}}; } }`,
		`air.proto:6:13: partitions 0: must be 1 to 1024
air.proto:6:117: field h cannot be a header: it is of type bytes; choose a string, integer, bool or enum field
air.proto:8:2: rpc Stream is streaming; write it without stream: it publishes one message at a time
air.proto:9:2: rpc Answer returns air.v1.A; write returns (google.protobuf.Empty): messages have no answer
air.proto:10:2: rpc NoTopic publishes google.protobuf.Empty, which is no topic; add option (mq.v1.topic) = {} to the message
air.proto:11:13: consumer C has no group; set group: "…"
air.proto:12:46: filter of rpc On: 1:4: undefined field 'x'; write a CEL expression of type bool over msg (air.v1.A), key and headers
air.proto:13:2: rpc Batch has a batch handler; this version of protoc-gen-mq generates HANDLER_STYLE_SIMPLE handlers only: remove batch`},
	{"not generated yet", "", `message A { option (mq.v1.topic) = {name: "a"}; }
service P { option (mq.v1.publisher) = {};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.publish) = {delay: {seconds: 1} ttl: {seconds: 1}}; } }
service C { option (mq.v1.consumer) = {group: "c" defaults: {handler: HANDLER_STYLE_DELIVERY}};
 rpc On(A) returns (google.protobuf.Empty); }`,
		`air.proto:10:2: rpc On has handler HANDLER_STYLE_DELIVERY; this version of protoc-gen-mq generates HANDLER_STYLE_SIMPLE handlers only: remove handler`},
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
		})
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
