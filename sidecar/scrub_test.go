package sidecar_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/typedmq/typedmq/sidecar"
)

// waiter is a log that tells when a message comes.
type waiter struct {
	slog.Handler
	prefix string
	came   chan slog.Record
}

func (w waiter) Enabled(context.Context, slog.Level) bool { return true }

func (w waiter) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, w.prefix) {
		select {
		case w.came <- r.Clone():
		default:
		}
	}
	return nil
}

func TestASidecarScrubsItsStore(t *testing.T) {
	cfg := settings(t)
	w := waiter{slog.DiscardHandler, "scrub: all that is stored was read", make(chan slog.Record, 1)}
	s, err := sidecar.Start(t.Context(), cfg, slog.New(w))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.came:
	case <-t.Context().Done():
		t.Error("the first pass did not end")
	}
	shutdown(t, s)
}
