package schema

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// exact is the first magnitude at which a double, which is what a JSON number has become on its way here, may not be the number that was written.
const exact = 1 << 53

// checkNumbers refuses a number that may have lost digits where the schema has a 64-bit integer. Written in quotes it keeps them.
func checkNumbers(m protoreflect.MessageDescriptor, in *structpb.Struct) error {
	for name, value := range in.GetFields() {
		f := m.Fields().ByJSONName(name)
		if f == nil {
			f = m.Fields().ByName(protoreflect.Name(name))
		}
		if f == nil {
			continue // the decoder says so
		}
		if err := checkNumber(f, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func checkNumber(f protoreflect.FieldDescriptor, value *structpb.Value) error {
	if f.IsMap() {
		for _, v := range value.GetStructValue().GetFields() {
			if err := checkNumber(f.MapValue(), v); err != nil {
				return err
			}
		}
		return nil
	}
	switch v := value.GetKind().(type) {
	case *structpb.Value_ListValue:
		for _, v := range v.ListValue.GetValues() {
			if err := checkNumber(f, v); err != nil {
				return err
			}
		}
	case *structpb.Value_StructValue:
		if f.Message() != nil {
			return checkNumbers(f.Message(), v.StructValue)
		}
	case *structpb.Value_NumberValue:
		switch f.Kind() {
		case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
			if math.Abs(v.NumberValue) >= exact {
				return fmt.Errorf("the number may have lost digits: write integers from 2^53 on in quotes")
			}
		}
	}
	return nil
}
