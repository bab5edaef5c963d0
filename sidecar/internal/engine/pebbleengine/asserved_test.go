package pebbleengine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// withValues is a store that has files of values, a manifest with more than one edit, and in its newest write-ahead log as many records of 6 kB.
func withValues(t *testing.T, records int) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	for range 3 {
		e := openOn(t, fs, Options{})
		for range records {
			appendTo(t, e, logA, strings.Repeat("large ", 1000))
		}
		closeEngine(t, e)
	}
	return fs
}

// newest is the file with the highest number among those that match.
func newest(t *testing.T, fs vfs.FS, match func(name string) bool) (name string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if match(n) && (name == "" || fileNumber(n) > fileNumber(name)) {
			name = n
		}
	}
	return name
}

// TestACheckFindsWhatTheSidecarWouldServe: damage that the sidecar puts right is told as that, with file and place, nothing else is found, no file changes, and
// the sidecar then does what was said.
func TestACheckFindsWhatTheSidecarWouldServe(t *testing.T) {
	lines, whole := checked(t, withValues(t, 5))
	if len(lines) > 0 || whole.Records != 15 {
		t.Fatalf("before: found %q in %+v", lines, whole)
	}
	for what, tc := range map[string]struct {
		file func(name string) bool
		at   int // from the end if it is negative
		want int // findings
	}{
		"the first record of the log": {suffix(".log"), 12, 1},
		"the middle of the log":       {suffix(".log"), 9000, 1},
		"the manifest":                {func(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }, 9, 1},
		"the end of a file of values": {suffix(".blob"), -20, 1},
		"the file of options":         {isOptions, 40, 0},
	} {
		t.Run(what, func(t *testing.T) {
			fs := withValues(t, 5)
			file, at := newest(t, fs, tc.file), tc.at
			rewrite(t, fs, func(n string) bool { return n == file }, func(b []byte) []byte {
				if at < 0 {
					at += len(b)
				}
				b[at] ^= 16
				return b
			})
			before := contents(t, fs)
			found, tally := checked(t, fs)
			want := fmt.Sprintf("%s at byte %d: a bit is flipped; start the sidecar", file, at)
			if len(found) != tc.want || len(found) > 0 && !strings.HasPrefix(found[0], want) || tally != whole {
				t.Errorf("found %q, want %d like %q; in %+v, want %+v", found, tc.want, want, tally, whole)
			}
			if contents(t, fs) != before {
				t.Error("the check changed the store's files")
			}
			e := openOn(t, fs, Options{})
			if chunks, err := e.Read(t.Context(), logA, 0, 1<<20); err != nil || len(chunks) != 15 {
				t.Errorf("the sidecar reads %d chunks, %v", len(chunks), err)
			}
			closeEngine(t, e)
			if found, _ := checked(t, fs); len(found) > 0 {
				t.Errorf("after a start: found %q", found)
			}
		})
	}
}

// TestACheckNamesTheFileThatTheSidecarRefuses: damage that keeps the sidecar from starting is told with the file, whether Pebble alone would open the store short
// or not.
func TestACheckNamesTheFileThatTheSidecarRefuses(t *testing.T) {
	for name, records := range map[string]int{"Pebble opens it short": 5, "Pebble refuses it": 30} {
		t.Run(name, func(t *testing.T) {
			fs := withValues(t, records)
			file := newest(t, fs, suffix(".log"))
			rewrite(t, fs, func(n string) bool { return n == file }, func(b []byte) []byte {
				copy(b[9_000:], strings.Repeat("x", 100))
				return b
			})
			var refusal *DamageError
			if _, err := Open(dir, Options{FS: fs}); !errors.As(err, &refusal) {
				t.Fatalf("opening: %v", err)
			}
			o, err := OpenOffline(dir, Options{FS: fs})
			if unsound := (*UnsoundError)(nil); records == 30 && errors.As(err, &unsound) {
				if !strings.Contains(err.Error(), refusal.Error()) {
					t.Errorf("%v: want %v", err, refusal)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			_, err = o.Check(t.Context(), func(f engine.Finding) { found = append(found, f.String()) }, func(int64) {})
			if err := errors.Join(err, o.Close()); err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 || !strings.HasPrefix(found[0], file+" at byte") || !strings.Contains(found[0], doRefused) {
				t.Errorf("found %q, want %v", found, refusal)
			}
		})
	}
}
