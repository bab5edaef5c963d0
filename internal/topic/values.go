package topic

import (
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// HeaderValue is a header of one message.
type HeaderValue struct{ Name, Value string }

// KeyOf returns the key of a message, nil if the topic has no key. Strings give their UTF-8 bytes, bytes themselves, integers
// decimal text; a field that is not set gives its default. The result may share memory with m. m must be of the
// topic's type, but may come from another copy of its descriptor.
func (t *Topic) KeyOf(m protoreflect.Message) []byte {
	if len(t.Key) == 0 {
		return nil
	}
	last := len(t.Key) - 1
	for _, f := range t.Key[:last] {
		m = get(m, f).Message()
	}
	field := t.Key[last]
	v := get(m, field)
	switch field.Kind() {
	case protoreflect.BytesKind:
		return v.Bytes()
	case protoreflect.StringKind:
		return []byte(v.String())
	}
	return []byte(text(field, v))
}

// HeadersOf returns the headers of a message in the order of Topic.Headers: strings as they are, integers in decimal, booleans
// "true" or "false", enums the name of the value, or its number if it has no name. Fields that are not set give their
// defaults. m is as in KeyOf.
func (t *Topic) HeadersOf(m protoreflect.Message) []HeaderValue {
	if len(t.Headers) == 0 {
		return nil
	}
	values := make([]HeaderValue, len(t.Headers))
	for i, h := range t.Headers {
		values[i] = HeaderValue{h.Name, text(h.Field, get(m, h.Field))}
	}
	return values
}

// get reads f even if m has another copy of f's descriptor: one linked into the program, the other uploaded.
func get(m protoreflect.Message, f protoreflect.FieldDescriptor) protoreflect.Value {
	if m.Descriptor() != f.ContainingMessage() {
		f = m.Descriptor().Fields().ByNumber(f.Number())
	}
	return m.Get(f)
}

func text(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return x
	case bool:
		return strconv.FormatBool(x)
	case int32:
		return strconv.FormatInt(int64(x), 10)
	case int64:
		return strconv.FormatInt(x, 10)
	case uint32:
		return strconv.FormatUint(uint64(x), 10)
	case uint64:
		return strconv.FormatUint(x, 10)
	case protoreflect.EnumNumber:
		if value := f.Enum().Values().ByNumber(x); value != nil {
			return string(value.Name())
		}
		return strconv.Itoa(int(x))
	}
	panic("topic: " + string(f.FullName()) + " is neither a key nor a header")
}
