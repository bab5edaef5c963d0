package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Setting is one thing that can be set, by its names in the three places where that can be done.
type Setting struct {
	Key      string // in the file: "data_dir"
	Variable string // in the environment: "MQ_DATA_DIR"
	Flag     string // on the command line, without dashes: "data-dir"
	Default  string // as one would write it
	Usage    string // one line
}

// Settings lists everything that can be set, in the order of the reference.
func Settings() []Setting {
	const dataDir = "$XDG_STATE_HOME/typedmq"
	defaults := Default(dataDir)
	defaults.Socket = "<data_dir>/mq.sock"
	var list []Setting
	for _, s := range settings() {
		list = append(list, Setting{Key: s.key, Variable: s.variable(), Flag: s.flag(), Default: s.show(defaults), Usage: s.usage})
	}
	return list
}

// setting knows how to read, write and check one field of Config. Errors of set and check read "what; what to write".
type setting struct {
	key, usage string
	bare       string // the tag of what a bare value of the file may be beside text
	show       func(Config) string
	set        func(*Config, string) error
	check      func(Config) error
}

func (s setting) variable() string { return prefix + strings.ToUpper(s.key) }

func (s setting) flag() string { return strings.ReplaceAll(s.key, "_", "-") }

func settings() []setting {
	return []setting{
		{
			key: "data_dir", usage: "directory of everything that survives a restart",
			show: func(c Config) string { return c.DataDir },
			set:  func(c *Config, v string) error { c.DataDir = v; return nil },
			check: func(c Config) error {
				if c.DataDir == "" {
					return errors.New("is empty; write a directory, such as /var/lib/typedmq")
				}
				return nil
			},
		},
		{
			key: "listen", usage: "TCP address, loopback only; port 0 lets the system choose",
			show: func(c Config) string { return c.Listen },
			set: func(c *Config, v string) error {
				// The name could stand for anything; the address cannot.
				if port, ok := strings.CutPrefix(v, "localhost:"); ok {
					v = "127.0.0.1:" + port
				}
				c.Listen = v
				return nil
			},
			check: func(c Config) error { return checkListen(c.Listen) },
		},
		{
			key: "socket", usage: "path of the Unix socket, or none",
			show: func(c Config) string { return c.Socket },
			set: func(c *Config, v string) error {
				if v == "" {
					return errNoPath
				}
				c.Socket = v
				return nil
			},
			check: func(c Config) error {
				switch {
				case c.Socket == "":
					return errNoPath
				case len(c.Socket) > MaxSocketPath:
					return fmt.Errorf("%q has %d bytes, the path of a socket has at most %d; write a shorter path, or %s for no socket",
						c.Socket, len(c.Socket), MaxSocketPath, NoSocket)
				}
				return nil
			},
		},
		{
			key: "drain_timeout", usage: "how long consumers may settle what they hold when the sidecar stops",
			show:  func(c Config) string { return short(c.DrainTimeout) },
			set:   func(c *Config, v string) error { return setDuration(&c.DrainTimeout, v) },
			check: func(c Config) error { return checkDuration(c.DrainTimeout, 0, maxDrainTimeout) },
		},
		{
			key: "lease_ttl", usage: "how long a sidecar that went silent keeps what it owns",
			show: func(c Config) string { return short(c.LeaseTTL) },
			set:  func(c *Config, v string) error { return setDuration(&c.LeaseTTL, v) },
			check: func(c Config) error {
				if err := checkDuration(c.LeaseTTL, minLeaseTTL, maxLeaseTTL); err != nil {
					return err
				}
				if whole := c.LeaseTTL.Truncate(time.Second); whole != c.LeaseTTL {
					return fmt.Errorf("%v is no whole number of seconds; write one, such as %v", c.LeaseTTL, whole)
				}
				return nil
			},
		},
		{
			key: "max_message_bytes", usage: "largest payload of a message, whatever its topic allows", bare: "!!int",
			show:  func(c Config) string { return strconv.Itoa(c.MaxMessageBytes) },
			set:   func(c *Config, v string) error { return setBytes(&c.MaxMessageBytes, v) },
			check: func(c Config) error { return checkBytes(c.MaxMessageBytes, 1, maxMessageBytes) },
		},
		{
			key: "min_free_bytes", usage: "free disk space below which publishing is refused", bare: "!!int",
			show:  func(c Config) string { return strconv.Itoa(c.MinFreeBytes) },
			set:   func(c *Config, v string) error { return setBytes(&c.MinFreeBytes, v) },
			check: func(c Config) error { return checkBytes(c.MinFreeBytes, leastFreeBytes, mostFreeBytes) },
		},
		{
			key: "ballast_bytes", usage: "size of the file that is given away when the disk is full, 0 for none", bare: "!!int",
			show:  func(c Config) string { return strconv.Itoa(c.BallastBytes) },
			set:   func(c *Config, v string) error { return setBytes(&c.BallastBytes, v) },
			check: func(c Config) error { return checkBytes(c.BallastBytes, 0, mostFreeBytes) },
		},
		{
			key: "scrub_rate", usage: "bytes per second at which all that is stored is read to find damage, 0 for never", bare: "!!int",
			show: func(c Config) string { return strconv.Itoa(c.ScrubRate) },
			set:  func(c *Config, v string) error { return setBytes(&c.ScrubRate, v) },
			check: func(c Config) error {
				if c.ScrubRate != 0 && (c.ScrubRate < minScrubRate || c.ScrubRate > maxScrubRate) {
					return fmt.Errorf("%d is out of bounds; write %d to %d, or 0 for never", c.ScrubRate, minScrubRate, maxScrubRate)
				}
				return nil
			},
		},
		{
			key: "profile", usage: "serve Go's profiles under /debug/pprof on the Unix socket: true or false", bare: "!!bool",
			show: func(c Config) string { return strconv.FormatBool(c.Profile) },
			set: func(c *Config, v string) error {
				switch v {
				case "true", "false":
					c.Profile = v == "true"
					return nil
				}
				return fmt.Errorf("%q is neither; write true or false", v)
			},
			check: func(Config) error { return nil },
		},
		{
			key: "log_level", usage: "least level that is logged: debug, info, warn or error",
			show:  func(c Config) string { return c.LogLevel },
			set:   func(c *Config, v string) error { c.LogLevel = v; return nil },
			check: func(c Config) error { return checkOneOf(c.LogLevel, "debug", "info", "warn", "error") },
		},
		{
			key: "log_format", usage: "how the log is written: text or json",
			show:  func(c Config) string { return c.LogFormat },
			set:   func(c *Config, v string) error { c.LogFormat = v; return nil },
			check: func(c Config) error { return checkOneOf(c.LogFormat, "text", "json") },
		},
	}
}

