// Package filter compiles the CEL expressions of subscriptions and decides with them which messages a group gets.
//
// It knows CEL and nothing else: what a subscription is stands in package topic, and who asks and what happens to a message
// that does not match is decided elsewhere. It is the only package that imports the CEL library.
package filter

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxBytes is the length of the longest expression that compiles, in bytes.
const MaxBytes = 4 << 10

// The variables of an expression.
const (
	varMessage = "msg"
	varKey     = "key"
	varHeaders = "headers"
)

// Filter is a compiled expression. It is safe for concurrent use.
type Filter struct {
	expr         string
	program      cel.Program
	adapter      types.Adapter
	needsMessage bool
	headers      []string
}

// Input is one message as a filter sees it. Every part is read only if the expression uses it.
type Input struct {
	// Message returns the decoded message, of the type that the filter was compiled for. It is called at most once in a
	// call of Match. Nil stands for a message without content.
	Message func() (protoreflect.Message, error)
	// Key is the record's key. The expression sees it as a string; bytes that are not UTF-8 equal no literal.
	Key []byte
	// Headers are the record's headers. Nil: there are none.
	Headers Headers
}

// Compile checks expr against the message type msg and prepares it. The expression sees msg, the message; key, a string; and
// headers, a map of string to string. It must be at most MaxBytes long and of type bool, and its estimated cost is bounded.
// Names of types and enum values resolve as they would inside the message's own declaration. The error is an *Error.
func Compile(expr string, msg protoreflect.MessageDescriptor) (*Filter, error) {
	return new(Compiler).Compile(expr, msg)
}

// Compiler compiles many expressions over messages of few files: it keeps what it learned of a file. The zero value is ready for use. It is not
// safe for concurrent use; the filters are.
type Compiler struct {
	files map[protoreflect.FileDescriptor]*cel.Env
}

// Compile is the function Compile.
func (c *Compiler) Compile(expr string, msg protoreflect.MessageDescriptor) (*Filter, error) {
	if len(expr) > MaxBytes {
		return nil, &Error{Reason: TooLarge, Detail: fmt.Sprintf("%d bytes; at most %d are allowed", len(expr), MaxBytes)}
	}
	env, err := c.env(msg)
	if err != nil {
		return nil, &Error{Reason: Type, Detail: fmt.Sprintf("type %s: %v", msg.FullName(), err)}
	}
	parsed, issues := env.Parse(expr)
	if issues.Err() != nil {
		return nil, fromIssues(Syntax, issues)
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, fromIssues(Type, issues)
	}
	if checked.OutputType() != cel.BoolType {
		return nil, &Error{Reason: NotBool, Line: 1, Column: 1,
			Detail: fmt.Sprintf("the expression is of type %s, not bool", cel.FormatCELType(checked.OutputType()))}
	}
	options, err := bound(env, checked)
	if err != nil {
		return nil, err
	}
	program, err := env.Program(checked, options...)
	if err != nil {
		return nil, &Error{Reason: Type, Line: 1, Column: 1, Detail: oneLine(err.Error())}
	}
	return &Filter{
		expr:         expr,
		program:      program,
		adapter:      env.CELTypeAdapter(),
		needsMessage: reads(checked, varMessage),
		headers:      headerNames(checked),
	}, nil
}

// String returns the source of the expression.
func (f *Filter) String() string { return f.expr }

// NeedsMessage tells whether the expression reads msg. If it does not, Input.Message is never called.
func (f *Filter) NeedsMessage() bool { return f.needsMessage }

// HeaderNames returns the headers that the expression names in its text, sorted. The caller does not change the slice.
func (f *Filter) HeaderNames() []string { return f.headers }

// Match decides about one message. A header that the message does not have makes the result false, whatever the rest of the
// expression says, unless the rest decides alone or has() asks for the header. A failure at run time, such as a
// division by zero, a missing map key, too high a cost or an error of Input.Message, gives false and an error to be counted.
func (f *Filter) Match(in Input) (bool, error) {
	vars := variables{adapter: f.adapter, in: in}
	out, _, err := f.program.Eval(&vars)
	switch {
	case vars.err != nil:
		return false, vars.err
	case err != nil && vars.explains(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("filter: %w", unwrapValue(err))
	}
	return out == types.True, nil
}

// variables resolves the names in an expression for one evaluation.
type variables struct {
	adapter types.Adapter
	in      Input
	msg     proto.Message
	err     error // of in.Message
	missing []string
}

// Parent implements cel.Activation.
func (v *variables) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case varMessage:
		if v.msg == nil {
			v.msg, v.err = v.decode()
		}
		if v.err != nil {
			return types.WrapErr(v.err), true
		}
		return v.msg, true
	case varKey:
		return types.String(v.in.Key), true
	case varHeaders:
		return (*headersValue)(v), true
	}
	return nil, false
}

func (v *variables) decode() (proto.Message, error) {
	if v.err != nil {
		return nil, v.err
	}
	if v.in.Message == nil {
		return nil, errors.New("filter: the message has no content")
	}
	m, err := v.in.Message()
	if err != nil {
		return nil, fmt.Errorf("filter: decode the message: %w", err)
	}
	return m.Interface(), nil
}

// explains tells whether err is CEL's complaint about a header that this evaluation looked for in vain.
func (v *variables) explains(err error) bool {
	if len(v.missing) == 0 {
		return false
	}
	key, ok := strings.CutPrefix(unwrapValue(err).Error(), "no such key: ")
	if !ok {
		return false
	}
	for _, name := range v.missing {
		if key == name {
			return true
		}
	}
	return false
}

// unwrapValue takes the error out of a CEL value, where it has one.
func unwrapValue(err error) error {
	if v, ok := err.(*types.Err); ok && v.Unwrap() != nil {
		return v.Unwrap()
	}
	return err
}
