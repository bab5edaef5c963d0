package rules_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	descriptorv1 "buf.build/gen/go/bufbuild/bufplugin/protocolbuffers/go/buf/plugin/descriptor/v1"
	"buf.build/go/bufplugin/check"
	"buf.build/go/bufplugin/descriptor"
	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/buf-plugin-mq/internal/rules"
)

// cases are the directories of one kind in testdata.
func cases(t *testing.T, kind string) []string {
	t.Helper()
	dirs, err := filepath.Glob("../../testdata/" + kind + "/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases of %s: %v", kind, err)
	}
	return dirs
}

// want is what a case expects, "" for nothing.
func want(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "want"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// compile reads air.proto of a directory, or source if dir is "", as buf sends it to plugins.
func compile(t *testing.T, dir, source string) []descriptor.FileDescriptor {
	t.Helper()
	if dir != "" {
		text, err := os.ReadFile(filepath.Join(dir, "air.proto"))
		if err != nil {
			t.Fatal(err)
		}
		source = string(text)
	}
	options, err := os.ReadFile("../../../schemas/mq/v1/options.proto")
	if err != nil {
		t.Fatal(err)
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(
			map[string]string{"air.proto": source, "mq/v1/options.proto": string(options)})}),
		SourceInfoMode: protocompile.SourceInfoStandard | protocompile.SourceInfoExtraOptionLocations,
	}
	linked, err := compiler.Compile(t.Context(), "air.proto")
	if err != nil {
		t.Fatal(err)
	}
	var all []*descriptorv1.FileDescriptor
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor, bool)
	add = func(f protoreflect.FileDescriptor, imported bool) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor, true)
		}
		all = append(all, descriptorv1.FileDescriptor_builder{FileDescriptorProto: protodesc.ToFileDescriptorProto(f), IsImport: imported}.Build())
	}
	add(linked[0], false)
	files, err := descriptor.FileDescriptorsForProtoFileDescriptors(all)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// run checks files as buf does, with all rules or with those of ids.
func run(t *testing.T, files, against []descriptor.FileDescriptor, ids ...string) (lines []string, places []string) {
	t.Helper()
	client, err := check.NewClientForSpec(rules.Spec())
	if err != nil {
		t.Fatal(err)
	}
	req, err := check.NewRequest(files, check.WithAgainstFileDescriptors(against), check.WithRuleIDs(ids...))
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Check(t.Context(), req)
	if err != nil {
		return []string{"error: " + err.Error()}, nil
	}
	for _, a := range got.Annotations() {
		lines = append(lines, a.RuleID()+": "+a.Message())
		if l := a.FileLocation(); l != nil {
			places = append(places, fmt.Sprintf("%s:%d:%d", l.FileDescriptor().ProtoreflectFileDescriptor().Path(), l.StartLine()+1, l.StartColumn()+1))
		}
	}
	return lines, places
}

func ids(kind check.RuleType) []string {
	var all []string
	for _, r := range rules.Spec().Rules {
		if r.Type == kind && r.Default {
			all = append(all, r.ID)
		}
	}
	return all
}

func TestSpec(t *testing.T) {
	if err := check.ValidateSpec(rules.Spec()); err != nil {
		t.Fatal(err)
	}
}

// TestBreaking: each change of a contract is found by one rule in one line, and each safe one by none.
func TestBreaking(t *testing.T) {
	found := map[string]bool{}
	for _, dir := range cases(t, "breaking") {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			lines, places := run(t, compile(t, filepath.Join(dir, "after"), ""), compile(t, filepath.Join(dir, "before"), ""), ids(check.RuleTypeBreaking)...)
			if got := strings.Join(lines, "\n"); got != want(t, dir) {
				t.Errorf("got\n%s\nwant\n%s", got, want(t, dir))
			}
			if len(lines) != len(places) {
				t.Errorf("%d lines have %d places", len(lines), len(places))
			}
			for _, line := range lines {
				found[line[:strings.Index(line, ":")]] = true
			}
		})
	}
	for _, id := range ids(check.RuleTypeBreaking) {
		if !found[id] {
			t.Errorf("no case of testdata/breaking breaks %s", id)
		}
	}
}

