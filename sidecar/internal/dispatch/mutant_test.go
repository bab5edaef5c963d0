//go:build !mutants

package dispatch

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestSeededBugsAreCompiledAway: without the build tag nothing of them is in the binary, so the hot path is as if they were not in the source.
func TestSeededBugsAreCompiledAway(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Skip(err)
	}
	for _, words := range [][]string{{"requeue", "at", "tail"}, {"timer", "leak"}} { // in pieces, so that this test does not find itself
		if name := strings.Join(words, "-"); bytes.Contains(binary, []byte(name)) {
			t.Errorf("the binary has %s", name)
		}
	}
}
