package compat_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/internal/topic/compat"
)

// load reads the one topic of a message M with options and fields.
func load(t *testing.T, options, fields string) *topic.Topic {
	t.Helper()
	annotations, err := os.ReadFile("../../../schemas/mq/v1/options.proto")
	if err != nil {
		t.Fatal(err)
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(map[string]string{
			"mq/v1/options.proto": string(annotations),
			"m.proto": `syntax = "proto3"; package air.v1; import "mq/v1/options.proto"; message M { option (mq.v1.topic) = {name: "m" ` + options + `}; ` +
				fields + ` } message I { string id = 1; }`,
		})}),
	}
	files, err := compiler.Compile(t.Context(), "m.proto")
	if err != nil {
		t.Fatal(err)
	}
	set, faults := topic.Load([]protoreflect.FileDescriptor{files[0]})
	if faults != nil {
		t.Fatal(faults)
	}
	return set.Topics[0]
}

// TestFixed: what a sidecar refuses, and in which order it tells.
func TestFixed(t *testing.T) {
	const fields = `string a = 1; I b = 2;`
	base := load(t, `key: "a"`, fields)
	for _, test := range []struct{ options, fields, want string }{
		{`key: "a" retention: {seconds: 5} max_message_bytes: 7 ttl: {seconds: 1}`, fields, "[]"},
		{`key: "aa"`, `string aa = 1; I b = 2;`, "[]"},
		{`key: "a"`, `bytes a = 1; I b = 2;`, "[]"},
		{`key: "a"`, `int64 a = 1; I b = 2;`, "[key: a (field 1, text) became a (field 1, decimal)]"},
		{`key: "a"`, `string a = 3; I b = 2;`, "[key: a (field 1, text) became a (field 3, text)]"},
		{`key: "b.id" partitions: 8`, fields, "[key: a became b.id partitions: 16 became 8]"},
		{``, fields, "[key: a became none ordering: per_key became none]"},
		{`key: "a" partitions: 8 delivery: DELIVERY_QUEUE`, fields, "[partitions: 16 became 8 delivery: pubsub became queue]"},
		{`key: "a" ordering: ORDERING_PER_PARTITION`, fields, "[ordering: per_key became per_partition]"},
		{`key: "a" ordering: ORDERING_NONE priority_levels: 3`, fields, "[ordering: per_key became none priority_levels: 1 became 3]"},
	} {
		if got := fmt.Sprint(compat.Fixed(base, load(t, test.options, test.fields))); got != test.want {
			t.Errorf("%s: got %s, want %s", test.options, got, test.want)
		}
	}
	other := *base
	other.Message = base.Message.ParentFile().Messages().ByName("I")
	if got := fmt.Sprint(compat.Fixed(base, &other)); got != "[message: air.v1.M became air.v1.I]" {
		t.Errorf("got %s", got)
	}
}
