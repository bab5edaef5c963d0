package mq

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// file builds a descriptor of an empty file with imports.
func file(t *testing.T, path string, imports ...protoreflect.FileDescriptor) protoreflect.FileDescriptor {
	t.Helper()
	known := &protoregistry.Files{}
	description := &descriptorpb.FileDescriptorProto{Name: proto.String(path), Syntax: proto.String("proto3")}
	register := func(f protoreflect.FileDescriptor) {
		if _, err := known.FindFileByPath(f.Path()); err != nil && !f.IsPlaceholder() {
			if err := known.RegisterFile(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range imports {
		description.Dependency = append(description.Dependency, f.Path())
		register(f)
	}
	built, err := protodesc.FileOptions{AllowUnresolvable: true}.New(description, known)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func TestFileSetHoldsEachFileOnceImportsFirst(t *testing.T) {
	base := file(t, "base.proto")
	left, right := file(t, "left.proto", base), file(t, "right.proto", base)
	root := file(t, "root.proto", left, right)
	set, err := newFileSet(root)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range set.descriptors.GetFile() {
		paths = append(paths, f.GetName())
	}
	if want := []string{"base.proto", "left.proto", "right.proto", "root.proto"}; !slices.Equal(paths, want) {
		t.Errorf("files %q, want %q", paths, want)
	}
	again, err := newFileSet(root)
	if err != nil || !slices.Equal(set.hash, again.hash) {
		t.Error("the hash differs from one time to the next")
	}
}

func TestFileSetNeedsEveryImport(t *testing.T) {
	missing := file(t, "missing.proto")
	broken := &descriptorpb.FileDescriptorProto{Name: proto.String("root.proto"), Syntax: proto.String("proto3"), Dependency: []string{missing.Path()}}
	root, err := protodesc.FileOptions{AllowUnresolvable: true}.New(broken, &protoregistry.Files{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = newFileSet(root)
	var e *Error
	if !errors.As(err, &e) || e.Reason != "BAD_DESCRIPTORS" {
		t.Errorf("error %v", err)
	}
}