var errNoPath = errors.New("is empty; write a path, or " + NoSocket + " for no socket")

func checkListen(address string) error {
	const write = "write a loopback address and a port, such as 127.0.0.1:7070"
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port; %s", address, write)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port from 0 to 65535; write one, such as %s", address, net.JoinHostPort(host, "7070"))
	} else if canonical := strconv.FormatUint(n, 10); canonical != port {
		return fmt.Errorf("%q has an odd port; write %s", address, net.JoinHostPort(host, canonical))
	}
	if host == "" {
		host = "0.0.0.0" // what an empty host means to a listener
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return fmt.Errorf("%q has a host that is no IP address; %s", address, write)
	case !ip.IsLoopback():
		return fmt.Errorf("%q: %s needs TLS, which this version does not have; %s", address, host, write)
	}
	return nil
}

func setDuration(to *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("%q is no duration; write a number and a unit, such as 30s", v)
	}
	*to = d
	return nil
}

func checkDuration(d, least, most time.Duration) error {
	if d < least || d > most {
		return fmt.Errorf("%v is out of bounds; write %s to %s", d, short(least), short(most))
	}
	return nil
}

func checkBytes(n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%d is out of bounds; write %d to %d", n, least, most)
	}
	return nil
}

// setBytes reads a number of bytes, or of KiB, MiB or GiB.
func setBytes(to *int, v string) error {
	digits, unit := v, 1
	for suffix, size := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if before, ok := strings.CutSuffix(v, suffix); ok {
			digits, unit = strings.TrimSpace(before), size
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > 1<<62/int64(unit) || n < -1<<62/int64(unit) {
		return fmt.Errorf("%q is no number of bytes; write one, such as 1048576 or 1MiB", v)
	}
	*to = int(n) * unit
	return nil
}

func checkOneOf(v string, names ...string) error {
	if slices.Contains(names, v) {
		return nil
	}
	last := len(names) - 1
	return fmt.Errorf("%q is unknown; write %s or %s", v, strings.Join(names[:last], ", "), names[last])
}

// short writes a duration without its zeros: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
