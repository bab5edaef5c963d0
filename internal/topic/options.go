package topic

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// Number of the field options in the descriptors of messages, fields, services and methods.
const (
	messageOptions = 7
	fieldOptions   = 8
	serviceOptions = 3
	methodOptions  = 4
)

const optionsPath = "mq/v1/options.proto"

// annotated tells whether a file may use the annotations, that is, imports them. Without the import the same extension
// numbers belong to somebody else.
func annotated(file protoreflect.FileDescriptor) bool {
	if importsOptions(file.Imports(), false, map[string]bool{}) {
		return true
	}
	// Since edition 2024 a file can import for options only, and lists these imports apart.
	f, ok := file.(interface {
		OptionImports() protoreflect.FileImports
	})
	return ok && importsOptions(f.OptionImports(), false, map[string]bool{})
}

// importsOptions follows public imports, to each file once.
func importsOptions(imports protoreflect.FileImports, publicOnly bool, seen map[string]bool) bool {
	for i := range imports.Len() {
		f := imports.Get(i)
		if publicOnly && !f.IsPublic || seen[f.Path()] {
			continue
		}
		seen[f.Path()] = true
		if f.Path() == optionsPath || f.Package() == "mq.v1" && f.Extensions().ByName("topic") != nil {
			return true
		}
		if importsOptions(f.Imports(), true, seen) {
			return true
		}
	}
	return false
}

// optionReader reads annotations however the descriptors were made: with the extensions parsed as our Go types, as dynamic ones
// or not at all.
type optionReader struct{ types *protoregistry.Types }

func newOptionReader() optionReader {
	r := optionReader{new(protoregistry.Types)}
	for _, x := range []protoreflect.ExtensionType{
		mqv1.E_Topic, mqv1.E_Field, mqv1.E_Publisher, mqv1.E_Consumer, mqv1.E_Publish, mqv1.E_Subscribe,
	} {
		if err := r.types.RegisterExtension(x); err != nil {
			panic(err) // six constant names and numbers that differ
		}
	}
	return r
}

func (r optionReader) topic(d protoreflect.MessageDescriptor) (*mqv1.TopicOptions, error) {
	return read[*mqv1.TopicOptions](r, d, &descriptorpb.MessageOptions{}, mqv1.E_Topic)
}

func (r optionReader) field(d protoreflect.FieldDescriptor) (*mqv1.FieldOptions, error) {
	return read[*mqv1.FieldOptions](r, d, &descriptorpb.FieldOptions{}, mqv1.E_Field)
}

func (r optionReader) publisher(d protoreflect.ServiceDescriptor) (*mqv1.PublisherOptions, error) {
	return read[*mqv1.PublisherOptions](r, d, &descriptorpb.ServiceOptions{}, mqv1.E_Publisher)
}

func (r optionReader) consumer(d protoreflect.ServiceDescriptor) (*mqv1.ConsumerOptions, error) {
	return read[*mqv1.ConsumerOptions](r, d, &descriptorpb.ServiceOptions{}, mqv1.E_Consumer)
}

func (r optionReader) publish(d protoreflect.MethodDescriptor) (*mqv1.PublishOptions, error) {
	return read[*mqv1.PublishOptions](r, d, &descriptorpb.MethodOptions{}, mqv1.E_Publish)
}

func (r optionReader) subscribe(d protoreflect.MethodDescriptor) (*mqv1.SubscribeOptions, error) {
	return read[*mqv1.SubscribeOptions](r, d, &descriptorpb.MethodOptions{}, mqv1.E_Subscribe)
}

// read returns the option x of d, nil if d does not have it.
func read[O proto.Message](r optionReader, d protoreflect.Descriptor, into proto.Message, x protoreflect.ExtensionType) (O, error) {
	var none O
	source := d.Options()
	if source == nil || !source.ProtoReflect().IsValid() {
		return none, nil
	}
	encoded, err := proto.MarshalOptions{AllowPartial: true}.Marshal(source)
	if err != nil {
		return none, err
	}
	if len(encoded) == 0 {
		return none, nil
	}
	if err := (proto.UnmarshalOptions{AllowPartial: true, Resolver: r.types}).Unmarshal(encoded, into); err != nil {
		return none, err
	}
	if !proto.HasExtension(into, x) {
		return none, nil
	}
	option := proto.GetExtension(into, x).(O)
	return option, unknown(option.ProtoReflect())
}

// unknown complains of settings that were made with a newer version of the annotations: to ignore them would be to do something
// else than the file says.
func unknown(m protoreflect.Message) error {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%s has a setting that this version of typedmq does not know", m.Descriptor().FullName())
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if !m.Has(f) || f.IsMap() || f.IsList() {
			continue
		}
		v := m.Get(f)
		if f.Enum() != nil && f.Enum().Values().ByNumber(v.Enum()) == nil {
			return fmt.Errorf("%s has the value %d, which this version of typedmq does not know", f.Name(), v.Enum())
		}
		if f.Message() != nil {
			if err := unknown(v.Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Sensitive tells whether a field is annotated never to be printed by tools or logs.
func Sensitive(f protoreflect.FieldDescriptor) bool {
	if proto.Size(f.Options()) == 0 || !annotated(f.ParentFile()) {
		return false
	}
	o, err := newOptionReader().field(f)
	return err == nil && o.GetSensitive()
}
