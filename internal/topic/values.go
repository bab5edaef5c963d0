package topic

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

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

// IDOf returns the id by which a second publish of a message is recognised, "" if the topic derives none from its messages: strings as they are,
// integers in decimal, bytes in hexadecimal. A field that is not set gives its default. m is as in KeyOf.
func (t *Topic) IDOf(m protoreflect.Message) string {
	if t.Dedupe.ID == nil {
		return ""
	}
	v := get(m, t.Dedupe.ID)
	if t.Dedupe.ID.Kind() == protoreflect.BytesKind {
		return hex.EncodeToString(v.Bytes())
	}
	return text(t.Dedupe.ID, v)
}

// PriorityOf returns the priority of a message, 1 for the lowest to Topic.PriorityLevels, or 0 if the topic derives none from its messages or the
// field has its default. The error names a value out of bounds. m is as in KeyOf.
func (t *Topic) PriorityOf(m protoreflect.Message) (uint32, error) {
	if t.Priority == nil {
		return 0, nil
	}
	n := text(t.Priority, get(m, t.Priority))
	level, err := strconv.ParseUint(n, 10, 32) // of any kind of integer: what does not parse is out of bounds
	if err != nil || level > uint64(t.PriorityLevels) {
		return 0, fmt.Errorf("field %s: priority %s: must be 0 to %d", t.Priority.Name(), n, t.PriorityLevels)
	}
	return uint32(level), nil
}

// DeliverAtOf returns the instant before which a message is not to be delivered, the zero time if the topic derives none from its messages or the
// field is not set. The error tells that the field is no instant, or one before 1970. m is as in KeyOf.
func (t *Topic) DeliverAtOf(m protoreflect.Message) (time.Time, error) {
	if t.DeliverAt == nil {
		return time.Time{}, nil
	}
	at := get(m, t.DeliverAt).Message()
	if !at.IsValid() { // not set
		return time.Time{}, nil
	}
	fields := at.Descriptor().Fields()
	seconds, nanos := at.Get(fields.ByNumber(1)).Int(), at.Get(fields.ByNumber(2)).Int()
	const first, last = -62_135_596_800, 253_402_300_799 // years 1 to 9999, as google.protobuf.Timestamp has it
	if seconds < first || seconds > last || nanos < 0 || nanos >= int64(time.Second) {
		return time.Time{}, fmt.Errorf("field %s: %d s and %d ns since 1970 is no instant of the years 1 to 9999", t.DeliverAt.Name(), seconds, nanos)
	}
	instant := time.Unix(seconds, nanos)
	if seconds < 0 {
		return time.Time{}, fmt.Errorf("field %s: %s: must not lie before 1970", t.DeliverAt.Name(), instant.UTC().Format(time.RFC3339Nano))
	}
	return instant, nil
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
