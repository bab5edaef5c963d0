package main

import (
	"bytes"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/typedmq/typedmq/schemas"
)

// command runs a command line and returns its exit status and what it printed.
func command(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status = run(t.Context(), args, streams{nil, &stdout, &stderr}, nil)
	return status, stdout.String(), stderr.String()
}

func mustInit(t *testing.T, args ...string) (out string) {
	t.Helper()
	status, out, errs := command(t, append([]string{"init"}, args...)...)
	if status != 0 {
		t.Fatalf("mq init %q: %s", args, errs)
	}
	return out
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, relErr := filepath.Rel(dir, path)
			files, err = append(files, filepath.ToSlash(rel)), relErr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestInitWritesAProject(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	out := mustInit(t, dir, "--module", "example.com/shop")
	want := []string{
		".gitignore", "Makefile", "README.md", "buf.gen.yaml", "buf.yaml", "cmd/shipping/main.go", "cmd/shop/main.go", "go.mod",
		"proto/orders/v1/orders.proto", "proto/shipping/v1/shipping.proto", "shipping/shipping.go", "shipping/shipping_test.go",
		"third_party/mq/v1/options.proto",
	}
	got := tree(t, dir)
	if !slices.Equal(got, want) {
		t.Errorf("wrote %q, should be %q", got, want)
	}
	for _, name := range got {
		text := read(t, dir, name)
		if strings.Contains(text, "{{") || strings.Contains(text, "<no value>") {
			t.Errorf("%s has holes:\n%s", name, text)
		}
		if strings.HasSuffix(name, ".go") {
			if nice, err := format.Source([]byte(text)); err != nil || string(nice) != text {
				t.Errorf("%s is not formatted: %v", name, err)
			}
		}
	}
	if read(t, dir, "third_party/mq/v1/options.proto") != string(schemas.Options) {
		t.Error("the annotations are not those of this version")
	}
	source, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	mod := read(t, dir, "go.mod")
	if !strings.HasPrefix(mod, "module example.com/shop\n") || !strings.Contains(mod, "replace github.com/typedmq/typedmq => "+source+"\n") {
		t.Errorf("go.mod:\n%s", mod)
	}
	if !strings.Contains(out, "it uses the typedmq in "+source) || !strings.Contains(out, "make test") {
		t.Errorf("printed:\n%s", out)
	}
}

func TestInitTouchesNothingThatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	status, _, errs := command(t, "init", dir)
	if status != exitUsage || !strings.Contains(errs, "is not empty") {
		t.Errorf("status %d, %q", status, errs)
	}
	if got := tree(t, dir); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("wrote %q", got)
	}
}

func TestInitRefusesModulesThatCannotBe(t *testing.T) {
	for module, want := range map[string]string{
		"with space": "must be letters", "../up": "must be letters", "a//b": "must be letters", "net/shop": "standard library", "test": "standard library",
		"github.com/typedmq/typedmq/x": "typedmq's own",
	} {
		dir := filepath.Join(t.TempDir(), "demo")
		status, _, errs := command(t, "init", dir, "--module", module)
		if status != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("module %q: status %d, %q, should tell of %q", module, status, errs, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("module %q: something was written", module)
		}
	}
}

func TestInitUsesTheSourceThatIsNamed(t *testing.T) {
	source := filepath.Join(t.TempDir(), "a tree")
	if status, _, errs := command(t, "init", filepath.Join(t.TempDir(), "demo"), "--replace", source); status != exitUsage || !strings.Contains(errs, "no source of") {
		t.Errorf("a tree that is not there: status %d, %q", status, errs)
	}
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "go.mod"), []byte("module github.com/typedmq/typedmq\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "demo")
	mustInit(t, dir, "--replace", source)
	if mod := read(t, dir, "go.mod"); !strings.Contains(mod, "=> \""+source+"\"\n") {
		t.Errorf("go.mod:\n%s", mod)
	}
}
