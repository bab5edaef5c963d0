package mqtest

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
)

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// logOnFailure returns a logger whose lines are shown at the end of the test, if it failed.
func logOnFailure(t testing.TB) *slog.Logger {
	l := &lines{}
	t.Cleanup(func() {
		t.Helper()
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.Failed() && l.text.Len() > 0 {
			t.Logf("mqtest: the sidecar and its clients logged:\n%s", l.text.String())
		}
	})
	return slog.New(slog.NewTextHandler(l, nil))
}
