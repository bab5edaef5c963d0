package main_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// make test-breaking hands both in. Without them TestBuf is skipped: go test needs no development tools, and internal/rules checks the same cases without buf.
var (
	bufPath    = flag.String("buf", "", "path of the buf command")
	pluginPath = flag.String("plugin", "", "path of the built buf-plugin-mq")
)

// TestBuf runs the real buf with the real plugin: each change of a contract fails with one line, each safe one passes without a word. It prints a table.
func TestBuf(t *testing.T) {
	if *bufPath == "" || *pluginPath == "" {
		t.Skip("run by make test-breaking")
	}
	dirs, err := filepath.Glob("testdata/breaking/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	table := make([]string, len(dirs))
	t.Run("case", func(t *testing.T) {
		for i, dir := range dirs {
			t.Run(filepath.Base(dir), func(t *testing.T) {
				t.Parallel()
				table[i] = compare(t, dir)
			})
		}
	})
	fmt.Print(strings.Join(table, ""))
}

// compare runs one case and returns its line of the table.
func compare(t *testing.T, dir string) string {
	root := t.TempDir()
	wanted, err := os.ReadFile(filepath.Join(dir, "want"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, side := range []string{"before", "after"} {
		workspace(t, filepath.Join(root, side))
		copyFile(t, filepath.Join(dir, side, "air.proto"), filepath.Join(root, side, "proto", "air.proto"))
	}
	lines, failed := breaking(t, root)
	rule, message, broken := strings.Cut(strings.TrimSpace(string(wanted)), ": ")
	switch {
	case broken && (!failed || len(lines) != 1 || !strings.Contains(lines[0], message) || !strings.HasPrefix(lines[0], "after/proto/air.proto:")):
		t.Errorf("got %q, want one line of %s: %s", lines, rule, message)
	case !broken && (failed || len(lines) > 0):
		t.Errorf("it is safe and fails: %q", lines)
	}
	verdict, line := "passes", ""
	if len(lines) > 0 {
		verdict, line = "fails", lines[0]
	}
	return strings.TrimSpace(fmt.Sprintf("%-36s %-7s %s", filepath.Base(dir), verdict, line)) + "\n"
}

// workspace makes a directory that buf takes for a workspace: the annotations and a module proto.
func workspace(t *testing.T, dir string) {
	t.Helper()
	copyFile(t, "../schemas/mq/v1/options.proto", filepath.Join(dir, "schemas", "mq", "v1", "options.proto"))
	config := fmt.Sprintf(`version: v2
modules:
  - path: schemas
  - path: proto
breaking:
  use: [TYPEDMQ]
plugins:
  - plugin: %q
`, *pluginPath)
	if err := os.WriteFile(filepath.Join(dir, "buf.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// breaking compares the two workspaces of root.
func breaking(t *testing.T, root string) (lines []string, failed bool) {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), *bufPath, "breaking", "after", "--against", "before")
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, &out, &complaints
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || complaints.Len() > 0 {
		t.Fatalf("buf breaking: %v\n%s", err, complaints.String())
	}
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimSuffix(strings.TrimSpace(line), " ("+*pluginPath+")"))
	}
	return lines, err != nil
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, text, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}
