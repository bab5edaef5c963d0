package topic

import (
	"fmt"
	"strings"
)

// NameError says which rule a name breaks.
type NameError struct {
	Name string
	// Rule is what holds for every name, to be read after "a name must".
	Rule string
}

func (e *NameError) Error() string {
	name := e.Name
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return fmt.Sprintf("name %q: must %s", name, e.Rule)
}

// CheckName returns nil for a good name of a topic or group: 1 to 249 of [A-Za-z0-9._-], not "." or "..", and not one of the
// names that the sidecar keeps for itself. The error is a *NameError.
func CheckName(name string) error {
	switch {
	case name == "":
		return &NameError{name, "not be empty"}
	case len(name) > MaxNameBytes:
		return &NameError{name, fmt.Sprintf("be at most %d bytes long, not %d", MaxNameBytes, len(name))}
	case name == "." || name == "..":
		return &NameError{name, `not be "." or ".."`}
	case strings.ContainsFunc(name, func(r rune) bool { return !inName(r) }):
		return &NameError{name, "consist of letters, digits, '.', '_' and '-' of ASCII"}
	case strings.HasPrefix(strings.ToLower(name), "mq.") || strings.HasPrefix(name, "__"):
		return &NameError{name, `not begin with "mq." or "__", which are reserved`}
	}
	return nil
}

func inName(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// CheckHeaderName returns nil for a good name of a header: 1 to 249 visible ASCII characters, not beginning with "mq.". The
// error is a *NameError.
func CheckHeaderName(name string) error {
	switch {
	case name == "":
		return &NameError{name, "not be empty"}
	case len(name) > MaxNameBytes:
		return &NameError{name, fmt.Sprintf("be at most %d bytes long, not %d", MaxNameBytes, len(name))}
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return &NameError{name, "consist of visible ASCII characters"}
	case strings.HasPrefix(strings.ToLower(name), "mq."):
		return &NameError{name, `not begin with "mq.", which is reserved`}
	}
	return nil
}
