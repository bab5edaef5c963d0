package model

import (
	"fmt"
	"go/token"
	"path"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/typedmq/typedmq/internal/topic"
)

// badGoName is the reason of a fault that only this generator finds: two declarations become one Go name.
const badGoName = "BAD_GO_NAME"

// Build returns the files to generate for the plugin's request, none for .proto files without annotations. Suffix is added to the
// names of the messages' Go packages; if it is empty, code goes into these packages. All faults are returned at once, as
// topic.Faults.
func Build(plugin *protogen.Plugin, suffix string) ([]*File, error) {
	if suffix != "" && !token.IsIdentifier("x"+suffix) {
		return nil, fmt.Errorf("package_suffix %q: must be empty or consist of letters, digits and '_'", suffix)
	}
	var sources []protoreflect.FileDescriptor
	for _, f := range plugin.Files {
		if f.Generate {
			sources = append(sources, f.Desc)
		}
	}
	set, faults := topic.Load(sources)
	b := &builder{
		suffix:        suffix,
		set:           set,
		messages:      map[protoreflect.FullName]*message{},
		publications:  map[string]*topic.Publication{},
		subscriptions: map[string]*topic.Subscription{},
		scopes:        map[protogen.GoImportPath]scope{},
		faults:        faults,
	}
	for _, p := range set.Publications {
		b.publications[p.RPC] = p
	}
	for _, s := range set.Subscriptions {
		b.subscriptions[s.RPC] = s
	}
	for _, f := range plugin.Files {
		b.index(f, f.Messages)
		if suffix == "" {
			b.scope(f.GoImportPath).declareMessages(f)
		}
	}
	var files []*File
	paths := map[string]string{} // and their .proto files
	for _, f := range plugin.Files {
		if !f.Generate {
			continue
		}
		file := b.file(f)
		if file == nil {
			continue
		}
		if first, taken := paths[file.Path]; taken {
			b.faults = append(b.faults, topic.Fault{File: file.Source, Reason: badGoName, Message: fmt.Sprintf(
				"its generated code goes to %s, as that of %s does; rename one of the two, or give them different go_package options", file.Path, first)})
		}
		paths[file.Path] = file.Source
		files = append(files, file)
	}
	if len(b.faults) > 0 {
		return nil, b.faults.Sorted()
	}
	return files, nil
}

type builder struct {
	suffix        string
	set           *topic.Set
	messages      map[protoreflect.FullName]*message
	publications  map[string]*topic.Publication
	subscriptions map[string]*topic.Subscription
	scopes        map[protogen.GoImportPath]scope
	faults        topic.Faults
}

// message is a message and the file that declares it.
type message struct {
	*protogen.Message
	file *protogen.File
}

func (b *builder) index(f *protogen.File, messages []*protogen.Message) {
	for _, m := range messages {
		b.messages[m.Desc.FullName()] = &message{m, f}
		b.index(f, m.Messages)
	}
}

func (b *builder) scope(path protogen.GoImportPath) scope {
	if b.scopes[path] == nil {
		b.scopes[path] = scope{}
	}
	return b.scopes[path]
}

// declare takes a package-level name in the generated file.
func (b *builder) declare(f *fileBuilder, name string, element protoreflect.Descriptor) string {
	if fault, ok := b.scope(f.out.GoImportPath).declare(name, element); !ok {
		b.faults = append(b.faults, fault)
	}
	return name
}

// fileBuilder is a file under construction.
type fileBuilder struct {
	source  *protogen.File
	out     *File
	imports *imports
}

func (b *builder) file(source *protogen.File) *File {
	f := &fileBuilder{source: source, out: b.place(source)}
	f.imports = newImports(f.out.GoImportPath)
	f.imports.standard("mq", mqPath)
	b.topics(f, source.Messages)
	for _, s := range source.Services {
		b.service(f, s)
	}
	if len(f.out.Topics)+len(f.out.Publishers)+len(f.out.Consumers) == 0 {
		return nil
	}
	f.out.Imports = f.imports.sorted()
	return f.out
}

