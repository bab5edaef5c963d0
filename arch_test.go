package typedmq_test

import (
	"encoding/json"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/typedmq/typedmq"

// Shorthands of what a package may import beside the standard library.
const (
	protobuf = "google.golang.org/protobuf"
	connect  = "connectrpc.com/connect"
	schemas  = "schemas/gen"
)

// architecture is the import order: each package, and what of this module and of others its code (not its tests) may import. An entry stands for
// itself and all below it. "std" alone means nothing but the standard library. A package that is not here fails the test: before
// adding it, say in one sentence what it knows that no other does.
var architecture = map[string][]string{
	// What the annotations mean, for the plugin and the sidecar alike.
	"internal/topic":        {"internal/filter", schemas, protobuf},
	"internal/topic/compat": {"internal/topic", protobuf}, // which changes of it break somebody
	"internal/filter":       {protobuf, "cel.dev/cel-go"},
	"internal/partition":    {},

	// The check that buf runs.
	"buf-plugin-mq":                {"buf-plugin-mq/internal/rules", "buf.build/go/bufplugin"},
	"buf-plugin-mq/internal/rules": {"internal/topic", schemas, protobuf, "buf.build/go/bufplugin"},

	// The plugin.
	"protoc-gen-mq":                {"protoc-gen-mq/internal/gen", protobuf},
	"protoc-gen-mq/internal/gen":   {"protoc-gen-mq/internal/model", "internal/topic", protobuf},
	"protoc-gen-mq/internal/model": {"internal/topic", protobuf},

	// The text of the annotations.
	"schemas": {"std"},

	// The SDK: connect, protobuf and our schemas, nothing else, whatever happens.
	"runtime/mq": {"internal/h2c", "internal/hook", "internal/partition", schemas, protobuf, connect},
	// How client and sidecar set up HTTP/2, each its end.
	"internal/h2c": {"std"},
	// What mqtest puts in the SDK's place.
	"internal/hook": {"std"},
	// What weighs more is imported by who wants it: what an interceptor makes of OpenTelemetry, and of protovalidate.
	"runtime/mq/mqotel":     {"runtime/mq", "go.opentelemetry.io/otel"},
	"runtime/mq/mqvalidate": {"runtime/mq", "buf.build/go/protovalidate", protobuf, connect},
	// How messages and the transactions of an SQL database go together. Drivers are the user's.
	"runtime/mqsql": {"runtime/mq", protobuf, connect},

	// The sidecar, from the pure core outwards.
	"sidecar/internal/mutant":              {"std"},
	"sidecar/internal/dispatch":            {"sidecar/internal/mutant"},
	"sidecar/internal/engine":              {"std"},
	"sidecar/internal/engine/enginetest":   {"sidecar/internal/engine"},
	"sidecar/internal/engine/memengine":    {"sidecar/internal/engine", "sidecar/internal/mutant"},
	"sidecar/internal/engine/pebbleengine": {"sidecar/internal/engine", "sidecar/internal/mutant", "github.com/cockroachdb/pebble/v2", "golang.org/x/sys"},
	"sidecar/internal/cluster":             {"sidecar/internal/engine"},
	"sidecar/internal/cluster/clustertest": {"sidecar/internal/cluster", "sidecar/internal/engine"},
	"sidecar/internal/cluster/memcluster":  {"sidecar/internal/cluster", "sidecar/internal/engine"},
	"sidecar/internal/cluster/etcdcluster": {"sidecar/internal/cluster", "sidecar/internal/engine", schemas, protobuf, "go.etcd.io/etcd", "go.etcd.io/bbolt", "go.uber.org/zap"},
	"sidecar/internal/schema":              {"internal/topic", protobuf, "github.com/jhump/protoreflect/v2"},
	"sidecar/internal/broker":              {"sidecar/internal/dispatch", "sidecar/internal/mutant", "sidecar/internal/engine", "sidecar/internal/cluster", "sidecar/internal/schema", "internal/partition", "internal/topic", "internal/filter", schemas, protobuf, "github.com/cespare/xxhash/v2"},
	"sidecar/internal/server":              {"internal/h2c", "sidecar/internal/broker", "sidecar/internal/engine", "internal/topic", schemas, protobuf, connect, "connectrpc.com/grpchealth", "connectrpc.com/grpcreflect"},
	"sidecar/internal/telemetry":           {connect, schemas},
	"sidecar/internal/sim":                 {"sidecar/internal/broker", "sidecar/internal/engine", "sidecar/internal/cluster", "sidecar/internal/mutant", "internal/topic", schemas, protobuf, "github.com/cockroachdb/pebble/v2/vfs"},
	"sidecar/internal/config":              {"go.yaml.in/yaml/v3", "github.com/agext/levenshtein"},
	"sidecar":                              {"sidecar/internal", connect},
	"sidecar/mqtest":                       {"runtime/mq", "internal/hook", "sidecar/internal", schemas, protobuf, connect},
	"sidecar/cmd/mq":                       {"sidecar", "internal/topic", "schemas", "github.com/bufbuild/protocompile", "sidecar/internal/config", "sidecar/internal/telemetry", schemas, protobuf, connect, "github.com/spf13/cobra", "github.com/spf13/pflag"},

	// What the promises cost, measured: tests only.
	"sidecar/internal/bench": {"std"},

	// What users would write.
	"bench":                   {"runtime/mq", "bench/gen", schemas, protobuf, connect},
	"bench/cmd/mqbench":       {"runtime/mq", "bench/gen", "bench/internal", schemas, protobuf, connect}, // what is worth measuring, and what must hold
	"bench/internal/hist":     {"std"},                                                                   // how durations are counted
	"bench/internal/plot":     {"std"},                                                                   // how bars are drawn
	"bench/internal/process":  {"golang.org/x/sys"},                                                      // what processes cost
	"examples/flights":        {"runtime/mq", "examples/flights/gen", "examples/internal/child", schemas, protobuf, connect},
	"examples/internal/child": {"std"},
	"examples/scenarios":      {"runtime/mq", "examples/scenarios/gen", "examples/internal/child", schemas, protobuf, connect},
}

// engines and their like: packages that only the composition root may import, and the sidecar that users' tests run.
var adapters = []string{
	"sidecar/internal/engine/memengine", "sidecar/internal/engine/pebbleengine",
	"sidecar/internal/cluster/memcluster", "sidecar/internal/cluster/etcdcluster",
}

type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Standard,Imports"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// generated tells packages whose code is generated: they import what their generator makes them.
func generated(rel string) bool {
	return strings.HasPrefix(rel, "schemas/gen/") || strings.Contains(rel, "/gen/") || strings.Contains(rel, "/testdata/")
}

func TestImportOrder(t *testing.T) {
	std := map[string]bool{}
	for _, p := range list(t, "std") {
		std[p.ImportPath] = true
	}
	seen := map[string]bool{}
	for _, p := range list(t, "./...") {
		rel := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if rel == "" || generated(rel) {
			continue
		}
		allowed, known := architecture[rel]
		seen[rel] = true
		if !known {
			t.Errorf("package %s is not in the table: add it with what it may import", rel)
			continue
		}
		for _, imp := range p.Imports {
			own := strings.TrimPrefix(imp, module+"/")
			if std[imp] || permitted(allowed, own) {
				continue
			}
			t.Errorf("package %s imports %s, which the table does not allow", rel, own)
		}
		for _, a := range adapters {
			if slices.Contains(p.Imports, module+"/"+a) && rel != "sidecar" && rel != "sidecar/mqtest" && rel != "sidecar/internal/sim" {
				t.Errorf("package %s imports the adapter %s: only the composition root, mqtest and the simulation do", rel, path.Base(a))
			}
		}
	}
	for rel := range architecture {
		if !seen[rel] {
			t.Errorf("the table lists %s, which does not exist", rel)
		}
	}
}

func permitted(allowed []string, imp string) bool {
	for _, a := range allowed {
		if imp == a || strings.HasPrefix(imp, a+"/") && a != "sidecar" {
			return true
		}
	}
	return false
}

// TestSDKClosure: whoever imports the SDK gets connect and protobuf and nothing else.
func TestSDKClosure(t *testing.T) {
	for _, p := range list(t, "-deps", "./runtime/mq") {
		ok := p.Standard || strings.HasPrefix(p.ImportPath, connect) || strings.HasPrefix(p.ImportPath, protobuf) ||
			strings.HasPrefix(p.ImportPath, module+"/schemas/gen/") || strings.HasPrefix(p.ImportPath, module+"/runtime/") ||
			p.ImportPath == module+"/internal/hook" || p.ImportPath == module+"/internal/h2c" || p.ImportPath == module+"/internal/partition"
		if !ok {
			t.Errorf("runtime/mq depends on %s", p.ImportPath)
		}
	}
}

// TestOneImporterPerEngine: each engine's library is imported by its adapter alone.
func TestOneImporterPerEngine(t *testing.T) {
	owner := map[string]string{
		"github.com/cockroachdb/pebble": "sidecar/internal/engine/pebbleengine",
		"go.etcd.io/etcd":               "sidecar/internal/cluster/etcdcluster",
		"cel.dev/cel-go":                "internal/filter",
	}
	for _, p := range list(t, "./...") {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			if rel == "sidecar/internal/sim" && imp == "github.com/cockroachdb/pebble/v2/vfs" {
				continue // a disk that loses power is Pebble's
			}
			for lib, by := range owner {
				if strings.HasPrefix(imp, lib) && rel != by {
					t.Errorf("package %s imports %s, which belongs to %s", rel, imp, by)
				}
			}
		}
	}
}
