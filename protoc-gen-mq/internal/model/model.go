// Package model decides what protoc-gen-mq generates: which files, names, imports and conversions. What annotations mean it
// learns from package topic; printing is left to package gen.
package model

import (
	"time"

	"google.golang.org/protobuf/compiler/protogen"
)

// File is one generated file.
type File struct {
	// Path is where it goes, before protoc's options paths and module are applied.
	Path         string
	GoImportPath protogen.GoImportPath
	GoPackage    protogen.GoPackageName
	// Source is the path of the .proto file.
	Source     string
	Deprecated bool
	// License is what the .proto file begins with, apart from the comment of its first statement.
	License []protogen.Comments
	// Imports are those of the standard library, then the others, each sorted by path.
	Imports    []Import
	Topics     []*Topic
	Publishers []*Publisher
	Consumers  []*Consumer
}

// Import is an imported package under the name that the file uses for it.
type Import struct {
	Name string
	Path protogen.GoImportPath
}

// Standard tells whether the package is of the standard library.
func (i Import) Standard() bool {
	return i.Path == contextPath || i.Path == hexPath || i.Path == strconvPath || i.Path == timePath
}

// Topic is a typed reference to a topic.
type Topic struct {
	// Func is the function that returns it. Empty: the topic belongs to another file, and a publisher writes it out.
	Func string
	Name string
	// Message is the Go type of its messages, qualified.
	Message    string
	Comment    protogen.Comments
	Deprecated bool
	// Key is nil for a topic without a key, as are ID, Priority and DeliverAt without theirs. These and Headers are set where the topic is
	// written out.
	Key       *Value
	ID        *Value // of the message, by which duplicates are recognised
	Headers   []Header
	Priority  *Value
	DeliverAt *Value
}

// Header is a header that a field is copied into.
type Header struct {
	Name  string
	Value Value
}

// Value is a field of a message.
type Value struct {
	// Getters lead from the message to the field: "GetCustomer", "GetId".
	Getters []string
	Kind    Kind
}

// Kind is what a field's getter returns, as far as conversions differ.
type Kind int

const (
	Text Kind = iota
	Bytes
	Bool
	Enum
	Int32
	Int64
	Uint32
	Uint64
	Timestamp
)

// Publisher is what a publisher service becomes.
type Publisher struct {
	Service     string // full name
	Interface   string
	Constructor string
	Struct      string
	Comment     protogen.Comments
	Deprecated  bool
	Methods     []PublisherMethod
}

// PublisherMethod is an rpc of a publisher service.
type PublisherMethod struct {
	Name       string
	Field      string // of the struct
	New        string // makes the publisher of this rpc alone; not for a call
	Comment    protogen.Comments
	Deprecated bool
	Topic      *Topic
	// Delay and TTL are defaults of each message, 0 for none.
	Delay, TTL time.Duration
	// Reply is the Go type of the answers to a call, qualified, empty if messages are not answered.
	Reply string
}

// Consumer is what a consumer service becomes.
type Consumer struct {
	Service    string // full name
	Interface  string
	Register   string
	Group      string
	Descriptor string // Go variable of the file's descriptor, qualified
	Comment    protogen.Comments
	Deprecated bool
	Methods    []ConsumerMethod
}

// ConsumerMethod is an rpc of a consumer service.
type ConsumerMethod struct {
	Name       string
	RPC        string
	Comment    protogen.Comments
	Deprecated bool
	Topic      *Topic
	Style      Style
	// Reply is the Go type of the answers of a Call, qualified.
	Reply string
}

// Style is what a handler takes.
type Style int

const (
	Simple   Style = iota // a message
	Batch                 // a batch of messages
	Delivery              // a message to settle
	Call                  // a message to answer
)
