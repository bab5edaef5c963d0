package topic

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Reasons of a Fault, beside those of filter.Error.
const (
	BadOptions            = "BAD_OPTIONS"   // annotation that does not decode, or that this version does not know
	BadName               = "BAD_NAME"      // name of a topic, alias, group or header
	BadKey                = "BAD_KEY"       // key field
	BadField              = "BAD_FIELD"     // field with another role
	BadBound              = "BAD_BOUND"     // number or duration out of bounds
	BadRetry              = "BAD_RETRY"     // retry policy
	BadTTL                = "BAD_TTL"       // ttl
	BadDelay              = "BAD_DELAY"     // delay
	Contradiction         = "CONTRADICTION" // two settings that cannot both hold
	BadService            = "BAD_SERVICE"   // roles of a service
	BadRPC                = "BAD_RPC"       // streaming, or an answer where nobody can give one
	NotATopic             = "NOT_A_TOPIC"   // message without (mq.v1.topic)
	DuplicateTopic        = "DUPLICATE_TOPIC"
	DuplicateSubscription = "DUPLICATE_SUBSCRIPTION"
	QueueHasGroup         = "QUEUE_HAS_GROUP"
)

// Fault is something wrong in a .proto file.
type Fault struct {
	File string
	// Line and Column are counted from 1, and 0 if the descriptors carry no positions.
	Line, Column int
	// Message is one line: what is wrong; what to write instead.
	Message string
	// Reason is one of the constants above or a reason of a filter.Error.
	Reason string
}

func (f Fault) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

// Faults are all faults of some files, ordered by place. As an error it prints one a line.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

// Sorted puts faults in order of their places, and the same one only once. It works in place.
func (f Faults) Sorted() Faults {
	slices.SortFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(f)
}

// place is a spot in a .proto file: a declaration, or an option of it, or a field of that option.
type place struct {
	element protoreflect.Descriptor
	option  []int32 // path from the element to the option's field
}

// at is the place of a field of the option.
func (p place) at(fields ...protoreflect.FieldNumber) place {
	path := slices.Clone(p.option)
	for _, n := range fields {
		path = append(path, int32(n))
	}
	return place{p.element, path}
}

// At makes a fault with the most precise position that the file's source information has for the declaration.
func At(element protoreflect.Descriptor, reason, format string, args ...any) Fault {
	return place{element: element}.fault(reason, format, args...)
}

func (p place) fault(reason, format string, args ...any) Fault {
	file := p.element.ParentFile()
	fault := Fault{File: file.Path(), Message: fmt.Sprintf(format, args...), Reason: reason}
	locations := file.SourceLocations()
	element := locations.ByDescriptor(p.element).Path
	if len(element) == 0 {
		return fault
	}
	path := append(slices.Clone(element), p.option...)
	for ; len(path) >= len(element); path = path[:len(path)-1] {
		if l := locations.ByPath(path); len(l.Path) > 0 {
			fault.Line, fault.Column = l.StartLine+1, l.StartColumn+1
			break
		}
	}
	return fault
}
