package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

const (
	// prefix begins the name of every variable that is meant for this product.
	prefix = "MQ_"
	// FileVariable names the configuration file if no flag does.
	FileVariable = "MQ_CONFIG"
	// clientVariable is the address that clients connect to. It may well be set where a sidecar runs.
	clientVariable = "MQ_ADDR"
)

// Sources is where settings come from. Later fields win over earlier ones, and all over the defaults.
type Sources struct {
	// File is the name of the configuration file. Empty: the variable MQ_CONFIG names it, or there is none.
	File string
	// ReadFile reads it, as os.ReadFile does.
	ReadFile func(name string) ([]byte, error)
	// Environ is the environment as os.Environ gives it. An empty variable counts as one that is not set.
	Environ []string
	// Flags holds the flags that were given, by Setting.Flag.
	Flags map[string]string
	// WorkingDir is what relative paths are relative to, wherever they are written.
	WorkingDir string
}

// Load merges the sources and validates the result. Its error joins every fault of every source, each as "where: what; what to write",
// where is file:line and the key, the variable, or the flag.
func Load(src Sources) (Config, error) {
	env := environment(src.Environ)
	l := loader{config: Default(defaultDataDir(env)), origin: make(map[string]string)}
	l.config.Socket = "" // follows the data directory, which is not known yet
	l.file(src, env)
	l.environment(env)
	l.flags(src.Flags)
	l.config.DataDir = absolute(src.WorkingDir, l.config.DataDir)
	switch l.config.Socket {
	case "":
		l.config.Socket = defaultSocket(l.config.DataDir)
	case NoSocket:
	default:
		l.config.Socket = absolute(src.WorkingDir, l.config.Socket)
	}
	l.faults = append(l.faults, l.config.faults(l.where)...)
	if err := errors.Join(l.faults...); err != nil {
		return Config{}, err
	}
	return l.config, nil
}

// defaultDataDir is where the XDG base directory specification puts state, or mq-data in the working directory for who has no home.
func defaultDataDir(env map[string]string) string {
	if dir := env["XDG_STATE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "typedmq")
	}
	if dir := env["HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, ".local", "state", "typedmq")
	}
	return "mq-data"
}

func absolute(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// loader gathers settings, where they come from, and faults.
type loader struct {
	config Config
	origin map[string]string // key → where it was set last
	faults []error
}

func (l *loader) fault(where, format string, args ...any) {
	l.faults = append(l.faults, &fault{where, fmt.Errorf(format, args...)})
}

// set takes a value from a source.
func (l *loader) set(s setting, where, value string) (ok bool) {
	if err := s.set(&l.config, value); err != nil {
		l.faults = append(l.faults, &fault{where, err})
		return false
	}
	l.origin[s.key] = where
	return true
}

func (l *loader) where(key string) string {
	if at, ok := l.origin[key]; ok {
		return at
	}
	return key
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	maps.DeleteFunc(env, func(_, value string) bool { return value == "" })
	return env
}

// serviceLink matches the variables, with their values, that Kubernetes puts into every pod beside a service whose name begins with "mq".
// MQ_PORT alone could be a person's mistake: the value tells.
const serviceLink = `^MQ_([A-Z0-9_]+_)?` +
	`(SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|PORT=(tcp|udp|sctp)://|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=)`

func (l *loader) environment(env map[string]string) {
	known := []string{FileVariable, clientVariable}
	for _, s := range settings() {
		known = append(known, s.variable())
		if value := env[s.variable()]; value != "" {
			l.set(s, s.variable(), value)
		}
	}
	link := regexp.MustCompile(serviceLink)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(name, prefix) && !slices.Contains(known, name) && !link.MatchString(name+"="+env[name]) {
			l.fault(name, "unknown variable; the nearest known one is %s", nearest(name, known))
		}
	}
}

func (l *loader) flags(flags map[string]string) {
	for _, s := range settings() {
		if value, ok := flags[s.flag()]; ok {
			l.set(s, "--"+s.flag(), value)
		}
	}
}

// nearest returns the name that takes the fewest edits to reach; case and the kind of dash count for nothing.
func nearest(name string, known []string) string {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }
	return slices.MinFunc(known, func(a, b string) int {
		return levenshtein.Distance(plain(name), plain(a), nil) - levenshtein.Distance(plain(name), plain(b), nil)
	})
}
