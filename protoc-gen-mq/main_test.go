// These tests build the plugin and run it. They are in its package so that the go tool does not take their results from its cache when the plugin
// has changed.

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugin is the path of the plugin, built as users get it, without a C library.
var plugin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "protoc-gen-mq")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	plugin = filepath.Join(dir, "protoc-gen-mq.exe")
	command := exec.Command("go", "build", "-o", plugin, ".")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := command.CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
	} else {
		code = m.Run()
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// request is what protoc sends for one file.
func request(t testing.TB, source string) []byte {
	t.Helper()
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(protocompile.CompositeResolver{
			&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(map[string]string{"many.proto": source})},
			&protocompile.SourceResolver{ImportPaths: []string{"../schemas"}},
		}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(t.Context(), "many.proto")
	if err != nil {
		t.Fatal(err)
	}
	r := &pluginpb.CodeGeneratorRequest{FileToGenerate: []string{"many.proto"}, Parameter: proto.String("paths=source_relative")}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		r.ProtoFile = append(r.ProtoFile, protodesc.ToFileDescriptorProto(f))
	}
	add(files[0])
	encoded, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// many is a file of topics, each with a key and a header, a publisher and a filtered consumer.
func many(topics int) string {
	var messages, publishers, consumers strings.Builder
	for i := range topics {
		fmt.Fprintf(&messages, `
// M%[1]d is a topic.
message M%[1]d {
  option (mq.v1.topic) = {name: "m.%[1]d"};
  string id = 1 [(mq.v1.field).key = true];
  int32 delay = 2 [(mq.v1.field).header = "delay"];
}
`, i)
		fmt.Fprintf(&publishers, "  // Sent%[1]d is sent.\n  rpc Sent%[1]d(M%[1]d) returns (google.protobuf.Empty);\n", i)
		fmt.Fprintf(&consumers, "  rpc OnM%[1]d(M%[1]d) returns (google.protobuf.Empty) {\n    option (mq.v1.subscribe).filter = \"msg.delay > %[1]d && headers['x'] != 'y'\";\n  }\n", i)
	}
	return "syntax = \"proto3\";\npackage many;\nimport \"google/protobuf/empty.proto\";\nimport \"mq/v1/options.proto\";\n" +
		"option go_package = \"example.com/many\";\n" + messages.String() +
		"service P {\n  option (mq.v1.publisher) = {};\n" + publishers.String() + "}\n" +
		"service C {\n  option (mq.v1.consumer).group = \"c\";\n" + consumers.String() + "}\n"
}

// run runs a plugin in an empty folder, by the arguments before it and with the environment given.
func run(t testing.TB, request []byte, env []string, plugin ...string) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	in := filepath.Join(t.TempDir(), "request")
	if err := os.WriteFile(in, request, 0o600); err != nil {
		t.Fatal(err)
	}
	stdin, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	command := exec.CommandContext(t.Context(), plugin[0], plugin[1:]...)
	var out, errs bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = stdin, &out, &errs
	command.Dir, command.Env = t.TempDir(), env
	if err := command.Run(); err != nil {
		t.Fatalf("%v\n%.2000s", err, errs.String())
	}
	if left, err := os.ReadDir(command.Dir); err != nil || len(left) > 0 || errs.Len() > 0 {
		t.Errorf("it left %v and said %q: %v", left, errs.String(), err)
	}
	r := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(out.Bytes(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// The plugin needs nothing but its request, and answers the same request with the same bytes.
func TestGoldenWithoutFilesAndNetwork(t *testing.T) {
	r := request(t, many(20))
	first := run(t, r, []string{}, plugin)
	if first.GetError() != "" || len(first.GetFile()) != 1 {
		t.Fatalf("%d files and %s", len(first.GetFile()), first.GetError())
	}
	// The three descriptors that it is given are all it may have: whatever opens a file or a socket fails. The collector is off since its timers
	// have a descriptor of their own.
	if runtime.GOOS == "linux" {
		for range 5 {
			again := run(t, r, []string{"GOGC=off"}, "/bin/sh", "-c", `ulimit -n 3 && exec "$0"`, plugin)
			if !proto.Equal(again, first) {
				t.Fatal("another answer to the same request")
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if p == "net" || p == "os/exec" || p == "plugin" {
			t.Errorf("the plugin depends on %s", p)
		}
	}
}

// Five hundred topics take at most a second, process and all, and at most fifty lines each.
func TestGoldenOfManyTopics(t *testing.T) {
	const topics, mostLines, mostTime = 500, 50, time.Second
	r := request(t, many(topics))
	best := time.Hour
	var lines int
	for range 5 {
		start := time.Now()
		response := run(t, r, nil, plugin)
		best = min(best, time.Since(start))
		if response.GetError() != "" {
			t.Fatal(response.GetError())
		}
		lines = strings.Count(response.GetFile()[0].GetContent(), "\n")
	}
	t.Logf("%d topics, each with a publisher and a filtered consumer: %v, %.1f lines a topic", topics, best.Round(time.Millisecond), float64(lines)/topics)
	if best > mostTime {
		t.Errorf("generated in %v, want at most %v", best, mostTime)
	}
	if lines > topics*mostLines {
		t.Errorf("%d lines for %d topics, want at most %d a topic", lines, topics, mostLines)
	}
	alone := run(t, request(t, many(1)), nil, plugin)
	lines = strings.Count(alone.GetFile()[0].GetContent(), "\n")
	t.Logf("one topic alone: %d lines, of which %d are the head of the file", lines, head(alone))
	if lines-head(alone) > mostLines {
		t.Errorf("one topic has %d lines, want at most %d", lines-head(alone), mostLines)
	}
}

// head is the number of lines that a file has once: all to the handshake.
func head(r *pluginpb.CodeGeneratorResponse) int {
	before, _, _ := strings.Cut(r.GetFile()[0].GetContent(), "const _ =")
	return strings.Count(before, "\n") + 2
}

// A hundred thousand rpcs, every one of them faulty: every fault is told, and nothing is generated.
func TestErrorsOfManyRPCs(t *testing.T) {
	const rpcs = 100_000
	r := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(request(t, many(1)), r); err != nil {
		t.Fatal(err)
	}
	file := r.GetProtoFile()[len(r.GetProtoFile())-1]
	publisher := file.GetService()[0]
	first := publisher.GetMethod()[0]
	first.OutputType = first.InputType
	file.SourceCodeInfo = &descriptorpb.SourceCodeInfo{}
	publisher.Method = nil
	for i := range int32(rpcs) {
		m := proto.CloneOf(first)
		m.Name = proto.String(fmt.Sprint("R", i))
		publisher.Method = append(publisher.Method, m)
		file.SourceCodeInfo.Location = append(file.SourceCodeInfo.Location, &descriptorpb.SourceCodeInfo_Location{Path: []int32{6, 0, 2, i}, Span: []int32{10 + i, 0, 20}})
	}
	encoded, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	response := run(t, encoded, nil, plugin)
	lines := strings.Split(response.GetError(), "\n")
	t.Logf("%d faults in %v, the last: %s", len(lines), time.Since(start).Round(time.Millisecond), lines[len(lines)-1])
	const last = "many.proto:100010:1: rpc R99999 returns many.M0, so it is a call, which one group answers; make topic \"m.0\" DELIVERY_QUEUE, or write returns (google.protobuf.Empty)"
	if len(lines) != rpcs || lines[len(lines)-1] != last || len(response.GetFile()) != 0 {
		t.Errorf("%d faults and %d files", len(lines), len(response.GetFile()))
	}
}

func TestVersion(t *testing.T) {
	for _, test := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"--version"}, 0, "protoc-gen-mq ", ""},
		{[]string{"--help"}, 0, "protoc-gen-mq is run by buf or protoc", ""},
		{[]string{"--verson"}, 2, "", "protoc-gen-mq is run by buf or protoc"},
		{[]string{"--version", "x"}, 2, "", "protoc-gen-mq is run by buf or protoc"},
	} {
		var out, errs strings.Builder
		command := exec.CommandContext(t.Context(), plugin, test.args...)
		command.Stdout, command.Stderr = &out, &errs
		if err := command.Run(); command.ProcessState == nil {
			t.Fatal(err)
		}
		if command.ProcessState.ExitCode() != test.code || !begins(out.String(), test.stdout) || !begins(errs.String(), test.stderr) {
			t.Errorf("%v: %v, %q and %q", test.args, command.ProcessState, out.String(), errs.String())
		}
	}
}

func begins(text, prefix string) bool {
	return strings.HasPrefix(text, prefix) && (prefix == "") == (text == "")
}
