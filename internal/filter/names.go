package filter

import (
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// headerNames lists the headers that a checked expression names in its text, sorted: headers["name"], headers.name, has(headers.name) and "name" in headers.
func headerNames(checked *cel.Ast) []string {
	var names []string
	isHeaders := func(e ast.Expr) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == varHeaders }
	note := func(e ast.Expr) {
		if e.Kind() != ast.LiteralKind {
			return
		}
		if name, ok := e.AsLiteral().(types.String); ok {
			names = append(names, string(name))
		}
	}
	ast.PostOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind:
			if s := e.AsSelect(); isHeaders(s.Operand()) {
				names = append(names, s.FieldName())
			}
		case ast.CallKind:
			args := e.AsCall().Args()
			switch f := e.AsCall().FunctionName(); {
			case f == operators.Index && len(args) == 2 && isHeaders(args[0]):
				note(args[1])
			case f == operators.In && len(args) == 2 && isHeaders(args[1]):
				note(args[0])
			}
		}
	}))
	slices.Sort(names)
	return slices.Compact(names)
}
