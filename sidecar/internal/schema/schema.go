// Package schema holds the descriptors that users upload: it checks and resolves them, reads the topics and subscriptions that they
// declare (package internal/topic says what those mean), and gives payloads a meaning: decode, validate, to and from JSON.
//
// It does not store anything; the broker's catalogue does.
package schema

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/typedmq/typedmq/internal/topic"
)

// MaxBytes bounds the encoding of an uploaded descriptor set.
const MaxBytes = 4 << 20

// The reasons for which descriptors are refused.
const (
	TooLarge      = "DESCRIPTOR_TOO_LARGE"
	Cycle         = "DESCRIPTOR_IMPORT_CYCLE"
	MissingImport = "DESCRIPTOR_MISSING_IMPORT"
	Duplicate     = "DESCRIPTOR_DUPLICATE"
	Reserved      = "DESCRIPTOR_RESERVED"
	Invalid       = "DESCRIPTOR_INVALID"
)

// Error says why descriptors are refused.
type Error struct{ Reason, Detail string }

func (e *Error) Error() string { return "schema: " + e.Detail }

// Set is one upload: files that resolve among themselves, and what they declare. It is read-only.
type Set struct {
	// Hash is the SHA-256 of the deterministic encoding.
	Hash [sha256.Size]byte
	// Proto is the upload as it came.
	Proto *descriptorpb.FileDescriptorSet
	// Declared are the topics and subscriptions of its files.
	Declared *topic.Set

	files *protoregistry.Files
	types *dynamicpb.Types
}

// Parse checks an upload. Files that are part of protobuf or of typedmq itself are replaced by this program's own.
// Errors: *Error; topic.Faults when the annotations are at fault.
func Parse(fds *descriptorpb.FileDescriptorSet) (*Set, error) {
	set, faults, err := loadFiles(fds)
	if err == nil && len(faults) > 0 {
		return nil, faults
	}
	return set, err
}

// ParseStored is Parse for descriptors that an earlier version may have accepted: settings that contradict each other by a rule that came later are
// no error. Such a setting has the effect that it always had.
func ParseStored(fds *descriptorpb.FileDescriptorSet) (*Set, error) {
	set, faults, err := loadFiles(fds)
	for _, f := range faults {
		if err == nil && f.Reason != topic.Contradiction {
			return nil, faults
		}
	}
	return set, err
}

func loadFiles(fds *descriptorpb.FileDescriptorSet) (*Set, topic.Faults, error) {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(fds)
	if err != nil {
		return nil, nil, &Error{Invalid, err.Error()}
	}
	if len(encoded) > MaxBytes {
		return nil, nil, &Error{TooLarge, fmt.Sprintf("descriptors of %d bytes: at most %d are allowed", len(encoded), MaxBytes)}
	}
	own, err := withOwnFiles(fds)
	if err != nil {
		return nil, nil, err
	}
	if err := checkImports(own); err != nil {
		return nil, nil, err
	}
	files, err := protodesc.NewFiles(own)
	if err != nil {
		return nil, nil, &Error{reasonOf(err), err.Error()}
	}
	var all []protoreflect.FileDescriptor
	for _, f := range own.File {
		d, err := files.FindFileByPath(f.GetName())
		if err != nil {
			return nil, nil, &Error{Invalid, err.Error()}
		}
		all = append(all, d)
	}
	declared, faults := topic.Load(all)
	return &Set{Hash: sha256.Sum256(encoded), Proto: fds, Declared: declared, files: files, types: dynamicpb.NewTypes(files)}, faults, nil
}

// withOwnFiles replaces files of protobuf and typedmq by the ones linked into this program, and refuses others in their packages.
func withOwnFiles(fds *descriptorpb.FileDescriptorSet) (*descriptorpb.FileDescriptorSet, error) {
	out := &descriptorpb.FileDescriptorSet{}
	for _, f := range fds.GetFile() {
		ours := strings.HasPrefix(f.GetName(), "google/protobuf/") || f.GetName() == "mq/v1/options.proto"
		if !ours && (inPackage(f.GetPackage(), "google.protobuf") || inPackage(f.GetPackage(), "mq.v1")) {
			return nil, &Error{Reserved, fmt.Sprintf("file %q declares package %s, which is reserved", f.GetName(), f.GetPackage())}
		}
		if !ours {
			out.File = append(out.File, f)
			continue
		}
		linked, err := protoregistry.GlobalFiles.FindFileByPath(f.GetName())
		if err != nil {
			return nil, &Error{Reserved, fmt.Sprintf("file %q is not part of this version of protobuf", f.GetName())}
		}
		out.File = append(out.File, protodesc.ToFileDescriptorProto(linked))
	}
	return out, nil
}

func inPackage(name, pkg string) bool { return name == pkg || strings.HasPrefix(name, pkg+".") }

// checkImports finds files that are named twice, missing, or import themselves by way of others.
func checkImports(fds *descriptorpb.FileDescriptorSet) error {
	byName := make(map[string]*descriptorpb.FileDescriptorProto, len(fds.File))
	for _, f := range fds.File {
		if byName[f.GetName()] != nil {
			return &Error{Duplicate, fmt.Sprintf("file %q is there twice", f.GetName())}
		}
		byName[f.GetName()] = f
	}
	const open, done = 1, 2
	mark := make(map[string]int, len(byName))
	var visit func(f *descriptorpb.FileDescriptorProto) error
	visit = func(f *descriptorpb.FileDescriptorProto) error {
		mark[f.GetName()] = open
		for _, name := range f.GetDependency() {
			imported := byName[name]
			switch {
			case imported == nil:
				return &Error{MissingImport, fmt.Sprintf("file %q imports %q, which is not there", f.GetName(), name)}
			case mark[name] == open:
				return &Error{Cycle, fmt.Sprintf("file %q imports %q, which imports it", f.GetName(), name)}
			case mark[name] == 0:
				if err := visit(imported); err != nil {
					return err
				}
			}
		}
		mark[f.GetName()] = done
		return nil
	}
	for _, f := range fds.File {
		if mark[f.GetName()] == 0 {
			if err := visit(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// reasonOf tells duplicate names from other faults that protodesc finds.
func reasonOf(err error) string {
	if s := err.Error(); strings.Contains(s, "already defined") || strings.Contains(s, "already declared") || strings.Contains(s, "name conflict") {
		return Duplicate
	}
	return Invalid
}

// Topic returns the topic of a message by its full name.
func (s *Set) Topic(message string) (*topic.Topic, bool) {
	return s.Declared.ByMessage(protoreflect.FullName(message))
}

// Subscription returns the subscription of an rpc, "package.Service/Method".
func (s *Set) Subscription(rpc string) (*topic.Subscription, bool) {
	for _, sub := range s.Declared.Subscriptions {
		if sub.RPC == rpc {
			return sub, true
		}
	}
	return nil, false
}
