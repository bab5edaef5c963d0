package gen_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/gofeaturespb"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen"
)

const schemas = "../../../schemas"

// request is what protoc sends to a plugin for files of a folder, as bytes.
func request(t testing.TB, resolver protocompile.Resolver, parameter string, files ...string) []byte {
	t.Helper()
	compiler := protocompile.Compiler{
		Resolver: protocompile.CompositeResolver{
			resolver,
			&protocompile.SourceResolver{ImportPaths: []string{schemas}},
			protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
				if path == gofeaturespb.File_google_protobuf_go_features_proto.Path() {
					return protocompile.SearchResult{Desc: gofeaturespb.File_google_protobuf_go_features_proto}, nil
				}
				return protocompile.SearchResult{}, os.ErrNotExist
			}),
		},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiler.Resolver = protocompile.WithStandardImports(compiler.Resolver)
	compiled, err := compiler.Compile(t.Context(), files...)
	if err != nil {
		t.Fatal(err)
	}
	r := &pluginpb.CodeGeneratorRequest{FileToGenerate: files, Parameter: proto.String(parameter)}
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
	for _, f := range compiled {
		add(f)
	}
	encoded, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// generate runs the plugin as its main function does.
func generate(t testing.TB, request []byte) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	r := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(request, r); err != nil {
		t.Fatal(err)
	}
	var flags flag.FlagSet
	suffix := flags.String("package_suffix", "mq", "")
	plugin, err := protogen.Options{ParamFunc: flags.Set}.New(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := gen.Generate(plugin, *suffix); err != nil {
		plugin.Error(err)
	}
	return plugin.Response()
}

// onDisk resolves the .proto files of testdata.
func onDisk() protocompile.Resolver {
	return &protocompile.SourceResolver{ImportPaths: []string{filepath.Join("testdata", "proto")}}
}

// inMemory resolves the given .proto files.
func inMemory(sources map[string]string) protocompile.Resolver {
	return &protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(sources)}
}

// names lists the generated files.
func names(r *pluginpb.CodeGeneratorResponse) string {
	var list []string
	for _, f := range r.GetFile() {
		list = append(list, f.GetName())
	}
	return strings.Join(list, " ")
}

func TestResponseFeatures(t *testing.T) {
	r := generate(t, request(t, onDisk(), "", "plain.proto"))
	if r.GetError() != "" || len(r.GetFile()) != 0 {
		t.Errorf("nothing to generate: got %q and %s", r.GetError(), names(r))
	}
	if r.GetSupportedFeatures()&uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL) == 0 ||
		r.GetSupportedFeatures()&uint64(pluginpb.CodeGeneratorResponse_FEATURE_SUPPORTS_EDITIONS) == 0 ||
		descriptorpb.Edition(r.GetMaximumEdition()) != descriptorpb.Edition_EDITION_2024 {
		t.Errorf("features %b up to edition %d", r.GetSupportedFeatures(), r.GetMaximumEdition())
	}
}

// In edition 2024 files import the annotations for options only, and have the Opaque API by default.
func TestEdition2024(t *testing.T) {
	r := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(request(t, onDisk(), "", "opaque/opaque.proto"), r); err != nil {
		t.Fatal(err)
	}
	file := r.GetProtoFile()[len(r.GetProtoFile())-1]
	file.Edition = descriptorpb.Edition_EDITION_2024.Enum()
	file.Options.Features = nil
	file.Dependency = []string{"google/protobuf/empty.proto", "google/protobuf/timestamp.proto"}
	file.OptionDependency = []string{"mq/v1/options.proto"}
	encoded, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	response := generate(t, encoded)
	if response.GetError() != "" || len(response.GetFile()) != 1 ||
		!strings.Contains(response.GetFile()[0].GetContent(), "strconv.AppendInt(nil, m.GetNumber(), 10)") {
		t.Errorf("got %v", response)
	}
}

func TestPaths(t *testing.T) {
	const module = "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen"
	for parameter, want := range map[string]string{
		"":                                      module + "/orders/v1/ordersv1mq/more.mq.go",
		"paths=source_relative":                 "orders/v1/ordersv1mq/more.mq.go",
		"module=" + module:                      "orders/v1/ordersv1mq/more.mq.go",
		"paths=source_relative,package_suffix=": "orders/v1/more.mq.go",
		"paths=source_relative,package_suffix=events":                                 "orders/v1/ordersv1events/more.mq.go",
		"Morders/v1/more.proto=example.com/x;y,Morders/v1/orders.proto=example.com/z": "example.com/x/ymq/more.mq.go",
	} {
		r := generate(t, request(t, onDisk(), parameter, "orders/v1/more.proto"))
		if got := names(r); got != want || r.GetError() != "" {
			t.Errorf("%s: got %q and %q", parameter, got, r.GetError())
		}
	}
	r := generate(t, request(t, onDisk(), "package_suffix=a-b", "orders/v1/more.proto"))
	if !strings.Contains(r.GetError(), `package_suffix "a-b"`) {
		t.Errorf("got %q", r.GetError())
	}
}
