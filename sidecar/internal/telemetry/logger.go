// Package telemetry is how a sidecar tells people what it does: its logger, and the log of calls that failed.
//
// It never sees or writes what messages contain.
package telemetry

import (
	"io"
	"log/slog"
)

// NewLogger returns a logger that writes lines to w, from the level "debug", "info", "warn" or "error" up and as "text" or "json". An
// unknown level counts as "info", an unknown format as "text". It may be used concurrently; writes to w are serialised.
func NewLogger(w io.Writer, level, format string) *slog.Logger {
	var least slog.Level
	if least.UnmarshalText([]byte(level)) != nil {
		least = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: least}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
