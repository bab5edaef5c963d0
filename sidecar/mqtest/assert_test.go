package mqtest

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// recorder is a test that fails in words.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

// TestSensitiveFieldsAreComparedAndNotShown: what a test prints ends in the logs of a build.
func TestSensitiveFieldsAreComparedAndNotShown(t *testing.T) {
	secret := &descriptorpb.FieldOptions{}
	proto.SetExtension(secret, mqv1.E_Field, &mqv1.FieldOptions{Sensitive: proto.Bool(true)})
	field := func(name string, number int32, options *descriptorpb.FieldOptions) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{
			Name: &name, Number: &number, Options: options, Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("card.proto"), Syntax: proto.String("proto3"), Dependency: []string{"mq/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Card"), Field: []*descriptorpb.FieldDescriptorProto{field("holder", 1, nil), field("number", 2, secret)},
		}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	card := func(holder, number string) proto.Message {
		m := dynamicpb.NewMessage(file.Messages().Get(0))
		m.Set(m.Descriptor().Fields().ByName("holder"), protoreflect.ValueOfString(holder))
		m.Set(m.Descriptor().Fields().ByName("number"), protoreflect.ValueOfString(number))
		return m
	}
	r := &recorder{TB: t}
	assertSame(r, "cards", []proto.Message{card("ann", "4000")}, []proto.Message{card("ann", "4000")})
	if len(r.said) > 0 {
		t.Fatalf("of equal cards it says %q", r.said)
	}
	assertSame(r, "cards", []proto.Message{card("ann", "4000")}, []proto.Message{card("ann", "5000")})
	if len(r.said) != 1 || !strings.Contains(r.said[0], `holder:"ann"`) || !strings.Contains(r.said[0], "not shown") || strings.Contains(r.said[0], "000") {
		t.Errorf("of cards with other numbers it says %q", r.said)
	}
}
