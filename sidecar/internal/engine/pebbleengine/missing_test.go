package pebbleengine

import (
	"errors"
	"strings"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestAMissingFileOfValuesQuarantinesItsLog: it ends neither the sidecar nor the check, and other logs serve.
func TestAMissingFileOfValuesQuarantinesItsLog(t *testing.T) {
	fs := withValues(t, 5)
	e := openOn(t, fs, Options{})
	appendTo(t, e, logA, "small") // the last chunk, kept in a table: without it all of the log is quarantined
	appendTo(t, e, logB, "small")
	closeEngine(t, e)
	if err := fs.Remove(fs.PathJoin(dir, newest(t, fs, suffix(".blob")))); err != nil {
		t.Fatal(err)
	}
	if found, _ := checked(t, fs); !strings.Contains(strings.Join(found, "\n"), "log 1/2/3 at 10: "+errNoValues.Error()) {
		t.Errorf("the check found %q", found)
	}
	e = openOn(t, fs, Options{})
	defer closeEngine(t, e)
	var bad *engine.CorruptError
	if _, err := e.Read(t.Context(), logA, 10, 1<<20); !errors.As(err, &bad) || bad.Offset != 10 {
		t.Errorf("reading what is missing: %v", err)
	}
	if chunks, err := e.Read(t.Context(), logA, 0, 1<<20); err != nil || len(chunks) != 10 {
		t.Errorf("what is before has %d chunks, %v", len(chunks), err)
	}
	appendTo(t, e, logB, "more")
}
