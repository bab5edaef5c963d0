package typedmq_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var update = flag.Bool("update", false, "write docs/reference.md anew")

// TestReference: docs/reference.md is what the comments of options.proto say. make generate writes it.
func TestReference(t *testing.T) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{"schemas"}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(t.Context(), "mq/v1/options.proto")
	if err != nil {
		t.Fatal(err)
	}
	want := reference(t, files[0])
	if *update {
		if err := os.WriteFile("docs/reference.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/reference.md is stale: run make generate")
	}
}

// reference renders the annotations in the order of the file.
func reference(t *testing.T, f protoreflect.FileDescriptor) string {
	comment := func(d protoreflect.Descriptor) string {
		text := strings.Join(strings.Fields(f.SourceLocations().ByDescriptor(d).LeadingComments), " ")
		if text == "" {
			t.Errorf("%s has no comment", d.FullName())
		}
		return strings.ReplaceAll(text, "|", `\|`)
	}
	var out strings.Builder
	out.WriteString("<!-- Generated from schemas/mq/v1/options.proto by make generate. Edit the comments there. -->\n\n# Annotations\n\n" +
		"What one writes into `.proto` files that import `mq/v1/options.proto`. What the settings promise is in [semantics.md](semantics.md). Durations are\n" +
		"`google.protobuf.Duration`: `{seconds: 90}`, `{nanos: 500000000}`. All settings are optional unless it says otherwise.\n\n" +
		"| annotation | of a | is a | |\n|---|---|---|---|\n")
	for i := range f.Extensions().Len() {
		x := f.Extensions().Get(i)
		of := strings.ToLower(strings.TrimSuffix(string(x.ContainingMessage().Name()), "Options"))
		if of == "method" {
			of = "rpc"
		}
		fmt.Fprintf(&out, "| `(%s)` | %s | %s | %s |\n", x.FullName(), of, typeOf(x), comment(x))
	}
	for i := range f.Messages().Len() {
		m := f.Messages().Get(i)
		fmt.Fprintf(&out, "\n## %s\n\n%s\n", m.Name(), comment(m))
		for j := range m.Fields().Len() {
			field := m.Fields().Get(j)
			if j == 0 {
				out.WriteString("\n| setting | type | |\n|---|---|---|\n")
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s |\n", field.Name(), typeOf(field), comment(field))
		}
	}
	for i := range f.Enums().Len() {
		e := f.Enums().Get(i)
		fmt.Fprintf(&out, "\n## %s\n\n%s\n\n| value | |\n|---|---|\n", e.Name(), comment(e))
		for j := range e.Values().Len() {
			if v := e.Values().Get(j); v.Number() != 0 {
				fmt.Fprintf(&out, "| `%s` | %s |\n", v.Name(), comment(v))
			}
		}
	}
	return out.String()
}

// typeOf links types of the same file.
func typeOf(f protoreflect.FieldDescriptor) string {
	name := f.Kind().String()
	var of protoreflect.Descriptor
	switch {
	case f.IsMap():
		return fmt.Sprintf("map of %s to %s", f.MapKey().Kind(), f.MapValue().Kind())
	case f.Enum() != nil:
		of = f.Enum()
	case f.Message() != nil:
		of = f.Message()
	}
	switch {
	case of == nil:
	case of.ParentFile().Path() == f.ParentFile().Path():
		name = fmt.Sprintf("[%s](#%s)", of.Name(), strings.ToLower(string(of.Name())))
	default:
		name = string(of.Name())
	}
	if f.IsList() {
		return "list of " + name
	}
	return name
}

// A block of Go code in docs that is compiled follows a line with this comment. Whole files and declarations stand as they are, the rest in a function.
var compiled = regexp.MustCompile("(?s)<!-- compiled -->\n+```go\n(.*?)```")

// fragment is what code in docs may use without saying so.
const fragment = `package snippet

import (
	"context"
	"errors"
	"time"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/examples/flights/gen/air/rebooking/v1/rebookingv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

var (
	_ = errors.Is
	_ time.Duration
	_ *flightsv1.FlightDeparted
	_ = flightsv1mq.NewFlightEventsPublisher
	_ = rebookingv1mq.RegisterRebookingConsumer
)

type rebooking struct{}

`

// TestCodeInDocs builds the Go code of docs against this module.
func TestCodeInDocs(t *testing.T) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	dir := t.TempDir()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var packages []string
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range compiled.FindAllSubmatch(text, -1) {
			code := string(block[1])
			switch {
			case strings.Contains(code, "package "):
			case strings.HasPrefix(code, "func "):
				code = strings.TrimSuffix(fragment, "\n") + code
				if !strings.Contains(code, ") OnDeparted(") {
					code += "\nfunc (*rebooking) OnDeparted(context.Context, *flightsv1.FlightDeparted) error { return nil }\n"
				}
			default:
				code = fragment + "func (*rebooking) OnDeparted(context.Context, *flightsv1.FlightDeparted) error { return nil }\n\n" +
					"func _(ctx context.Context, client *mq.Client, pub flightsv1mq.FlightEventsPublisher, msg *flightsv1.FlightDeparted) (err error) {\n" + code +
					"\nreturn err\n}\n"
			}
			name := fmt.Sprintf("%s_%d", strings.TrimSuffix(filepath.Base(doc), ".md"), i+1)
			file := filepath.Join(dir, name+".go")
			if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay.Replace[filepath.Join(root, "docs", name, "code.go")] = file
			packages = append(packages, "./docs/"+name)
		}
	}
	if len(packages) < 5 {
		t.Fatalf("docs have %d compiled blocks; is the comment spelt otherwise?", len(packages))
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"build", "-overlay", file, "-o", os.DevNull}, packages...)...).CombinedOutput()
	if err != nil {
		t.Errorf("code in docs does not compile: %v\n%s", err, out)
	}
}

