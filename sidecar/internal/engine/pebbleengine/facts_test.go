//go:build measure

package pebbleengine

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// TestMeasureFacts prints what Pebble alone does on a real file system with a write-ahead log of 1,000 synced keys that is harmed: what docs/store.md rests on.
func TestMeasureFacts(t *testing.T) {
	quiet := pebbleLogger{slog.New(slog.DiscardHandler), nil}
	options := func(v pebble.FormatMajorVersion) *pebble.Options {
		return &pebble.Options{FormatMajorVersion: v, Logger: quiet}
	}
	for _, c := range []struct {
		name   string
		format pebble.FormatMajorVersion
		flush  bool // before the keys: they go to the second log
	}{{"default format", pebble.FormatDefault, false}, {"newest format, first log", pebble.FormatNewest, false}, {"newest format, second log", pebble.FormatNewest, true}} {
		for what, harm := range map[string]func([]byte) []byte{
			"flipped in the middle": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"flipped near the end":  func(b []byte) []byte { b[len(b)-2000] ^= 1; return b },
			"cut to a half":         func(b []byte) []byte { return b[:len(b)/2] },
		} {
			dir := t.TempDir()
			db, err := pebble.Open(dir, options(c.format))
			if err != nil {
				t.Fatal(err)
			}
			if c.flush {
				_ = db.Set([]byte("first"), nil, pebble.Sync)
				_ = db.Flush()
			}
			for i := range 1000 {
				if err := db.Set(fmt.Appendf(nil, "key%04d", i), make([]byte, 100), pebble.Sync); err != nil {
					t.Fatal(err)
				}
			}
			logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			slices.Sort(logs)
			copied := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil { // as after a kill
				t.Fatal(err)
			}
			_ = db.Close()
			last := filepath.Join(copied, filepath.Base(logs[len(logs)-1]))
			content, err := os.ReadFile(last)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(last, harm(content), 0o600); err != nil {
				t.Fatal(err)
			}
			db, err = pebble.Open(copied, options(c.format))
			if err != nil {
				t.Logf("%s, %s: refused: %.60v", c.name, what, err)
				continue
			}
			n := 0
			it, _ := db.NewIter(&pebble.IterOptions{LowerBound: []byte("key")})
			for ok := it.First(); ok; ok = it.Next() {
				n++
			}
			_, _ = it.Close(), db.Close()
			t.Logf("%s, %s: opened with %d of 1,000 keys, no error", c.name, what, n)
		}
	}
}
