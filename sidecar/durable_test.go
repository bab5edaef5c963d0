package sidecar

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMakeDurably(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 { // what is there is synced again
		if err := makeDurably(deep); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(deep); err != nil || !info.IsDir() {
		t.Errorf("%v, %v", info, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var path *os.PathError
	for _, name := range []string{file, filepath.Join(file, "below")} {
		if err := makeDurably(name); !errors.As(err, &path) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}