// place decides where the code of a .proto file goes.
func (b *builder) place(source *protogen.File) *File {
	f := &File{
		Path:         source.GeneratedFilenamePrefix + ".mq.go",
		GoImportPath: source.GoImportPath,
		GoPackage:    source.GoPackageName,
		Source:       source.Desc.Path(),
		Deprecated:   source.Proto.GetOptions().GetDeprecated(),
		License:      license(source.Desc),
	}
	if b.suffix != "" {
		f.GoPackage += protogen.GoPackageName(b.suffix)
		f.GoImportPath = protogen.GoImportPath(path.Join(string(source.GoImportPath), string(f.GoPackage)))
		f.Path = path.Join(path.Dir(f.Path), string(f.GoPackage), path.Base(f.Path))
	}
	return f
}

// license returns the comments before the first statement, which is the syntax or the edition, that do not belong to it.
func license(f protoreflect.FileDescriptor) []protogen.Comments {
	const syntax, edition = 12, 14
	var comments []protogen.Comments
	for _, field := range []int32{syntax, edition} {
		for _, c := range f.SourceLocations().ByPath(protoreflect.SourcePath{field}).LeadingDetachedComments {
			comments = append(comments, protogen.Comments(c))
		}
	}
	return comments
}

// topics declares a function for each topic of the file.
func (b *builder) topics(f *fileBuilder, messages []*protogen.Message) {
	for _, m := range messages {
		if t, ok := b.set.ByMessage(m.Desc.FullName()); ok {
			out := b.definition(f, t)
			b.declare(f, out.Func, m.Desc)
			f.out.Topics = append(f.out.Topics, out)
		}
		b.topics(f, m.Messages)
	}
}

// reference refers to a topic in file f.
func (b *builder) reference(f *fileBuilder, t *topic.Topic) *Topic {
	m := b.messages[t.Message.FullName()]
	out := &Topic{
		Name:       t.Name,
		Comment:    m.Comments.Leading,
		Message:    f.imports.qualify(m.file.GoPackageName, m.GoIdent),
		Deprecated: m.Desc.Options().(*descriptorpb.MessageOptions).GetDeprecated(),
	}
	if m.file == f.source {
		out.Func = m.GoIdent.GoName + "Topic"
	}
	return out
}

// definition is a topic that file f writes out.
func (b *builder) definition(f *fileBuilder, t *topic.Topic) *Topic {
	out := b.reference(f, t)
	m := b.messages[t.Message.FullName()].Message
	if len(t.Key) > 0 {
		v := f.value(m, t.Key)
		out.Key = &v
	}
	if t.Dedupe.ID != nil {
		v := f.value(m, topic.Path{t.Dedupe.ID})
		if v.Kind == Bytes {
			f.imports.standard("hex", hexPath)
		}
		out.ID = &v
	}
	for _, h := range t.Headers {
		out.Headers = append(out.Headers, Header{h.Name, f.value(m, topic.Path{h.Field})})
	}
	if t.Priority != nil {
		v := f.getters(m, topic.Path{t.Priority})
		out.Priority = &v
	}
	if t.DeliverAt != nil {
		v := f.getters(m, topic.Path{t.DeliverAt})
		out.DeliverAt = &v
	}
	return out
}

// value finds the getters of a path and imports what the conversion to text calls.
func (f *fileBuilder) value(m *protogen.Message, p topic.Path) Value {
	v := f.getters(m, p)
	switch v.Kind {
	case Bool, Int32, Int64, Uint32, Uint64:
		f.imports.standard("strconv", strconvPath)
	}
	return v
}

// getters finds the getters of a path.
func (f *fileBuilder) getters(m *protogen.Message, p topic.Path) Value {
	var v Value
	for _, step := range p {
		for _, field := range m.Fields {
			if field.Desc.Number() == step.Number() {
				getter, _ := field.MethodName("Get")
				v.Getters = append(v.Getters, getter)
				v.Kind = kindOf(field.Desc.Kind())
				m = field.Message
				break
			}
		}
	}
	return v
}

func kindOf(k protoreflect.Kind) Kind {
	switch k {
	case protoreflect.BytesKind:
		return Bytes
	case protoreflect.BoolKind:
		return Bool
	case protoreflect.EnumKind:
		return Enum
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return Int32
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return Int64
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return Uint32
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return Uint64
	case protoreflect.MessageKind:
		return Timestamp // no other message has a role
	}
	return Text
}
