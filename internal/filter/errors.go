package filter

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
)

// Reasons of an Error.
const (
	Syntax    = "FILTER_SYNTAX"     // does not parse
	Type      = "FILTER_TYPE"       // unknown field or name, operands that do not fit
	NotBool   = "FILTER_NOT_BOOL"   // another type than bool
	TooLarge  = "FILTER_TOO_LARGE"  // longer than MaxBytes, or too deep
	TooCostly = "FILTER_TOO_COSTLY" // estimated cost above MaxCost
)

// Error says why an expression does not compile.
type Error struct {
	// Reason is one of the constants above.
	Reason string
	// Line and Column say where in the expression, from 1; both are 0 for a fault of the whole expression.
	Line, Column int
	// Detail is one line for people.
	Detail string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("filter: %s", e.Detail)
	}
	return fmt.Sprintf("filter: %d:%d: %s", e.Line, e.Column, e.Detail)
}

// fromIssues turns CEL's complaints into one error, at the place of the first.
func fromIssues(reason string, issues *cel.Issues) *Error {
	faults := issues.Errors()
	if len(faults) == 0 {
		return &Error{Reason: reason, Detail: oneLine(issues.Err().Error())}
	}
	first := faults[0]
	e := &Error{
		Reason: reason,
		Line:   max(1, first.Location.Line()),
		Column: max(1, first.Location.Column()+1),
		Detail: oneLine(first.Message),
	}
	if strings.Contains(e.Detail, "recursion limit") || strings.Contains(e.Detail, "exceeded limit") {
		e.Reason = TooLarge
	}
	if strings.Contains(e.Detail, "(uint, int)") || strings.Contains(e.Detail, "(int, uint)") {
		e.Detail += " (a uint literal is written with a u: 60u)"
	}
	if more := len(faults) - 1; more > 0 {
		e.Detail += fmt.Sprintf(" (and %d more)", more)
	}
	return e
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
