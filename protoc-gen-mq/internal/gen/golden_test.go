package gen_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

var update = flag.Bool("update", false, "rewrite the generated files in testdata")

const goldenModule = "module=github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen"

var goldenCases = []struct {
	name, parameter string
	files           []string
}{
	{"Orders", "", []string{"orders/v1/orders.proto", "orders/v1/more.proto"}},
	{"AnotherPackagesTopic", "", []string{"billing/v1/billing.proto"}},
	{"Names", "", []string{"names/names.proto"}},
	{"SamePackage", ",package_suffix=", []string{"same/v1/same.proto"}},
	{"Legacy", "", []string{"legacy/legacy.proto"}},
	{"Opaque", "", []string{"opaque/opaque.proto"}},
	{"Once", "", []string{"once/v1/once.proto"}},
	{"Timed", "", []string{"timed/v1/timed.proto"}},
	{"HandlerStyles", "", []string{"handlers/v1/handlers.proto"}},
	{"NamedLikeGeneratedTypes", "", []string{"like/like.proto", "like/publisher.proto"}},
	{"NoPackage", "", []string{"bare.proto"}},
	{"Hybrid", "", []string{"hybrid/hybrid.proto"}},
}

// The generated files lie in testdata/gen as Go packages that TestCompile builds and calls. Run with -update to write them anew,
// with those of protoc-gen-go beside them.
func TestGolden(t *testing.T) {
	for _, test := range goldenCases {
		t.Run(test.name, func(t *testing.T) {
			r := generate(t, request(t, onDisk(), goldenModule+test.parameter, test.files...))
			if r.GetError() != "" {
				t.Fatal(r.GetError())
			}
			if *update {
				write(t, r)
				write(t, protocGenGo(t, request(t, onDisk(), goldenModule, test.files...)))
			}
			if len(r.GetFile()) != len(test.files) {
				t.Errorf("got %s", names(r))
			}
			for _, f := range r.GetFile() {
				want, err := os.ReadFile(filepath.Join("testdata", "gen", f.GetName()))
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: %d lines", f.GetName(), strings.Count(f.GetContent(), "\n"))
				if f.GetContent() != string(want) {
					t.Errorf("%s differs; go test -update writes it anew. Got\n%s", f.GetName(), f.GetContent())
				}
			}
		})
	}
}

// A file generated alone is the same as one generated together with others.
func TestGoldenDoesNotDependOnTheRequest(t *testing.T) {
	together := generate(t, request(t, onDisk(), goldenModule, goldenCases[0].files...))
	for i, name := range goldenCases[0].files {
		alone := generate(t, request(t, onDisk(), goldenModule, name))
		if got, want := alone.GetFile()[0].GetContent(), together.GetFile()[i].GetContent(); got != want {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

func write(t *testing.T, r *pluginpb.CodeGeneratorResponse) {
	t.Helper()
	for _, f := range r.GetFile() {
		path := filepath.Join("testdata", "gen", f.GetName())
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.GetContent()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func protocGenGo(t *testing.T, request []byte) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "run", "google.golang.org/protobuf/cmd/protoc-gen-go")
	command.Stdin, command.Stderr = bytes.NewReader(request), os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	r := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(out, r); err != nil {
		t.Fatal(err)
	}
	if r.GetError() != "" {
		t.Fatal(r.GetError())
	}
	return r
}

func TestGoldenIsThin(t *testing.T) {
	r := generate(t, request(t, onDisk(), goldenModule, "orders/v1/orders.proto"))
	const topics, most = 6, 50
	if lines := strings.Count(r.GetFile()[0].GetContent(), "\n"); lines > topics*most {
		t.Errorf("%d lines for %d topics; at most %d a topic", lines, topics, most)
	}
}
