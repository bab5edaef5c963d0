package rules

import (
	"buf.build/go/bufplugin/check"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
)

// valid reports all that protoc-gen-mq would refuse.
func valid(req check.Request, w check.ResponseWriter) error {
	files, all := split(req.FileDescriptors())
	_, faults := topic.Load(files)
	for _, fault := range faults {
		at := []check.AddAnnotationOption{check.WithMessage(fault.Message)}
		for _, f := range all {
			if f.Path() == fault.File {
				at = append(at, check.WithFileNameAndSourcePath(fault.File, pathAt(f, fault)))
			}
		}
		w.AddAnnotation(at...)
	}
	return nil
}

// pathAt is the path of the innermost declaration or option that begins at the fault's place, nil if there is none.
func pathAt(f protoreflect.FileDescriptor, fault topic.Fault) protoreflect.SourcePath {
	var path protoreflect.SourcePath
	for i := range f.SourceLocations().Len() {
		l := f.SourceLocations().Get(i)
		if l.StartLine+1 == fault.Line && l.StartColumn+1 == fault.Column && len(l.Path) > len(path) {
			path = l.Path
		}
	}
	return path
}
