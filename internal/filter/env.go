package filter

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Limits of the parser. They are far above what people write and keep hostile input from using the stack.
const (
	maxDepth       = 64
	maxSyntaxFixes = 4
	maxRegexSize   = 1000 // instructions of a compiled regular expression
)

// env describes what expressions over msg may say.
func (c *Compiler) env(msg protoreflect.MessageDescriptor) (*cel.Env, error) {
	file, known := c.files[msg.ParentFile()]
	if !known {
		var err error
		if file, err = newEnv(msg.ParentFile()); err != nil {
			return nil, err
		}
		if c.files == nil {
			c.files = map[protoreflect.FileDescriptor]*cel.Env{}
		}
		c.files[msg.ParentFile()] = file
	}
	return file.Extend(
		cel.Container(string(msg.FullName())),
		cel.Variable(varMessage, cel.ObjectType(string(msg.FullName()))),
	)
}

// newEnv describes what expressions may say, whichever message of the file they are over. To read all types of a file is what costs.
func newEnv(file protoreflect.FileDescriptor) (*cel.Env, error) {
	var files []any
	for _, f := range closure(file) {
		files = append(files, f)
	}
	return cel.NewEnv(
		cel.TypeDescs(files...),
		cel.Variable(varKey, cel.StringType),
		cel.Variable(varHeaders, cel.MapType(cel.StringType, cel.StringType)),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.EnableIdentifierEscapeSyntax(),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserErrorRecoveryLimit(maxSyntaxFixes),
		cel.RegexProgramSizeLimit(maxRegexSize),
		cel.ASTValidators(
			cel.ValidateRegexLiterals(),
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
		),
	)
}

// ownFile is a file under a path that no file linked into this program has. CEL replaces a file by the linked one of the same
// path if there is one, and a user's "kv.proto" is not ours.
type ownFile struct{ protoreflect.FileDescriptor }

func (f ownFile) Path() string { return "filter:" + f.FileDescriptor.Path() }

// closure lists root and all that it imports. CEL knows the types of google.protobuf itself.
func closure(root protoreflect.FileDescriptor) []protoreflect.FileDescriptor {
	var files []protoreflect.FileDescriptor
	seen := map[string]bool{}
	var walk func(protoreflect.FileDescriptor)
	walk = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] || f.IsPlaceholder() || f.Package() == "google.protobuf" {
			return
		}
		seen[f.Path()] = true
		files = append(files, ownFile{f})
		for i := range f.Imports().Len() {
			walk(f.Imports().Get(i).FileDescriptor)
		}
	}
	walk(root)
	return files
}

// reads tells whether a checked expression reads the variable name.
func reads(checked *cel.Ast, name string) bool {
	for _, ref := range checked.NativeRep().ReferenceMap() {
		if ref.Name == name {
			return true
		}
	}
	found := false
	ast.PostOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		found = found || e.Kind() == ast.IdentKind && e.AsIdent() == name
	}))
	return found
}
