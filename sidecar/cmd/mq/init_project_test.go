//go:build testinit

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInitProjectIsGreen does what a newcomer does: init, then make test, a change that breaks a consumer, a file that gets another name. It needs make, git and
// a module proxy.
func TestInitProjectIsGreen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	mustInit(t, dir)
	for _, target := range []string{"test", "lint"} {
		t.Logf("make %s:\n%s", target, mustRun(t, dir, "make", target))
	}

	mustRun(t, dir, "git", "init", "--quiet", "--initial-branch", "main")
	mustRun(t, dir, "git", "add", ".")
	mustRun(t, dir, "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "begin")
	if out := mustRun(t, dir, "make", "breaking"); strings.Contains(out, "orders.proto") {
		t.Errorf("make breaking with no change:\n%s", out)
	}
	orders := filepath.Join(dir, "proto/orders/v1/orders.proto")
	before := read(t, orders)
	rewrite(t, orders, strings.Replace(before, `name: "orders.placed"`, `name: "orders.paid"`, 1))
	if out, err := start(t, dir, "make", "breaking"); err == nil || !strings.Contains(out, `proto/orders/v1/orders.proto:20:5:`) || !strings.Contains(out, "orders.paid") {
		t.Errorf("make breaking after a topic was renamed: %v\n%s", err, out)
	}
	rewrite(t, orders, before)

	// The code of the old name would declare the same message twice.
	if err := os.Rename(orders, filepath.Join(filepath.Dir(orders), "placed.proto")); err != nil {
		t.Fatal(err)
	}
	shipping := filepath.Join(dir, "proto/shipping/v1/shipping.proto")
	rewrite(t, shipping, strings.Replace(read(t, shipping), "orders/v1/orders.proto", "orders/v1/placed.proto", 1))
	mustRun(t, dir, "make", "test")
	for _, name := range tree(t, filepath.Join(dir, "gen")) {
		if strings.Contains(name, "orders.") {
			t.Errorf("after proto/orders/v1/orders.proto was renamed, gen/%s is still there", name)
		}
	}

	extra := filepath.Join(dir, "proto/extra/v1/extra.proto")
	if err := os.MkdirAll(filepath.Dir(extra), 0o755); err != nil {
		t.Fatal(err)
	}
	const text = "syntax = \"proto3\";\npackage extra.v1;\noption go_package = \"demo/gen/extra/v1;extrav1\";\nmessage Extra {}\n"
	if err := os.WriteFile(extra, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, "make", "gen/.done")
	if _, err := os.Stat(filepath.Join(dir, "gen/extra/v1/extra.pb.go")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(extra); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, "make", "gen/.done")
	if _, err := os.Stat(filepath.Join(dir, "gen/extra")); err == nil {
		t.Error("a .proto file was removed, and its code is still there")
	}
}

// start runs a command in dir and returns what it printed.
func start(t *testing.T, dir string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, dir string, name string, args ...string) string {
	t.Helper()
	out, err := start(t, dir, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if text == read(t, path) {
		t.Fatalf("%s would stay as it is", path)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
