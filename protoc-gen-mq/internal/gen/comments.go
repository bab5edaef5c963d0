package gen

import (
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
)

// comment prints a comment of the .proto file, or otherwise if there is none.
func (p printer) comment(c protogen.Comments, otherwise string) {
	if c = prose(c); c == "" {
		p.P("// ", otherwise)
		return
	}
	p.lines(c)
}

// continued prints a comment of the .proto file below what is printed already.
func (p printer) continued(c protogen.Comments) {
	if c = prose(c); c == "" {
		return
	}
	p.P("//")
	p.lines(c)
}

// prose is a comment without what it says to buf lint, "" if nothing is left.
func prose(c protogen.Comments) protogen.Comments {
	var kept strings.Builder
	for line := range strings.Lines(string(c)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "buf:lint:ignore ") {
			kept.WriteString(line)
		}
	}
	if strings.TrimSpace(kept.String()) == "" {
		return ""
	}
	return protogen.Comments(kept.String())
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
