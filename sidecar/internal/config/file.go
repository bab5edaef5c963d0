package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// file takes the settings of the configuration file, if there is one.
func (l *loader) file(src Sources, env map[string]string) {
	name, where := src.File, "--config"
	if name == "" {
		name, where = env[FileVariable], FileVariable
	}
	if name == "" {
		return
	}
	text, err := src.ReadFile(absolute(src.WorkingDir, name))
	if err != nil {
		l.fault(where, "%s cannot be read: %w; write the path of a file that can", name, reason(err))
		return
	}
	root, mistake := parse(text)
	switch {
	case mistake != nil:
		l.fault(fmt.Sprintf("%s:%d", name, mistake.line), "%s", mistake.what)
	case root != nil:
		l.mapping(name, root)
	}
}

// reason is an error without the path, which the fault names already.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// syntaxError is a mistake that leaves no settings to look at.
type syntaxError struct {
	line int
	what string
}

// parse returns the mapping that a document is, nil if it is empty.
func parse(text []byte) (*yaml.Node, *syntaxError) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, yamlFault(err)
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, &syntaxError{second.Line, "a second document begins; write one"}
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlFault(err)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, &syntaxError{root.Line, "is " + kind(root) + "; write lines of key: value"}
	}
	return root, nil
}

func yamlFault(err error) *syntaxError {
	out := &syntaxError{1, err.Error()}
	if m := regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`).FindStringSubmatch(err.Error()); m != nil {
		_, _ = fmt.Sscan(m[1], &out.line) // leaves 1 if there is no line
		out.what = m[2]
	}
	out.what += "; write YAML lines of key: value"
	return out
}

func (l *loader) mapping(file string, root *yaml.Node) {
	var known []string
	for _, s := range settings() {
		known = append(known, s.key)
	}
	first := make(map[string]int) // key → line
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		where := fmt.Sprintf("%s:%d", file, key.Line)
		at := slices.Index(known, key.Value)
		switch line, twice := first[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			l.fault(where, "a key is %s; write one of the known keys, such as %s", kind(key), known[0])
		case at < 0:
			l.fault(where, "unknown key %q; the nearest known one is %s", key.Value, nearest(key.Value, known))
		case twice:
			l.fault(where+": "+key.Value, "is also on line %d; write it once", line)
		default:
			first[key.Value] = key.Line
			l.value(settings()[at], where+": "+key.Value, value)
		}
	}
}

func (l *loader) value(s setting, where string, n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind != yaml.ScalarNode:
		l.fault(where, "is %s; write one value", kind(n))
	case n.Tag == "!!null":
		l.fault(where, "has no value; write one, or remove the line")
	case !l.set(s, where, n.Value):
	case n.Tag != "!!str" && n.Tag != s.bare:
		l.fault(where, "%s is %s; write text, in quotes if it is meant so", n.Value, kind(n))
	}
}

// kind says what a node is.
func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "a date"
	}
	return "text"
}
