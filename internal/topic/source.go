package topic

import (
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// SourceOf returns the path, among the source locations of d's file, of what annotates d: (mq.v1.topic) of a message, (mq.v1.field) of a field,
// (mq.v1.consumer) of a service, (mq.v1.subscribe) of an rpc; and in it of the field that fields lead to. Where the file knows no place for that, the
// path is that of the nearest thing around it, at last of d itself. It is nil without source information.
func SourceOf(d protoreflect.Descriptor, fields ...protoreflect.FieldNumber) protoreflect.SourcePath {
	var p place
	switch d := d.(type) {
	case protoreflect.MessageDescriptor:
		p = topicPlace(d)
	case protoreflect.FieldDescriptor:
		p = fieldPlace(d)
	case protoreflect.ServiceDescriptor:
		p = consumerPlace(d)
	case protoreflect.MethodDescriptor:
		p = subscribePlace(d)
	default:
		p = place{element: d}
	}
	locations := d.ParentFile().SourceLocations()
	element := locations.ByDescriptor(d).Path
	if len(element) == 0 {
		return nil
	}
	path := append(slices.Clone(element), p.at(fields...).option...)
	for ; len(path) > len(element); path = path[:len(path)-1] {
		if len(locations.ByPath(path).Path) > 0 {
			return path
		}
	}
	return element
}
