package schema

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// plan is what is needed of a message type to walk its encoding.
type plan struct {
	fields map[protowire.Number]*field
	low    [16]*field // those of them whose tags have one byte: a map takes longer than the rest of checking a field
}

// field finds a field by its number, nil if it is unknown.
func (p *plan) field(num protowire.Number) *field {
	if num < protowire.Number(len(p.low)) {
		return p.low[num]
	}
	return p.fields[num]
}

type field struct {
	name   protoreflect.Name
	wire   protowire.Type
	packed bool // may also come packed, as bytes
	utf8   bool
	sub    *plan
}

func newPlan(m protoreflect.MessageDescriptor) *plan {
	return planOf(m, make(map[protoreflect.FullName]*plan))
}

func planOf(m protoreflect.MessageDescriptor, made map[protoreflect.FullName]*plan) *plan {
	if p, ok := made[m.FullName()]; ok {
		return p
	}
	p := &plan{fields: make(map[protowire.Number]*field, m.Fields().Len())}
	made[m.FullName()] = p
	for i := range m.Fields().Len() {
		fd := m.Fields().Get(i)
		f := &field{name: fd.Name(), wire: wireType(fd.Kind())}
		f.packed = fd.IsList() && f.wire != protowire.BytesType && f.wire != protowire.StartGroupType
		f.utf8 = fd.Kind() == protoreflect.StringKind && validatesUTF8(fd)
		if sub := fd.Message(); sub != nil {
			f.sub = planOf(sub, made)
		}
		p.fields[fd.Number()] = f
		if n := int(fd.Number()); n < len(p.low) {
			p.low[n] = f
		}
	}
	return p
}

// validatesUTF8 tells whether protobuf checks the strings of a field: proto3 does, proto2 does not, editions say.
func validatesUTF8(f protoreflect.FieldDescriptor) bool {
	if e, ok := f.(interface{ EnforceUTF8() bool }); ok {
		return e.EnforceUTF8()
	}
	return f.Syntax() == protoreflect.Proto3
}

func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}

// check walks an encoding. A field of another wire type than its own is unknown to protobuf, but here it is most likely
// another message: it is refused.
func (p *plan) check(b []byte, depth int) error {
	if depth == 0 {
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := p.field(num)
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		if f != nil {
			if err := f.check(num, typ, b[:size], depth); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}

func (f *field) check(num protowire.Number, typ protowire.Type, value []byte, depth int) error {
	if typ != f.wire && !(f.packed && typ == protowire.BytesType) {
		return fmt.Errorf("field %d (%s) has wire type %d, not %d", num, f.name, typ, f.wire)
	}
	switch {
	case typ == protowire.StartGroupType:
		group, _ := protowire.ConsumeGroup(num, value)
		return f.within(f.sub.check(group, depth-1))
	case typ != protowire.BytesType:
		return nil
	}
	content, _ := protowire.ConsumeBytes(value)
	switch {
	case f.sub != nil:
		return f.within(f.sub.check(content, depth-1))
	case f.utf8 && !utf8.Valid(content):
		return fmt.Errorf("field %d (%s) is not UTF-8", num, f.name)
	case f.packed:
		return f.checkPacked(num, content)
	}
	return nil
}

func (f *field) checkPacked(num protowire.Number, b []byte) error {
	for len(b) > 0 {
		n := protowire.ConsumeFieldValue(num, f.wire, b)
		if n < 0 {
			return fmt.Errorf("field %d (%s): %w", num, f.name, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return nil
}

// within names the field that an error is in.
func (f *field) within(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", f.name, err)
}
