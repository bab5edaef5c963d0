package topic_test

import (
	"os"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

const header = `syntax = "proto3";
package air.v1;
import "mq/v1/options.proto";
import "google/protobuf/empty.proto";
`

// compile compiles the named files of sources, with source information as protoc gives it and, with detail, as buf does.
func compile(t testing.TB, sources map[string]string, detail bool, names ...string) []protoreflect.FileDescriptor {
	t.Helper()
	options, err := os.ReadFile("../../schemas/mq/v1/options.proto")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"mq/v1/options.proto": string(options)}
	for name, source := range sources {
		all[name] = source
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(all)}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	if detail {
		compiler.SourceInfoMode |= protocompile.SourceInfoExtraOptionLocations
	}
	files, err := compiler.Compile(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	descriptors := make([]protoreflect.FileDescriptor, len(files))
	for i, f := range files {
		descriptors[i] = f
	}
	return descriptors
}

// uploaded is files as a sidecar gets them: encoded, decoded without the extensions, and linked anew.
func uploaded(t testing.TB, files []protoreflect.FileDescriptor) []protoreflect.FileDescriptor {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
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
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, f := range files {
		add(f)
	}
	encoded, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	set = &descriptorpb.FileDescriptorSet{}
	if err := (proto.UnmarshalOptions{Resolver: new(protoregistry.Types)}).Unmarshal(encoded, set); err != nil {
		t.Fatal(err)
	}
	linked, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]protoreflect.FileDescriptor, len(files))
	for i, f := range files {
		if out[i], err = linked.FindFileByPath(f.Path()); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
