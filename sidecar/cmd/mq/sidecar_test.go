package main

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// orders is a file with a topic and a subscription.
const orders = `
name: "orders.proto" package: "orders" syntax: "proto3" dependency: ["google/protobuf/empty.proto", "mq/v1/options.proto"]
message_type: {
  name: "Placed" options: {[mq.v1.topic]: {name: "orders" partitions: 2}}
  field: {name: "customer" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "customer" options: {[mq.v1.field]: {key: true}}}
  field: {name: "cents" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL json_name: "cents"}
}
service: {
  name: "Billing" options: {[mq.v1.consumer]: {group: "billing"}}
  method: {name: "OnPlaced" input_type: ".orders.Placed" output_type: ".google.protobuf.Empty"}
}`

// declareOrders declares what an application with orders would.
func declareOrders(t *testing.T, sidecar *client) {
	t.Helper()
	file := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(orders), file); err != nil {
		t.Fatal(err)
	}
	set, seen := new(descriptorpb.FileDescriptorSet), make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i))
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(emptypb.File_google_protobuf_empty_proto)
	add(mqv1.File_mq_v1_options_proto)
	set.File = append(set.File, file)
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(encoded)
	if _, err := sidecar.broker.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{
		DescriptorsHash: hash[:], Descriptors: set, Topics: []string{"orders.Placed"}, Subscriptions: []string{"orders.Billing/OnPlaced"},
	})); err != nil {
		t.Fatal(err)
	}
}

// bury makes a dead letter of the next message of the group and returns its id.
func bury(t *testing.T, sidecar *client) string {
	t.Helper()
	pulled, err := sidecar.broker.Pull(t.Context(), connect.NewRequest(&brokerv1.PullRequest{Group: "billing", Topic: "orders", Wait: durationpb.New(10 * time.Second)}))
	if err != nil || len(pulled.Msg.GetMessages()) != 1 {
		t.Fatalf("pulled %v, %v", pulled, err)
	}
	m := pulled.Msg.GetMessages()[0]
	reject := &brokerv1.Settlement_Reject_{Reject: &brokerv1.Settlement_Reject{Error: "no such customer"}}
	if _, err := sidecar.broker.Settle(t.Context(), connect.NewRequest(&brokerv1.SettleRequest{
		Group: "billing", Topic: "orders", Settlements: []*brokerv1.Settlement{{Token: m.GetToken(), Outcome: reject}},
	})); err != nil {
		t.Fatal(err)
	}
	return m.GetId()
}

// The commands and a real sidecar understand each other.
func TestCommandsAgainstASidecar(t *testing.T) {
	s := startServe(t, "--data-dir", t.TempDir(), "--socket", "none")
	c := &cli{addr: "http://" + s.Addr}
	sidecar, err := c.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer sidecar.close()
	declareOrders(t, sidecar)
	run := func(stdin string, args ...string) result {
		return mq(t, strings.NewReader(stdin), nil, append(args, "--addr", c.addr)...)
	}
	expect := func(status int, pattern string, args ...string) {
		t.Helper()
		got := run("", args...)
		if got.status != status || !regexp.MustCompile(`(?s)^`+pattern+`$`).MatchString(got.out+got.err) {
			t.Errorf("mq %s: status %d\n%s%swant status %d and\n%s", strings.Join(args, " "), got.status, got.out, got.err, status, pattern)
		}
	}
	run(`{"customer":"ann","cents":9007199254740993} {"customer":"ann","cents":2}`, "publish", "orders").want(t, 0,
		receiptHeader+"0-0         0          0           no\n0-1         0          1           no\n", "")
	expect(1, `mq: .*unknown field "cent".* \(SCHEMA_MISMATCH, messages\[0\]\.json\)\n`, "publish", "orders", `{"cent":1}`)
	expect(0, `NAME .*\norders +2 +pubsub +per_key +customer +168h +2 +billing\n`, "topics")
	expect(0, `topic: +orders\n.*\nbilling +orders\.Billing/OnPlaced .*\n\nsyntax = "proto3";\n.*message Placed \{.*`, "topic", "describe", "orders")
	expect(0, `\{"id":"0-0",.*"key":"YW5u","headers":\{\},"json":\{"cents":"9007199254740993","customer":"ann"\},"priority":0\}\n`,
		"tail", "orders", "--from", "earliest", "-n", "1")
	expect(0, `0-0 +\S+Z  ann  \{.*\}\n0-1 +\S+Z  ann  \{.*\}\n`, "tail", "orders", "--from", "earliest", "--stop-at-end", "-o", "table")
	expect(0, `GROUP .*\nbilling +orders +0 +0 +2 +2 .*billing +orders +total +- +- +2( +0){9} +-\n`, "groups", "billing")

	id := bury(t, sidecar)
	expect(0, fmt.Sprintf(`ID .*\n%s +%s +permanent +1 +\S+Z +ann +no such customer\n`, id, id), "dlq", "list", "billing", "orders")
	expect(0, `id: +`+id+`\n.*no such customer\nmessage:\n\{.*\}\n`, "dlq", "show", "billing", "orders", id)
	expect(0, `redriven: 1\n`, "dlq", "redrive", "billing", "orders", id)
	expect(1, `mq: .* \(MESSAGE_UNKNOWN, ids\)\nhint: .*`, "dlq", "redrive", "billing", "orders", id)
	if again := bury(t, sidecar); again != id {
		t.Errorf("redriven as %s, want %s", again, id)
	}
	expect(0, `discarded: 1\n`, "dlq", "discard", "billing", "orders", "--all", "--yes")
}
