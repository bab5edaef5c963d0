package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func TestExplainAFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	mustInit(t, dir)
	root := filepath.Join(dir, "proto")
	status, out, errs := command(t, "explain", filepath.Join(root, "shipping/v1/shipping.proto"), "--proto_path", root)
	if status != 0 {
		t.Fatal(errs)
	}
	want := `group shipping, topic orders.placed, rpc shipping.v1.Shipping/OnOrderPlaced
SETTING                    VALUE          FROM
filter                     msg.items > 0  the rpc, shipping/v1/shipping.proto:27:7
retry.max_attempts         5              the service's defaults, shipping/v1/shipping.proto:17:9
retry.initial_interval     1s             the service's defaults, shipping/v1/shipping.proto:18:9
retry.max_interval         1m             the service's defaults, shipping/v1/shipping.proto:19:9
retry.backoff_coefficient  2              built in
`
	if !strings.HasPrefix(out, want) {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}

	_, out, _ = command(t, "explain", "shipping/v1/shipping.proto", "-I", root, "-o", "json")
	var answer struct{ Subscriptions []explained }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatal(err)
	}
	first := setting{"filter", "msg.items > 0", "rpc", "shipping/v1/shipping.proto:27:7"}
	if len(answer.Subscriptions) != 1 || answer.Subscriptions[0].Settings[0] != first {
		t.Errorf("answered %s", out)
	}

	// A folder and a file in it mean the same however they are written.
	t.Chdir(dir)
	for _, args := range [][]string{
		{"proto/shipping/v1/shipping.proto", "-I", root}, {filepath.Join(root, "shipping/v1/shipping.proto"), "-I", "proto"}, {"shipping/v1/shipping.proto", "-I", "proto"},
	} {
		status, got, errs := command(t, append([]string{"explain"}, args...)...)
		if status != 0 || !strings.HasPrefix(got, want) {
			t.Errorf("mq explain %q: status %d, %s%s", args, status, got, errs)
		}
	}

	_, out, _ = command(t, "explain", "orders/v1/orders.proto", "-I", root)
	if out != "nobody subscribes\n" {
		t.Errorf("of a file without consumers: %q", out)
	}
}

func TestExplainTellsWhatIsWrongWithAFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const head = "syntax = \"proto3\";\nimport \"mq/v1/options.proto\";\nimport \"google/protobuf/empty.proto\";\n"
	write("syntax.proto", "syntax = \"proto3\";\nmessage A { nonsense }\nmessage B { int32 a = 0; }\n")
	write("import.proto", "syntax = \"proto3\";\nimport \"other.proto\";\n")
	write("fault.proto", head+"message A {}\nservice S {\n  option (mq.v1.consumer).group = \"g\";\n  rpc On(A) returns (google.protobuf.Empty);\n}\n")
	for name, want := range map[string][]string{
		"gone.proto":   {"gone.proto is not in", "--proto_path"},
		"syntax.proto": {"syntax.proto:2:"},
		"import.proto": {"other.proto", "--proto_path"},
		"fault.proto":  {"fault.proto:7:3: rpc On handles A, which is no topic"},
	} {
		status, out, errs := command(t, "explain", name, "--proto_path", dir)
		for _, text := range want {
			if status == 0 || out != "" || !strings.Contains(errs, text) {
				t.Errorf("%s: status %d, printed %q and %q, should tell of %q", name, status, out, errs, text)
			}
		}
	}
}

func TestExplainATopic(t *testing.T) {
	newFake(t, &adminv1.DescribeTopicResponse{Subscriptions: []*adminv1.Subscription{
		{Group: "rebooking", Topic: "flights.departed", Rpc: "a.S/On", Settings: []*adminv1.Setting{{Name: "lease", Value: "30s", Source: "default"}}},
		{Group: "board", Topic: "flights.departed", Rpc: "a.B/On", Settings: []*adminv1.Setting{{Name: "filter", Value: "true\x1b", Source: "rpc"}}},
	}}).mq(t, "", "explain", "flights.departed").want(t, 0, `group board, topic flights.departed, rpc a.B/On
SETTING  VALUE     FROM
filter   true\x1b  the rpc

group rebooking, topic flights.departed, rpc a.S/On
SETTING  VALUE  FROM
lease    30s    built in
`, "")
}
