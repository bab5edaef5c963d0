package schema

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/internal/topic"
)

// MaxDepth bounds how deep messages may nest.
const MaxDepth = 100

// Codec gives the payloads of one topic a meaning. It is safe for concurrent use.
type Codec struct {
	set       *Set
	message   protoreflect.MessageDescriptor
	plan      *plan
	sensitive bool
}

// Codec returns the codec of a topic of the set.
func (s *Set) Codec(t *topic.Topic) *Codec {
	return &Codec{set: s, message: t.Message, plan: newPlan(t.Message), sensitive: hasSensitive(t.Message, nil)}
}

// Sensitive tells whether a field of the message, or of one inside it, must never be printed.
func (c *Codec) Sensitive() bool { return c.sensitive }

// Decode reads a payload.
func (c *Codec) Decode(payload []byte) (protoreflect.Message, error) {
	m := dynamicpb.NewMessage(c.message)
	opts := proto.UnmarshalOptions{Resolver: c.set.types, RecursionLimit: MaxDepth}
	if err := opts.Unmarshal(payload, m); err != nil {
		return nil, fmt.Errorf("payload is no %s: %w", c.message.FullName(), err)
	}
	return m, nil
}

// Validate tells whether Decode would succeed, without decoding.
func (c *Codec) Validate(payload []byte) error {
	if err := c.plan.check(payload, MaxDepth); err != nil {
		return fmt.Errorf("payload is no %s: %w", c.message.FullName(), err)
	}
	return nil
}

// FromJSON reads a message in JSON: unknown fields and values out of range are errors.
func (c *Codec) FromJSON(in *structpb.Struct) (protoreflect.Message, error) {
	if err := checkNumbers(c.message, in); err != nil {
		return nil, fmt.Errorf("json is no %s: %w", c.message.FullName(), err)
	}
	text, err := protojson.Marshal(in)
	if err != nil {
		return nil, err
	}
	m := dynamicpb.NewMessage(c.message)
	opts := protojson.UnmarshalOptions{Resolver: c.set.types, RecursionLimit: MaxDepth}
	if err := opts.Unmarshal(text, m); err != nil {
		// protojson varies its spaces so that nobody relies on its texts; people and tests do better with one text.
		return nil, fmt.Errorf("json is no %s: %s", c.message.FullName(), strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return m, nil
}

// Marshal encodes a message deterministically.
func Marshal(m protoreflect.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
}

// ToJSON shows a payload to people: fields with their defaults, sensitive ones left out.
func (c *Codec) ToJSON(payload []byte) (*structpb.Struct, error) {
	m, err := c.Decode(payload)
	if err != nil {
		return nil, err
	}
	if c.sensitive {
		ClearSensitive(m)
	}
	text, err := protojson.MarshalOptions{Resolver: c.set.types, EmitDefaultValues: true}.Marshal(m.Interface())
	if err != nil {
		return nil, err
	}
	out := new(structpb.Struct)
	if err := protojson.Unmarshal(text, out); err != nil {
		return nil, err
	}
	return out, nil
}

// ProtoText prints the file that declares the topic's message.
func (c *Codec) ProtoText() (string, error) {
	var out bytes.Buffer
	var p protoprint.Printer
	if err := p.PrintProtoFile(c.message.ParentFile(), &out); err != nil {
		return "", err
	}
	return out.String(), nil
}

// hasSensitive tells whether a field of the message, or of one inside it, is sensitive.
func hasSensitive(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen == nil {
		seen = make(map[protoreflect.FullName]bool)
	}
	if seen[m.FullName()] {
		return false
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if topic.Sensitive(f) || f.Message() != nil && hasSensitive(f.Message(), seen) {
			return true
		}
	}
	return false
}

// ClearSensitive takes the sensitive fields out of a message and of those inside it.
func ClearSensitive(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case topic.Sensitive(f):
			m.Clear(f)
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					ClearSensitive(v.Message())
					return true
				})
			}
		case f.IsList():
			if f.Message() != nil {
				for i := range v.List().Len() {
					ClearSensitive(v.List().Get(i).Message())
				}
			}
		case f.Message() != nil:
			ClearSensitive(v.Message())
		}
		return true
	})
}