// TestLint: each case is refused by the one rule that it is for.
func TestLint(t *testing.T) {
	found := map[string]bool{}
	for _, dir := range cases(t, "lint") {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			lines, _ := run(t, compile(t, dir, ""), nil, ids(check.RuleTypeLint)...)
			var got []string
			for _, line := range lines {
				got = append(got, line[:strings.Index(line, ":")])
			}
			if !slices.Equal(got, strings.Fields(want(t, dir))) {
				t.Errorf("got %v, want %q", lines, want(t, dir))
			}
			for _, id := range got {
				found[id] = true
			}
		})
	}
	for _, id := range ids(check.RuleTypeLint) {
		if !found[id] {
			t.Errorf("no case of testdata/lint breaks %s", id)
		}
	}
}

const flights = `syntax = "proto3";
package air.v1;
import "google/protobuf/empty.proto";
import "mq/v1/options.proto";
message Departed {
  option (mq.v1.topic) = {name: "departed" partitions: 4};
  string to = 1;
}
service Board {
  option (mq.v1.consumer) = {group: "board"};
  rpc OnDeparted(Departed) returns (google.protobuf.Empty) {
    option (mq.v1.subscribe) = {filter: "msg.to == 'LAX'"};
  }
}
`

// TestPlaces: a line points at the setting, not only at its message.
func TestPlaces(t *testing.T) {
	before := compile(t, "", flights)
	for _, test := range []struct{ old, new, place string }{
		{"partitions: 4", "partitions: 8", "air.proto:6:44"},
		{`group: "board"`, `group: "screens"`, "air.proto:10:30"},
		{`(mq.v1.subscribe) = {`, `(mq.v1.subscribe) = {retry: {max_attempts: 2} `, "air.proto:12:41"},
		{`  option (mq.v1.topic) = {name: "departed" partitions: 4};` + "\n", "", "air.proto:5:1"},
	} {
		after := strings.Replace(flights, test.old, test.new, 1)
		if test.new == "" { // nobody may handle what is no topic
			after = after[:strings.Index(after, "service")]
		}
		_, places := run(t, compile(t, "", after), before, ids(check.RuleTypeBreaking)...)
		if !slices.Contains(places, test.place) {
			t.Errorf("%s: got %v, want %s", test.new, places, test.place)
		}
	}
}

// TestFilterIsOptional: a changed filter is told only to who asks for it.
func TestFilterIsOptional(t *testing.T) {
	before, after := compile(t, "", flights), compile(t, "", strings.Replace(flights, "LAX", "SFO", 1))
	if lines, _ := run(t, after, before); len(lines) > 0 {
		t.Errorf("without being asked: %q", lines)
	}
	lines, _ := run(t, after, before, "MQ_SUBSCRIPTION_FILTER")
	if len(lines) != 1 || !strings.Contains(lines[0], `filter: "msg.to == 'LAX'" became "msg.to == 'SFO'"`) {
		t.Errorf("got %q", lines)
	}
}

// TestFaults: what is wrong now is an error and not compared; what was wrong before is no excuse.
func TestFaults(t *testing.T) {
	wrong := compile(t, "", strings.Replace(flights, "partitions: 4", "partitions: 0", 1))
	if lines, _ := run(t, wrong, compile(t, "", flights), "MQ_TOPIC_PARTITIONS"); len(lines) != 1 || !strings.Contains(lines[0], "partitions 0: must be 1 to 1024") {
		t.Errorf("got %q", lines)
	}
	if lines, _ := run(t, compile(t, "", strings.Replace(flights, `name: "departed"`, `name: "left"`, 1)), wrong, "MQ_TOPIC_NAME"); len(lines) != 1 {
		t.Errorf("got %q", lines)
	}
}

// TestFilterHeaderSaysWhatThereIs: the line names what the filter reads and what the topic has, and points at the filter.
func TestFilterHeaderSaysWhatThereIs(t *testing.T) {
	lines, places := run(t, compile(t, "../../testdata/lint/filter_header", ""), nil, "MQ_FILTER_HEADER")
	if len(lines) != 1 || !strings.Contains(lines[0], `reads the headers ["destnation"], and topic "departed" has ["destination"]`) || !slices.Equal(places, []string{"air.proto:17:33"}) {
		t.Errorf("got %q at %v", lines, places)
	}
}
