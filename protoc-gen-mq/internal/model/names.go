package model

import (
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
)

const (
	contextPath = protogen.GoImportPath("context")
	hexPath     = protogen.GoImportPath("encoding/hex")
	strconvPath = protogen.GoImportPath("strconv")
	timePath    = protogen.GoImportPath("time")
	mqPath      = protogen.GoImportPath("github.com/typedmq/typedmq/runtime/mq")
)

// locals are the names of parameters in generated code. No import takes one of them.
func locals() []string {
	return []string{"ctx", "msg", "opts", "sender", "worker", "consumer", "m", "r", "p", "batch", "delivery"}
}

// scope is the package-level names of one generated Go package and who has them.
type scope map[string]string

// declare takes a name for element and says what is wrong if another has it.
func (s scope) declare(name string, element protoreflect.Descriptor) (topic.Fault, bool) {
	if owner, taken := s[name]; taken {
		return topic.At(element, badGoName, "%s becomes %s in Go, which is the name of %s already; rename one of the two",
			describe(element), name, owner), false
	}
	s[name] = describe(element)
	return topic.Fault{}, true
}

func describe(d protoreflect.Descriptor) string {
	switch d.(type) {
	case protoreflect.MessageDescriptor:
		return "message " + string(d.FullName())
	case protoreflect.ServiceDescriptor:
		return "service " + string(d.FullName())
	case protoreflect.MethodDescriptor:
		return "rpc " + string(d.FullName())
	}
	return string(d.FullName())
}

// declareMessages enters what protoc-gen-go declares for a file.
func (s scope) declareMessages(f *protogen.File) {
	s[f.GoDescriptorIdent.GoName] = "the descriptor of " + f.Desc.Path()
	for _, e := range f.Enums {
		s.declareEnum(e)
	}
	for _, x := range f.Extensions {
		s["E_"+x.GoIdent.GoName] = "extension " + string(x.Desc.FullName())
	}
	var messages func([]*protogen.Message)
	messages = func(list []*protogen.Message) {
		for _, m := range list {
			s[m.GoIdent.GoName] = describe(m.Desc)
			for _, f := range m.Fields {
				s[f.GoIdent.GoName] = "field " + string(f.Desc.FullName())
			}
			for _, x := range m.Extensions {
				s["E_"+x.GoIdent.GoName] = "extension " + string(x.Desc.FullName())
			}
			for _, e := range m.Enums {
				s.declareEnum(e)
			}
			messages(m.Messages)
		}
	}
	messages(f.Messages)
}

func (s scope) declareEnum(e *protogen.Enum) {
	s[e.GoIdent.GoName] = "enum " + string(e.Desc.FullName())
	for _, v := range e.Values {
		s[v.GoIdent.GoName] = "enum value " + string(v.Desc.FullName())
	}
}

// imports names the packages that one file imports.
type imports struct {
	own   protogen.GoImportPath
	taken map[string]bool
	names map[protogen.GoImportPath]string
}

func newImports(own protogen.GoImportPath) *imports {
	i := &imports{own: own, taken: map[string]bool{}, names: map[protogen.GoImportPath]string{}}
	for _, name := range append(locals(), "context", "hex", "strconv", "time", "mq") {
		i.taken[name] = true
	}
	return i
}

// standard imports a package under its own name, which is kept free for it.
func (i *imports) standard(name string, path protogen.GoImportPath) { i.names[path] = name }

// qualify returns ident as the file writes it, and imports its package. Preferred is the name of the package.
func (i *imports) qualify(preferred protogen.GoPackageName, ident protogen.GoIdent) string {
	if ident.GoImportPath == i.own {
		return ident.GoName
	}
	name, ok := i.names[ident.GoImportPath]
	if !ok {
		// Exported names and those of publishers are kept for declarations.
		base := strings.TrimSuffix(unexported(string(preferred)), "Publisher")
		name = base
		for n := 2; i.taken[name] || token.IsKeyword(name) || types.Universe.Lookup(name) != nil; n++ {
			name = base + strconv.Itoa(n)
		}
		i.taken[name] = true
		i.names[ident.GoImportPath] = name
	}
	return name + "." + ident.GoName
}

func (i *imports) sorted() []Import {
	var list []Import
	for path, name := range i.names {
		list = append(list, Import{name, path})
	}
	slices.SortFunc(list, func(a, b Import) int {
		switch {
		case a.Standard() && !b.Standard():
			return -1
		case b.Standard() && !a.Standard():
			return 1
		}
		return strings.Compare(string(a.Path), string(b.Path))
	})
	return list
}

// unexported is an exported Go name in lower case at its beginning, and no keyword.
func unexported(name string) string {
	r, size := utf8.DecodeRuneInString(name)
	name = strings.ToLower(string(r)) + name[size:]
	if token.IsKeyword(name) {
		name += "_"
	}
	return name
}
