//go:build testinit

package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestInitProjectIsGreen does what a newcomer does: init, then make test. It needs make and a module proxy.
func TestInitProjectIsGreen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	mustInit(t, dir)
	for _, target := range []string{"test", "lint"} {
		cmd := exec.CommandContext(t.Context(), "make", "-C", dir, target)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
		t.Logf("make %s:\n%s", target, out)
	}
}
