package topic_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
)

// The file's header takes four lines: the source of each case begins in line 5. want has one fault a line, as
// "line:column REASON what is wrong; what to write instead".
var faultCases = []struct{ name, source, want string }{
	{"unknown key field", `message M { option (mq.v1.topic) = {key: "idd"}; string id = 1; }`,
		`5:13 BAD_KEY key "idd": message air.v1.M has no field "idd"; write one of id`},
	{"unknown field in path", `message M { option (mq.v1.topic) = {key: "i.x"}; I i = 1; } message I {}`,
		`5:13 BAD_KEY key "i.x": message air.v1.I has no field "x"; it has no fields at all`},
	{"path through text", `message M { option (mq.v1.topic) = {key: "i.x"}; string i = 1; }`,
		`5:13 BAD_KEY key "i.x": field air.v1.M.i is no message; end the path there`},
	{"path through list", `message M { option (mq.v1.topic) = {key: "i.x"}; repeated I i = 1; } message I { string x = 1; }`,
		`5:13 BAD_KEY key "i.x": field air.v1.M.i is repeated; lead the path through single messages`},
	{"path through oneof", `message M { option (mq.v1.topic) = {key: "i.x"}; oneof o { I i = 1; } } message I { string x = 1; }`,
		`5:13 BAD_KEY key "i.x": field air.v1.M.i is a member of oneof o; lead the path through single messages`},
	{"path to a message", `message M { option (mq.v1.topic) = {key: "i"}; I i = 1; } message I { string x = 1; }`,
		`5:13 BAD_KEY key "i": field air.v1.M.i is of type air.v1.I; choose a string, bytes or integer field`},
	{"empty key path", `message M { option (mq.v1.topic) = {key: ""}; string i = 1; }`,
		`5:13 BAD_KEY key "": message air.v1.M has no field ""; write one of i`},
	{"two keys", "message M { option (mq.v1.topic) = {};\n string a = 1 [(mq.v1.field).key = true];\n string b = 2 [(mq.v1.field).key = true]; }",
		`7:16 BAD_KEY field b is a second key beside field a; keep one`},
	{"key field and key path", "message M { option (mq.v1.topic) = {key: \"b\"};\n string a = 1 [(mq.v1.field).key = true]; string b = 2; }",
		`6:16 BAD_KEY field a is a second key beside key "b" of (mq.v1.topic); keep one`},
	{"keys of wrong kinds", `message A { option (mq.v1.topic).name = "a"; double k = 1 [(mq.v1.field).key = true]; }
message B { option (mq.v1.topic).name = "b"; bool k = 1 [(mq.v1.field).key = true]; }
message C { option (mq.v1.topic).name = "c"; E k = 1 [(mq.v1.field).key = true]; } enum E { E_ZERO = 0; }
message D { option (mq.v1.topic).name = "d"; A k = 1 [(mq.v1.field).key = true]; }
message F { option (mq.v1.topic).name = "f"; repeated string k = 1 [(mq.v1.field).key = true]; }
message G { option (mq.v1.topic).name = "g"; map<string, string> k = 1 [(mq.v1.field).key = true]; }
message H { option (mq.v1.topic).name = "h"; oneof o { string k = 1 [(mq.v1.field).key = true]; } }
message I { option (mq.v1.topic).name = "i"; optional string k = 1 [(mq.v1.field).key = true]; }`,
		`5:60 BAD_KEY field k cannot be the key: it is of type double; choose a string, bytes or integer field
6:58 BAD_KEY field k cannot be the key: it is of type bool; choose a string, bytes or integer field
7:55 BAD_KEY field k cannot be the key: it is an enum; choose a string, bytes or integer field
8:55 BAD_KEY field k cannot be the key: it is of type air.v1.A; choose a string, bytes or integer field
9:69 BAD_KEY field k cannot be the key: it is repeated; choose a string, bytes or integer field
10:73 BAD_KEY field k cannot be the key: it is a map; choose a string, bytes or integer field
11:70 BAD_KEY field k cannot be the key: it is a member of oneof o; choose a string, bytes or integer field`},
	{"roles of wrong kinds", `import "google/protobuf/timestamp.proto";
message A { option (mq.v1.topic) = {priority_levels: 2};
 double i = 1 [(mq.v1.field).dedupe_id = true];
 string p = 2 [(mq.v1.field).priority = true];
 int64 d = 3 [(mq.v1.field).deliver_at = true];
 google.protobuf.Timestamp e = 4 [(mq.v1.field).deliver_at = true];
 bytes h1 = 5 [(mq.v1.field).header = "h1"];
 float h2 = 6 [(mq.v1.field).header = "h2"];
 repeated string h3 = 7 [(mq.v1.field).header = "h3"];
 map<string, string> h4 = 8 [(mq.v1.field).header = "h4"];
 A h5 = 9 [(mq.v1.field).header = "h5"]; }`,
		`7:16 BAD_FIELD field i cannot be the dedupe_id: it is of type double; choose a string, bytes or integer field
8:16 BAD_FIELD field p cannot be the priority: it is of type string; choose an integer field
9:15 BAD_FIELD field d cannot be the deliver_at: it is of type int64; choose a google.protobuf.Timestamp field
10:35 BAD_FIELD field e is a second deliver_at beside field d; keep one
11:16 BAD_FIELD field h1 cannot be a header: it is of type bytes; choose a string, integer, bool or enum field
12:16 BAD_FIELD field h2 cannot be a header: it is of type float; choose a string, integer, bool or enum field
13:26 BAD_FIELD field h3 cannot be a header: it is repeated; choose a string, integer, bool or enum field
14:30 BAD_FIELD field h4 cannot be a header: it is a map; choose a string, integer, bool or enum field
15:12 BAD_FIELD field h5 cannot be a header: it is of type air.v1.A; choose a string, integer, bool or enum field`},
	{"headers", `message M { option (mq.v1.topic) = {};
 string a = 1 [(mq.v1.field).header = "a"];
 string b = 2 [(mq.v1.field).header = "a"];
 string c = 3 [(mq.v1.field).header = "c d"];
 string d = 4 [(mq.v1.field).header = ""]; }`,
		`7:16 BAD_NAME header "a" is set by field a already; give field b another header
8:16 BAD_NAME header name "c d": must consist of visible ASCII characters; set another name
9:16 BAD_NAME header name "": must not be empty; set another name`},
	{"roles in a message that is no topic", "message M {\n string a = 1 [(mq.v1.field).key = true];\n string b = 2 [(mq.v1.field).sensitive = true]; }",
		`6:15 BAD_FIELD field a has a role, but message air.v1.M is no topic; add option (mq.v1.topic) = {} to the message or remove (mq.v1.field)`},
	{"priority without levels", "message M { option (mq.v1.topic) = {};\n int32 a = 1 [(mq.v1.field).priority = true]; }",
		`6:15 BAD_FIELD field a is the priority of a topic without priorities; set priority_levels in (mq.v1.topic) to 2 or more`},
	{"priority with one level", "message M { option (mq.v1.topic) = {priority_levels: 1};\n int32 a = 1 [(mq.v1.field).priority = true]; }",
		`6:15 BAD_FIELD field a is the priority of a topic without priorities; set priority_levels in (mq.v1.topic) to 2 or more`},
	{"two priorities", "message M { option (mq.v1.topic) = {priority_levels: 10};\n int32 a = 1 [(mq.v1.field).priority = true];\n" +
		" uint64 b = 2 [(mq.v1.field).priority = true]; bool c = 3 [(mq.v1.field).priority = true]; repeated int32 d = 4 [(mq.v1.field).priority = true]; }",
		`7:16 BAD_FIELD field b is a second priority beside field a; keep one
7:60 BAD_FIELD field c is a second priority beside field a; keep one
7:114 BAD_FIELD field d is a second priority beside field a; keep one`},
	{"names", `message A { option (mq.v1.topic) = {name: "a/b"}; }
message B { option (mq.v1.topic) = {name: "mq.b"}; }
message C { option (mq.v1.topic) = {name: ""}; }
message D { option (mq.v1.topic) = {name: "d" aliases: ["..", "x", "x"]}; }
service S { option (mq.v1.consumer) = {group: "$g"}; }
service T { option (mq.v1.consumer) = {}; }`,
		`5:13 BAD_NAME topic name "a/b": must consist of letters, digits, '.', '_' and '-' of ASCII; set another name
6:13 BAD_NAME topic name "mq.b": must not begin with "mq." or "__", which are reserved; set another name
7:13 BAD_NAME topic name "": must not be empty; set another name
8:13 BAD_NAME alias "x" is a name of the topic already; remove it
8:13 BAD_NAME alias name "..": must not be "." or ".."; remove it
9:13 BAD_NAME group name "$g": must consist of letters, digits, '.', '_' and '-' of ASCII; set another group
10:13 BAD_NAME consumer T has no group; set group: "…"`},
	{"duplicate topics", `message A { option (mq.v1.topic) = {name: "a"}; }
message B { option (mq.v1.topic) = {name: "a"}; message C { option (mq.v1.topic) = {name: "c" aliases: "a"}; } }`,
		`6:13 DUPLICATE_TOPIC topic "a" is declared by message air.v1.A already; give air.v1.B another name
6:61 DUPLICATE_TOPIC alias "a" is a name of message air.v1.A already; remove it`},
	{"duplicate subscriptions", `message A { option (mq.v1.topic) = {name: "a"}; }
service S { option (mq.v1.consumer) = {group: "g"};
 rpc One(A) returns (google.protobuf.Empty);
 rpc Two(A) returns (google.protobuf.Empty); }
service T { option (mq.v1.consumer) = {group: "g"};
 rpc One(A) returns (google.protobuf.Empty); }`,
		`8:2 DUPLICATE_SUBSCRIPTION group "g" is subscribed to topic "a" by air.v1.S/One already; remove one of the two or give its service another group
10:2 DUPLICATE_SUBSCRIPTION group "g" is subscribed to topic "a" by air.v1.S/One already; remove one of the two or give its service another group`},
	{"queue with two groups", `message A { option (mq.v1.topic) = {name: "a" delivery: DELIVERY_QUEUE}; }
service S { option (mq.v1.consumer) = {group: "g"};
 rpc One(A) returns (google.protobuf.Empty); }
service T { option (mq.v1.consumer) = {group: "h"};
 rpc One(A) returns (google.protobuf.Empty); }`,
		`9:2 QUEUE_HAS_GROUP queue "a" has the group "g" already, by air.v1.S/One; a queue has one group: remove this rpc, or make the topic DELIVERY_PUBSUB`},
	{"bounds of a topic", `message A { option (mq.v1.topic) = {name: "a" partitions: 0 priority_levels: 0 max_message_bytes: 0}; }
message B { option (mq.v1.topic) = {name: "b" partitions: 1025 priority_levels: 11 max_message_bytes: 1048577}; }
message C { option (mq.v1.topic) = {name: "c" retention: {seconds: -1} ttl: {} dedupe: {window: {nanos: 5}}}; }
message D { option (mq.v1.topic) = {name: "d" retention: {seconds: 1 nanos: -1}}; }`,
		`5:13 BAD_BOUND max_message_bytes 0: must be 1 to 1048576
5:13 BAD_BOUND partitions 0: must be 1 to 1024
5:13 BAD_BOUND priority_levels 0: must be 1 to 10
6:13 BAD_BOUND max_message_bytes 1048577: must be 1 to 1048576
6:13 BAD_BOUND partitions 1025: must be 1 to 1024
6:13 BAD_BOUND priority_levels 11: must be 1 to 10
7:13 BAD_BOUND dedupe window 5ns: must be 1s to 7 days
7:13 BAD_BOUND retention -1s: must be 0s to 36500 days
7:13 BAD_TTL ttl 0s: must be 1ms to 3653 days
8:13 BAD_BOUND retention is no valid duration; write seconds and nanos of the same sign, nanos below 1e9`},
	{"ordering", `message A { option (mq.v1.topic) = {name: "a" ordering: ORDERING_PER_KEY}; }
message B { option (mq.v1.topic) = {name: "b" ordering: ORDERING_PER_PARTITION priority_levels: 2}; }
message C { option (mq.v1.topic) = {name: "c" priority_levels: 2}; string k = 1 [(mq.v1.field).key = true]; }
message D { option (mq.v1.topic) = {name: "d" priority_levels: 2 ordering: ORDERING_NONE}; string k = 1 [(mq.v1.field).key = true]; }`,
		`5:13 CONTRADICTION ordering ORDERING_PER_KEY needs a key; mark a field with (mq.v1.field).key = true, or set another ordering
6:13 CONTRADICTION priority_levels 2 contradicts ordering per_partition, which puts messages in the order of their publishing; set ordering: ORDERING_NONE or remove priority_levels
7:13 CONTRADICTION priority_levels 2 contradicts ordering per_key, which puts messages in the order of their publishing; set ordering: ORDERING_NONE or remove priority_levels`},
	{"rpcs", `message A { option (mq.v1.topic) = {name: "a"}; }
message N {}
service P { option (mq.v1.publisher) = {};
 rpc One(stream A) returns (google.protobuf.Empty);
 rpc Two(A) returns (stream google.protobuf.Empty);
 rpc Three(A) returns (A);
 rpc Four(N) returns (google.protobuf.Empty); }
service C { option (mq.v1.consumer) = {group: "g"};
 rpc One(stream N) returns (stream N); }`,
		`8:2 BAD_RPC rpc One is streaming; write it without stream: it publishes one message at a time
9:2 BAD_RPC rpc Two is streaming; write it without stream: it publishes one message at a time
10:2 BAD_RPC rpc Three returns air.v1.A, so it is a call, which one group answers; make topic "a" DELIVERY_QUEUE, or write returns (google.protobuf.Empty)
11:2 NOT_A_TOPIC rpc Four publishes air.v1.N, which is no topic; add option (mq.v1.topic) = {} to the message
13:2 NOT_A_TOPIC rpc One handles air.v1.N, which is no topic; add option (mq.v1.topic) = {} to the message
13:2 BAD_RPC rpc One is streaming; write it without stream: it handles one message at a time`},
	{"calls", `message A { option (mq.v1.topic) = {name: "a" delivery: DELIVERY_QUEUE}; }
message N {}
service P { option (mq.v1.publisher) = {};
 rpc One(A) returns (N) { option (mq.v1.publish) = {delay: {seconds: 1} ttl: {seconds: 1}}; } }
service C { option (mq.v1.consumer) = {group: "g" defaults: {batch: {} filter: "true"}};
 rpc One(A) returns (N); }`,
		`8:27 CONTRADICTION rpc One returns air.v1.N, so it expires with its caller's deadline, and has a ttl; remove the ttl
8:27 CONTRADICTION rpc One returns air.v1.N, so somebody waits for it, and has a delay; remove the delay
10:2 CONTRADICTION rpc One returns air.v1.N, so each call is answered, and one that a filter refuses never would be; remove filter
10:2 CONTRADICTION rpc One returns air.v1.N, so its handler answers one call at a time; remove batch and handler`},
	{"roles of services", `message A { option (mq.v1.topic) = {name: "a"}; }
service B { option (mq.v1.publisher) = {}; option (mq.v1.consumer) = {group: "g"}; rpc One(A) returns (google.protobuf.Empty); }
service P { option (mq.v1.publisher) = {};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {}; } }
service C { option (mq.v1.consumer) = {group: "g"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.publish) = {}; } }
service N { rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {}; option (mq.v1.publish) = {}; } }`,
		`6:44 BAD_SERVICE service B is a publisher and a consumer; make two services of it
8:47 BAD_SERVICE rpc One has (mq.v1.subscribe), but service P is no consumer; add option (mq.v1.consumer) = {group: "…"} to the service or remove it
10:47 BAD_SERVICE rpc One has (mq.v1.publish), but service C is no publisher; add option (mq.v1.publisher) = {} to the service or remove it
11:58 BAD_SERVICE rpc One has (mq.v1.subscribe), but service N is no consumer; add option (mq.v1.consumer) = {group: "…"} to the service or remove it
11:89 BAD_SERVICE rpc One has (mq.v1.publish), but service N is no publisher; add option (mq.v1.publisher) = {} to the service or remove it`},
	{"publish", `message A { option (mq.v1.topic) = {name: "a"}; }
service P { option (mq.v1.publisher) = {};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.publish) = {delay: {seconds: -1} ttl: {}}; } }`,
		`7:47 BAD_DELAY delay -1s: must be 0s to 3653 days
7:47 BAD_TTL ttl 0s: must be 1ms to 3653 days`},
	{"publish, too long", `message A { option (mq.v1.topic) = {name: "a" ttl: {seconds: 315619201}}; }
service P { option (mq.v1.publisher) = {};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.publish) = {delay: {seconds: 315619201} ttl: {seconds: 315619201}}; }
 rpc Two(A) returns (google.protobuf.Empty) { option (mq.v1.publish) = {delay: {seconds: 315619200} ttl: {seconds: 315619200}}; }
 rpc Three(A) returns (google.protobuf.Empty) { option (mq.v1.publish) = {delay: {nanos: 1000000000} ttl: {nanos: -1}}; } }`,
		`5:13 BAD_TTL ttl 87672h0m1s: must be 1ms to 3653 days
7:47 BAD_DELAY delay 87672h0m1s: must be 0s to 3653 days
7:47 BAD_TTL ttl 87672h0m1s: must be 1ms to 3653 days
9:49 BAD_DELAY delay is no valid duration; write seconds and nanos of the same sign, nanos below 1e9
9:49 BAD_TTL ttl -1ns: must be 1ms to 3653 days`},
	{"policy", `message A { option (mq.v1.topic) = {name: "a"}; }
service C { option (mq.v1.consumer) = {group: "g" defaults: {max_in_flight: 0 lease: {nanos: 1}}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {
   max_in_flight: 65537 processing_timeout: {seconds: 43201} lease: {seconds: 601}
   retry: {max_attempts: 0 initial_interval: {} backoff_coefficient: 1e9 jitter: nan}
   dead_letter: {retention: {seconds: -1} disabled: true hold_key: true}
   batch: {max_messages: 0 max_wait: {seconds: 61} max_bytes: 0}
 }; } }`,
		`6:13 BAD_BOUND lease 1ns: must be 1s to 10m
6:13 BAD_BOUND max_in_flight 0: must be 1 to 65536
7:47 BAD_RETRY backoff_coefficient 1e+09: must be 1 to 100
7:47 BAD_BOUND batch max_bytes 0: must be 1 to 4194304
7:47 BAD_BOUND batch max_messages 0: must be 1 to 10000
7:47 BAD_BOUND batch max_wait 1m1s: must be 0s to 1m
7:47 CONTRADICTION dead_letter is disabled and has a retention; remove one of disabled and retention
7:47 CONTRADICTION dead_letter is disabled and holds its key; remove one of disabled and hold_key
7:47 BAD_BOUND dead_letter retention -1s: must be 0s to 36500 days
7:47 CONTRADICTION dead_letter.hold_key of rpc One needs order by key, and topic "a" has ordering none; remove hold_key
7:47 BAD_RETRY initial_interval 0s: must be 1ms to 1 day
7:47 BAD_RETRY jitter NaN: must be 0 to 1
7:47 BAD_BOUND lease 10m1s: must be 1s to 10m
7:47 BAD_RETRY max_attempts 0: must be 1 to 1000
7:47 BAD_BOUND max_in_flight 65537: must be 1 to 65536
7:47 BAD_BOUND processing_timeout 12h0m1s: must be 1ms to 12h`},
	{"intervals", `message A { option (mq.v1.topic) = {name: "a"}; }
service C { option (mq.v1.consumer) = {group: "g" defaults: {retry: {initial_interval: {seconds: 600}}}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {retry: {max_interval: {seconds: 599}}}; } }
service D { option (mq.v1.consumer) = {group: "h"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {retry: {max_interval: {nanos: 200000000}}}; } }`,
		`6:13 BAD_RETRY max_interval 5m, the default: must be at least initial_interval 10m; set both
7:47 BAD_RETRY max_interval 9m59s: must be at least initial_interval 10m; set both
9:47 BAD_RETRY max_interval 200ms: must be at least initial_interval 1s, the default; set both`},
	{"dead letters", `message A { option (mq.v1.topic) = {name: "a"}; }
message K { option (mq.v1.topic) = {name: "k"}; string k = 1 [(mq.v1.field).key = true]; }
service C { option (mq.v1.consumer) = {group: "g" defaults: {dead_letter: {hold_key: true}}};
 rpc One(A) returns (google.protobuf.Empty);
 rpc Two(K) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {dead_letter: {disabled: true}}; } }`,
		`7:13 CONTRADICTION dead_letter.hold_key of rpc One needs order by key, and topic "a" has ordering none; remove hold_key
9:47 CONTRADICTION dead_letter of rpc Two is disabled and holds its key, together with the defaults of the service; set disabled or hold_key to false`},
	{"retention of what is not kept", `message A { option (mq.v1.topic) = {name: "a" delivery: DELIVERY_QUEUE retention: {seconds: 60} retention_bytes: 1}; }
message B { option (mq.v1.topic) = {name: "b" delivery: DELIVERY_QUEUE retention: {}}; }
message C { option (mq.v1.topic) = {name: "c" delivery: DELIVERY_QUEUE retention_bytes: 0 ttl: {seconds: 60}}; }
message D { option (mq.v1.topic) = {name: "d" retention: {seconds: 60} retention_bytes: 1}; }`,
		`5:13 CONTRADICTION retention contradicts delivery DELIVERY_QUEUE, which keeps a message until it is settled; remove it (ttl bounds how long a message waits)
5:13 CONTRADICTION retention_bytes contradicts delivery DELIVERY_QUEUE, which keeps a message until it is settled; remove it (ttl bounds how long a message waits)
6:13 CONTRADICTION retention contradicts delivery DELIVERY_QUEUE, which keeps a message until it is settled; remove it (ttl bounds how long a message waits)`},
	{"retention of dead letters that are disabled", `message A { option (mq.v1.topic) = {name: "a"}; }
service C { option (mq.v1.consumer) = {group: "g" defaults: {dead_letter: {disabled: true retention: {seconds: 60}}}};
 rpc One(A) returns (google.protobuf.Empty); }
service D { option (mq.v1.consumer) = {group: "h" defaults: {dead_letter: {disabled: true}}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {dead_letter: {retention: {seconds: 60}}}; } }
service E { option (mq.v1.consumer) = {group: "i"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {dead_letter: {disabled: true retention: {}}}; } }
service F { option (mq.v1.consumer) = {group: "j" defaults: {dead_letter: {retention: {seconds: 60}}}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {dead_letter: {disabled: true}}; } }
service G { option (mq.v1.consumer) = {group: "k" defaults: {dead_letter: {disabled: true}}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {dead_letter: {disabled: false retention: {seconds: 60}}}; } }`,
		`6:13 CONTRADICTION dead_letter is disabled and has a retention; remove one of disabled and retention
9:47 CONTRADICTION dead_letter of rpc One has a retention and is disabled by the defaults of the service; set disabled to false or remove retention
11:47 CONTRADICTION dead_letter is disabled and has a retention; remove one of disabled and retention`},
	{"filters", `message A { option (mq.v1.topic) = {name: "a"}; int32 n = 1; }
message B { option (mq.v1.topic) = {name: "b"}; string s = 1; }
service C { option (mq.v1.consumer) = {group: "g" defaults: {filter: "msg.n > 1"}};
 rpc One(A) returns (google.protobuf.Empty);
 rpc Two(B) returns (google.protobuf.Empty); }
service D { option (mq.v1.consumer) = {group: "h"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "msg.n >"}; }
 rpc Two(B) returns (google.protobuf.Empty) { option (mq.v1.subscribe).filter = "msg.s"; } }`,
		`7:13 FILTER_TYPE filter of rpc Two: 1:4: undefined field 'n'; write a CEL expression of type bool over msg (air.v1.B), key and headers
11:47 FILTER_SYNTAX filter of rpc One: 1:8: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}; write a CEL expression of type bool over msg (air.v1.A), key and headers
12:47 FILTER_NOT_BOOL filter of rpc Two: 1:1: the expression is of type string, not bool; write a CEL expression of type bool over msg (air.v1.B), key and headers`},
	{"filters that cost too much", `message A { option (mq.v1.topic) = {name: "a"}; repeated int32 n = 1; string s = 2; }
service C { option (mq.v1.consumer) = {group: "g"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "msg.n.all(a, msg.n.all(b, msg.n.all(c, a + b > c)))"}; } }
service D { option (mq.v1.consumer) = {group: "h"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "msg.n.exists(a, a > 1) && headers['h'] == msg.s"}; } }`,
		`7:47 FILTER_TOO_COSTLY filter of rpc One: 1:1: estimated cost 8060603; at most 1000000 is allowed; write a CEL expression of type bool over msg (air.v1.A), key and headers`},
	{"filter types", `message A { option (mq.v1.topic) = {name: "a"}; int32 n = 1; string s = 2; }
service C { option (mq.v1.consumer) = {group: "g"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "msg.n == '1'"}; } }
service D { option (mq.v1.consumer) = {group: "h"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "headers['h'] > 1"}; } }
service E { option (mq.v1.consumer) = {group: "i"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "message.n > 1"}; } }
service F { option (mq.v1.consumer) = {group: "j"};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {filter: "key == 'k'"}; } }`,
		`7:47 FILTER_TYPE filter of rpc One: 1:7: found no matching overload for '_==_' applied to '(int, string)'; write a CEL expression of type bool over msg (air.v1.A), key and headers
9:47 FILTER_TYPE filter of rpc One: 1:14: found no matching overload for '_>_' applied to '(string, int)'; write a CEL expression of type bool over msg (air.v1.A), key and headers
11:47 FILTER_TYPE filter of rpc One: 1:1: undeclared reference to 'message' (in container 'air.v1.A'); write a CEL expression of type bool over msg (air.v1.A), key and headers`},
	{"batches", `message A { option (mq.v1.topic) = {name: "a"}; }
message B { option (mq.v1.topic) = {name: "b"}; }
service C { option (mq.v1.consumer) = {group: "g" defaults: {batch: {max_messages: 65}}};
 rpc One(A) returns (google.protobuf.Empty);
 rpc Two(B) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {max_in_flight: 64}; } }
service D { option (mq.v1.consumer) = {group: "h" defaults: {max_in_flight: 10}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {batch: {max_messages: 11}}; }
 rpc Two(B) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {batch: {}}; } }
service E { option (mq.v1.consumer) = {group: "i" defaults: {batch: {}}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {handler: HANDLER_STYLE_DELIVERY}; }
 rpc Two(B) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {batch: {} handler: HANDLER_STYLE_SIMPLE}; } }
service F { option (mq.v1.consumer) = {group: "j" defaults: {batch: {max_messages: 2} handler: HANDLER_STYLE_DELIVERY}};
 rpc One(A) returns (google.protobuf.Empty); }
service G { option (mq.v1.consumer) = {group: "k" defaults: {handler: HANDLER_STYLE_DELIVERY}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {batch: {max_wait: {seconds: 1}}}; }
 rpc Two(B) returns (google.protobuf.Empty); }`,
		`9:47 CONTRADICTION batch max_messages 65 of rpc Two exceeds max_in_flight 64, so that no batch is ever full; set max_in_flight to at least 65, or a smaller max_messages
11:47 CONTRADICTION batch max_messages 11 of rpc One exceeds max_in_flight 10, so that no batch is ever full; set max_in_flight to at least 11, or a smaller max_messages
15:47 CONTRADICTION batch contradicts handler HANDLER_STYLE_SIMPLE, which takes one message at a time; remove one of the two
16:13 CONTRADICTION batch contradicts handler HANDLER_STYLE_DELIVERY, which takes one message at a time; remove one of the two`},
	{"expired messages without dead letters", `message A { option (mq.v1.topic) = {name: "a"}; }
service C { option (mq.v1.consumer) = {group: "g" defaults: {dead_letter_expired: true}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {dead_letter: {disabled: true}}; } }
service D { option (mq.v1.consumer) = {group: "h" defaults: {dead_letter_expired: true dead_letter: {disabled: true}}};
 rpc One(A) returns (google.protobuf.Empty); }
service E { option (mq.v1.consumer) = {group: "i" defaults: {dead_letter_expired: true dead_letter: {disabled: true}}};
 rpc One(A) returns (google.protobuf.Empty) { option (mq.v1.subscribe) = {dead_letter_expired: false}; } }`,
		`7:47 CONTRADICTION rpc One keeps expired messages as dead letters, and its dead letters are disabled; remove dead_letter_expired or dead_letter.disabled
8:13 CONTRADICTION rpc One keeps expired messages as dead letters, and its dead letters are disabled; remove dead_letter_expired or dead_letter.disabled`},
	// Dead letters have no topic of their own, so that none can have dead letters again: their names are not to be had.
	{"dead letters of dead letters", `message A { option (mq.v1.topic) = {name: "mq.dlq.a"}; }
message B { option (mq.v1.topic) = {name: "b" aliases: "mq.dlq.a"}; }
message C { option (mq.v1.topic) = {name: "__dead"}; }
service S { option (mq.v1.consumer) = {group: "mq.dlq"}; rpc On(B) returns (google.protobuf.Empty); }`,
		`5:13 BAD_NAME topic name "mq.dlq.a": must not begin with "mq." or "__", which are reserved; set another name
6:13 BAD_NAME alias name "mq.dlq.a": must not begin with "mq." or "__", which are reserved; remove it
7:13 BAD_NAME topic name "__dead": must not begin with "mq." or "__", which are reserved; set another name
8:13 BAD_NAME group name "mq.dlq": must not begin with "mq." or "__", which are reserved; set another group`},
	{"aliases", `message A { option (mq.v1.topic) = {name: "a" aliases: ["old", "b"]}; }
message B { option (mq.v1.topic) = {name: "b" aliases: ["old"]}; }
message C { option (mq.v1.topic) = {name: "c" aliases: ["c"]}; }`,
		`5:13 DUPLICATE_TOPIC alias "b" is a name of message air.v1.B already; remove it
6:13 DUPLICATE_TOPIC alias "old" is a name of message air.v1.A already; remove it
7:13 BAD_NAME alias "c" is a name of the topic already; remove it`},
	{"roles of extensions", `import "google/protobuf/descriptor.proto";
extend google.protobuf.FileOptions { optional string x = 50001 [(mq.v1.field).key = true]; optional string y = 50002 [(mq.v1.field).sensitive = true]; }
message A { option (mq.v1.topic) = {name: "a"};
 extend google.protobuf.FileOptions { optional string z = 50003 [(mq.v1.field).header = "z"]; } }`,
		`6:64 BAD_FIELD extension x has a role; give roles to fields that the topic's message declares itself, and remove (mq.v1.field)
8:65 BAD_FIELD extension z has a role; give roles to fields that the topic's message declares itself, and remove (mq.v1.field)`},
	{"roles inside a topic's message", `message A { option (mq.v1.topic) = {name: "a"}; B b = 1 [(mq.v1.field).header = "b"];
 message B { string k = 1 [(mq.v1.field).key = true]; } }`,
		`5:58 BAD_FIELD field b cannot be a header: it is of type air.v1.A.B; choose a string, integer, bool or enum field
6:27 BAD_FIELD field k has a role, but message air.v1.A.B is no topic; add option (mq.v1.topic) = {} to the message or remove (mq.v1.field)`},
	{"too many headers", `message A { option (mq.v1.topic) = {name: "a"};` + manyHeaders(65) + ` }`,
		`70:19 BAD_FIELD message air.v1.A has 65 headers; at most 64 are allowed: remove some`},
	{"queue with groups of three services", `message A { option (mq.v1.topic) = {name: "a" delivery: DELIVERY_QUEUE}; }
service S { option (mq.v1.consumer) = {group: "g"}; rpc One(A) returns (google.protobuf.Empty); }
service T { option (mq.v1.consumer) = {group: "g"}; rpc One(A) returns (google.protobuf.Empty); }
service U { option (mq.v1.consumer) = {group: "h"}; rpc One(A) returns (google.protobuf.Empty); }`,
		`7:53 DUPLICATE_SUBSCRIPTION group "g" is subscribed to topic "a" by air.v1.S/One already; remove one of the two or give its service another group
8:53 QUEUE_HAS_GROUP queue "a" has the group "g" already, by air.v1.S/One; a queue has one group: remove this rpc, or make the topic DELIVERY_PUBSUB`},
}

