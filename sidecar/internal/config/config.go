// Package config is how a sidecar is told what to do: the settings, their defaults and bounds, and the sources they come from.
//
// It reads nothing by itself: the file and the environment are handed in. It knows no flags library: the binary makes a flag of each
// of [Settings].
package config

import (
	"errors"
	"path/filepath"
	"time"
)

// NoSocket is the value of Socket that disables the Unix socket.
const NoSocket = "none"

// MaxSocketPath is the longest path of a Unix socket in bytes that every supported operating system takes.
const MaxSocketPath = 104

const (
	// maxMessageBytes leaves room for key, headers and framing within a batch of 4 MiB.
	maxMessageBytes = 4<<20 - 64<<10
	maxDrainTimeout = time.Hour
	minLeaseTTL     = 5 * time.Second
	maxLeaseTTL     = time.Minute
	leastFreeBytes  = 16 << 20
	mostFreeBytes   = 1 << 40
	minScrubRate    = 64 << 10
	maxScrubRate    = 1 << 30
)

// Config is all that can be set about a sidecar. It is a plain value: copies are independent.
type Config struct {
	// DataDir is the directory of everything that survives a restart. One sidecar uses it at a time.
	DataDir string
	// Listen is the TCP address, "host:port" with a loopback host as an IP address. Port 0 lets the operating system choose.
	Listen string
	// Socket is the path of the Unix socket, at most MaxSocketPath bytes, or NoSocket.
	Socket string
	// DrainTimeout is how long consumers may settle what they hold when the sidecar stops, 0 to 1 hour.
	DrainTimeout time.Duration
	// LeaseTTL is how long a sidecar that went silent keeps what it owns, 5 s to 60 s in whole seconds.
	LeaseTTL time.Duration
	// MaxMessageBytes bounds the payload of a message in bytes, whatever its topic allows: 1 to 4 MiB − 64 KiB.
	MaxMessageBytes int
	// MinFreeBytes is the free disk space below which nothing is published, 16 MiB to 1 TiB. See pebbleengine.Options.
	MinFreeBytes int
	// BallastBytes is the size of the file that gives its room to what frees disk when the disk is full, 0 (none) to 1 TiB.
	BallastBytes int
	// ScrubRate is how fast all that is stored is read in the background to find damage, in bytes per second: 64 KiB to 1 GiB, or 0 for never.
	ScrubRate int
	// Profile serves the Go profiles of the process under /debug/pprof on the Unix socket.
	Profile bool
	// LogLevel is the least level that is logged: "debug", "info", "warn" or "error".
	LogLevel string
	// LogFormat is "text" or "json".
	LogFormat string
}

// Default returns the configuration of a sidecar of which nothing is known but its data directory.
func Default(dataDir string) Config {
	return Config{
		DataDir:         dataDir,
		Listen:          "127.0.0.1:7070",
		Socket:          defaultSocket(dataDir),
		DrainTimeout:    30 * time.Second,
		LeaseTTL:        10 * time.Second,
		MaxMessageBytes: 1 << 20,
		MinFreeBytes:    128 << 20,
		BallastBytes:    64 << 20,
		ScrubRate:       4 << 20,
		LogLevel:        "info",
		LogFormat:       "text",
	}
}

func defaultSocket(dataDir string) string { return filepath.Join(dataDir, "mq.sock") }

// Validate returns every fault of the configuration, joined, each as "where: what; what to write". Load has validated what it returns.
func (c Config) Validate() error {
	return errors.Join(c.faults(func(key string) string { return key })...)
}

// faults checks every setting. where names the place that a setting comes from.
func (c Config) faults(where func(key string) string) []error {
	var faults []error
	for _, s := range settings() {
		if err := s.check(c); err != nil {
			faults = append(faults, &fault{where(s.key), err})
		}
	}
	return faults
}

// fault is one mistake and the place where a person can mend it.
type fault struct {
	where string
	what  error // "what; what to write"
}

func (f *fault) Error() string { return f.where + ": " + f.what.Error() }

func (f *fault) Unwrap() error { return f.what }
