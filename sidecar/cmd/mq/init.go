package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/typedmq/typedmq/schemas"
)

// projectFiles is the project that init writes: its files with .tmpl after their names.
//
//go:embed all:template
var projectFiles embed.FS

const typedmqModule = "github.com/typedmq/typedmq"

type initFlags struct {
	module  string
	replace string
}

func newInit(*cli) *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a small project: a topic, its publisher, a consumer, and a test",
		Long: `init writes a project into DIR, which must be empty or not exist: annotated
.proto files, a publisher, a consumer, a test with a whole sidecar inside, and a
Makefile. "make test" in DIR generates the code and runs the test. It needs Go,
make and a Go module proxy.

An mq that was built from a source tree makes the project use that tree, with a
replace directive in its go.mod, and says so.`,
		Example: `  mq init demo
  mq init shop --module example.com/shop`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return initProject(cmd, args[0], f) },
	}
	cmd.Flags().StringVar(&f.module, "module", "", "module path of the project (default: the name of DIR)")
	cmd.Flags().StringVar(&f.replace, "replace", "", "directory of the typedmq source that the project uses in place of a released version")
	return cmd
}

// project is what the templates are filled with.
type project struct {
	Name, Module string
	// Version is the typedmq that is required, Protobuf the google.golang.org/protobuf.
	Version, Protobuf string
	// Replace is the typedmq source tree in use, empty for the required version.
	Replace string
}

// ReplacePath is Replace as go.mod wants it.
func (p project) ReplacePath() string {
	if strings.ContainsAny(p.Replace, " \t\"'`()[]{},") {
		return strconv.Quote(p.Replace)
	}
	return p.Replace
}

func initProject(cmd *cobra.Command, dir string, f initFlags) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	p := project{Name: filepath.Base(dir), Module: f.module}
	if p.Module == "" {
		p.Module = p.Name
	}
	if err := checkModule(p.Module); err != nil {
		return usagef("module %q: %w; choose another with --module", p.Module, err)
	}
	if err := p.useTypedmq(f.replace); err != nil {
		return err
	}
	files, err := p.files()
	if err != nil {
		return err
	}
	if err := writeProject(dir, files); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "wrote %d files to %s\n", len(files), printable(dir))
	if p.Replace != "" {
		fmt.Fprintf(out, "it uses the typedmq in %s: see the replace directive in go.mod\n", printable(p.Replace))
	}
	_, err = fmt.Fprintf(out, "\nnext:\n  cd %s\n  make test\n", printable(dir))
	return err
}

var modulePath = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._~-]*(/[A-Za-z0-9_][A-Za-z0-9._~-]*)*$`)

// checkModule refuses what go.mod, an import or a shell would take for something else.
func checkModule(name string) error {
	first, _, _ := strings.Cut(name, "/")
	switch {
	case !modulePath.MatchString(name):
		return errors.New("must be letters, digits and . _ ~ - between slashes")
	case standard[first]:
		return fmt.Errorf("%s is a package of Go's standard library", first)
	case name == typedmqModule || strings.HasPrefix(name, typedmqModule+"/"):
		return errors.New("is typedmq's own")
	}
	return nil
}

// standard are names that no module may begin with: import paths of the standard library, and those that go reserves.
var standard = func() map[string]bool {
	all := map[string]bool{}
	for _, name := range strings.Fields(`archive bufio builtin bytes cmd cmp compress container context crypto database debug embed encoding errors
		expvar flag fmt go hash html image index internal io iter log maps main math mime net os path plugin reflect regexp runtime slices sort std strconv
		strings structs sync syscall test testing text time tool unicode unique unsafe weak work all`) {
		all[name] = true
	}
	return all
}()

// useTypedmq decides which typedmq the project uses: the tree that is named, else the tree that this binary was built from, else its version.
func (p *project) useTypedmq(named string) error {
	p.Version, p.Protobuf = "v0.0.0", "v1.36.12"
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, d := range info.Deps {
			if d.Path == "google.golang.org/protobuf" {
				p.Protobuf = d.Version
			}
		}
	}
	if named != "" {
		dir, err := filepath.Abs(named)
		if err != nil {
			return err
		}
		if !isTypedmq(dir) {
			return usagef("--replace %s: no source of %s is there", named, typedmqModule)
		}
		p.Replace = dir
		return nil
	}
	if dir := sourceTree(); dir != "" {
		p.Replace = dir
		return nil
	}
	if !ok || info.Main.Path != typedmqModule || info.Main.Version == "" || info.Main.Version == "(devel)" || strings.Contains(info.Main.Version, "+") {
		return usagef("this mq was built from a source tree that is not there any more; name one with --replace DIR")
	}
	p.Version = info.Main.Version
	return nil
}

// sourceTree is the tree that this binary was built from, empty if it is gone or was the module cache.
func sourceTree() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) || strings.Contains(file, "@") {
		return ""
	}
	dir := filepath.Join(filepath.Dir(file), "..", "..", "..")
	if !isTypedmq(dir) {
		return ""
	}
	return dir
}

func isTypedmq(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	return err == nil && strings.HasPrefix(string(text), "module "+typedmqModule+"\n")
}

// files are the project's files by their paths.
func (p project) files() (map[string][]byte, error) {
	all := map[string][]byte{"third_party/mq/v1/options.proto": schemas.Options}
	err := fs.WalkDir(projectFiles, "template", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(projectFiles, name)
		if err != nil {
			return err
		}
		to := strings.TrimSuffix(strings.TrimPrefix(name, "template/"), ".tmpl")
		t, err := template.New(to).Option("missingkey=error").Parse(string(text))
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := t.Execute(&out, p); err != nil {
			return err
		}
		all[to] = out.Bytes()
		if path.Ext(to) == ".go" { // imports are sorted by the module's name
			if all[to], err = format.Source(out.Bytes()); err != nil {
				return fmt.Errorf("%s: %w", to, err)
			}
		}
		return nil
	})
	return all, err
}

// writeProject writes files into a directory that is empty or does not exist.
func writeProject(dir string, files map[string][]byte) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return usagef("%s is not empty: choose a directory that is, or a new one", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for name, text := range files {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