func manyHeaders(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "\n string f%d = %d [(mq.v1.field).header = \"h%d\"];", i, i+1, i)
	}
	return b.String()
}

func TestFaults(t *testing.T) {
	for _, test := range faultCases {
		t.Run(test.name, func(t *testing.T) {
			files := compile(t, map[string]string{"m.proto": header + test.source}, false, "m.proto")
			for origin, files := range map[string][]protoreflect.FileDescriptor{"compiled": files, "uploaded": uploaded(t, files)} {
				_, faults := topic.Load(files)
				if got := short(faults); got != test.want {
					t.Errorf("%s: got\n%s\nwant\n%s", origin, got, test.want)
				}
			}
		})
	}
}

func short(faults topic.Faults) string {
	var lines []string
	for _, f := range faults {
		place := strings.TrimSuffix(strings.TrimPrefix(f.String(), f.File+":"), ": "+f.Message)
		lines = append(lines, place+" "+f.Reason+" "+f.Message)
	}
	return strings.Join(lines, "\n")
}

// With the source information that buf makes, a fault points into the option.
func TestFaultsInsideOptions(t *testing.T) {
	source := header + `message M {
  option (mq.v1.topic) = {
    name: "m"
    partitions: 0
  };
}
service S {
  option (mq.v1.consumer) = {
    group: "g"
    defaults: {
      retry: {
        jitter: 2
      }
    }
  };
}`
	_, faults := topic.Load(compile(t, map[string]string{"m.proto": source}, true, "m.proto"))
	want := "m.proto:8:5: partitions 0: must be 1 to 1024\nm.proto:16:9: jitter 2: must be 0 to 1"
	if faults.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", faults, want)
	}
}

// Faults of several files, those of topics that other files declare included, come sorted.
func TestFaultsOfSeveralFiles(t *testing.T) {
	files := compile(t, map[string]string{
		"z.proto": header + `message M { option (mq.v1.topic) = {partitions: 0}; }`,
		"b.proto": header + `import "z.proto"; service S { option (mq.v1.consumer) = {}; rpc On(M) returns (google.protobuf.Empty); }`,
		"a.proto": header + `message A { option (mq.v1.topic) = {name: "air.v1.M"}; }`,
	}, false, "b.proto", "a.proto")
	_, faults := topic.Load(files)
	want := `b.proto:5:31: consumer S has no group; set group: "…"
z.proto:5:13: partitions 0: must be 1 to 1024
z.proto:5:13: topic "air.v1.M" is declared by message air.v1.A already; give air.v1.M another name`
	if faults.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", faults, want)
	}
}
