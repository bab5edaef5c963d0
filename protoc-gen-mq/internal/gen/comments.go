package gen

import (
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
)

// comment prints a comment of the .proto file, or otherwise if there is none.
func (p printer) comment(c protogen.Comments, otherwise string) {
	if strings.TrimSpace(string(c)) == "" {
		p.P("// ", otherwise)
		return
	}
	p.lines(c)
}

// continued prints a comment of the .proto file below what is printed already.
func (p printer) continued(c protogen.Comments) {
	if strings.TrimSpace(string(c)) == "" {
		return
	}
	p.P("//")
	p.lines(c)
}

// lines prints each line of c behind a blank, so that none of them is a directive to the Go tools, as //go:generate is, and
// without what may not stand in Go source.
func (p printer) lines(c protogen.Comments) {
	text := strings.Map(func(r rune) rune {
		if r == '\r' || r == 0 || r == '\ufeff' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(c), "�"))
	for line := range strings.SplitSeq(strings.TrimRight(text, " \t\n"), "\n") {
		line = strings.TrimRight(line, " \t")
		switch {
		case line == "":
			p.P("//")
		case line[0] == ' ' || line[0] == '\t':
			p.P("//", line)
		default:
			p.P("// ", line)
		}
	}
}

func (p printer) deprecated(is bool) {
	if is {
		p.P("//")
		p.P("// Deprecated: the .proto file says so.")
	}
}