// A block that is a file begins with its path in a comment.
var fileBlock = regexp.MustCompile("(?s)```(?:proto|yaml|go)\n(?:#|//) ([a-z0-9_./]+)\n(.*?)```")

// guideModule is the module that the guide makes.
const guideModule = "example.com/air"

// TestGuide does what the guide says: its files, as they stand, are linted, generated from and compiled, and a change that breaks somebody is refused. Needs what
// tools/go.mod lists. The buf files are those of mq init.
func TestGuide(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.FromSlash(name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	run := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	files := map[string]string{}
	for _, block := range fileBlock.FindAllSubmatch(text, -1) {
		name, content := string(block[1]), string(block[2])
		files[name] = content
		write(name, content)
	}
	want := []string{
		"buf.gen.yaml", "buf.yaml", "consumer/main.go", "proto/air/flights/v1/flights.proto", "proto/air/rebooking/v1/rebooking.proto", "publisher/main.go",
	}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Fatalf("the guide has the files %q, not %q", got, want)
	}
	for _, name := range []string{"buf.yaml", "buf.gen.yaml"} {
		if template := strings.ReplaceAll(read("sidecar/cmd/mq/template/"+name+".tmpl"), "{{.Module}}", guideModule); files[name] != template {
			t.Errorf("%s of the guide is not that of mq init, which is\n%s", name, template)
		}
	}
	write("third_party/mq/v1/options.proto", read("schemas/mq/v1/options.proto"))
	mod := strings.Replace(read("go.mod"), "module "+module+"\n", "module "+guideModule+"\n", 1)
	mod += "\nrequire " + module + " v0.0.0\n\nreplace " + module + " => " + root + "\n\ntool (\n\t" + module + "/buf-plugin-mq\n\t" + module +
		"/protoc-gen-mq\n\tgoogle.golang.org/protobuf/cmd/protoc-gen-go\n)\n"
	write("go.mod", mod)
	write("go.sum", read("go.sum"))

	out, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile=tools/go.mod", "-n", "buf").Output()
	if err != nil {
		t.Fatalf("build buf: %v", err)
	}
	buf := strings.TrimSpace(string(out))
	for _, command := range [][]string{{buf, "lint"}, {buf, "generate"}, {"go", "vet", "./..."}, {buf, "breaking", "--against", "."}} {
		if out, err := run(command[0], command[1:]...); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
	}

	const flights = "proto/air/flights/v1/flights.proto"
	if err := os.CopyFS(filepath.Join(dir, "before"), os.DirFS(filepath.Join(dir, "proto"))); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "before"), os.DirFS(filepath.Join(dir, "third_party"))); err != nil {
		t.Fatal(err)
	}
	write(flights, strings.Replace(files[flights], `"flights.departed"`, `"departures"`, 1))
	if out, err := run(buf, "breaking", "--against", "before"); err == nil || !strings.Contains(out, `topic "flights.departed": name`) {
		t.Errorf("buf breaking of a topic with another name: %v\n%s", err, out)
	}
}
