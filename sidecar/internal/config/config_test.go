package config_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/config"
)

// load runs Load in /work with a home of /home/ann.
func load(file string, environ []string, flags map[string]string) (config.Config, error) {
	src := config.Sources{
		Environ: append([]string{"HOME=/home/ann", "PATH=/bin"}, environ...), Flags: flags, WorkingDir: "/srv",
		ReadFile: func(name string) ([]byte, error) {
			if name != "/srv/mq.yaml" || file == "" {
				return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			}
			return []byte(file), nil
		},
	}
	if file != "" {
		src.File = "mq.yaml"
	}
	return config.Load(src)
}

func TestLaterSourcesWin(t *testing.T) {
	base := config.Default("/home/ann/.local/state/typedmq")
	tests := []struct {
		name    string
		file    string
		environ []string
		flags   map[string]string
		want    func(*config.Config)
	}{
		{"defaults", "", nil, nil, func(*config.Config) {}},
		{"an empty file", "# nothing\n", nil, nil, func(*config.Config) {}},
		{"a null document", "---\n", nil, nil, func(*config.Config) {}},
		{"the socket follows the data directory", "", nil, map[string]string{"data-dir": "/data"}, func(c *config.Config) {
			c.DataDir, c.Socket = "/data", "/data/mq.sock"
		}},
		{"relative paths", "data_dir: data\nsocket: run/mq.sock\n", nil, nil, func(c *config.Config) {
			c.DataDir, c.Socket = "/srv/data", "/srv/run/mq.sock"
		}},
		{"a file", "listen: \"[::1]:0\"\nsocket: none\ndrain_timeout: 1m\nlease_ttl: 5s\nmax_message_bytes: 65536\nmin_free_bytes: 2 GiB\nballast_bytes: 0\nscrub_rate: 0\nprofile: true\nlog_level: debug\nlog_format: json\n", nil, nil,
			func(c *config.Config) {
				c.Listen, c.Socket, c.DrainTimeout, c.LeaseTTL, c.MaxMessageBytes, c.ScrubRate, c.Profile = "[::1]:0", "none", time.Minute, 5*time.Second, 65536, 0, true
				c.MinFreeBytes, c.BallastBytes = 2<<30, 0
				c.LogLevel, c.LogFormat = "debug", "json"
			}},
		{"an alias", "log_level: &l debug\nlog_format: text\n", nil, nil, func(c *config.Config) { c.LogLevel = "debug" }},
		{"environment over file", "lease_ttl: 5s\nlog_level: debug\n", []string{"MQ_LEASE_TTL=20s"}, nil, func(c *config.Config) {
			c.LeaseTTL, c.LogLevel = 20*time.Second, "debug"
		}},
		{"flags over environment", "lease_ttl: 5s\n", []string{"MQ_LEASE_TTL=20s"}, map[string]string{"lease-ttl": "30s"}, func(c *config.Config) {
			c.LeaseTTL = 30 * time.Second
		}},
		{"an empty variable is not set", "", []string{"MQ_LISTEN=", "MQ_CONFIG="}, nil, func(*config.Config) {}},
		{"localhost is an address", "", nil, map[string]string{"listen": "localhost:9"}, func(c *config.Config) { c.Listen = "127.0.0.1:9" }},
		{"units of bytes", "", nil, map[string]string{"max-message-bytes": "2 MiB"}, func(c *config.Config) { c.MaxMessageBytes = 2 << 20 }},
		{"XDG_STATE_HOME", "", []string{"XDG_STATE_HOME=/state"}, nil, func(c *config.Config) {
			c.DataDir, c.Socket = "/state/typedmq", "/state/typedmq/mq.sock"
		}},
		{"no home", "", []string{"HOME="}, nil, func(c *config.Config) { c.DataDir, c.Socket = "/srv/mq-data", "/srv/mq-data/mq.sock" }},
		{"the address of clients", "", []string{"MQ_ADDR=http://127.0.0.1:1"}, nil, func(*config.Config) {}},
		{"service links of Kubernetes", "", []string{
			"MQ_SERVICE_HOST=10.0.0.1", "MQ_SERVICE_PORT=7070", "MQ_SERVICE_PORT_GRPC=7070", "MQ_PORT=tcp://10.0.0.1:7070",
			"MQ_PORT_7070_TCP=tcp://10.0.0.1:7070", "MQ_PORT_7070_TCP_PROTO=tcp", "MQ_PORT_7070_TCP_PORT=7070", "MQ_PORT_7070_TCP_ADDR=10.0.0.1",
			"MQ_EDGE_SERVICE_HOST=10.0.0.2", "MQ_EDGE_PORT=tcp://10.0.0.2:80",
		}, nil, func(*config.Config) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := base
			tt.want(&want)
			got, err := load(tt.file, tt.environ, tt.flags)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	long := "/run/" + strings.Repeat("x", 100)
	tests := []struct {
		name    string
		file    string
		environ []string
		flags   map[string]string
		want    string
	}{
		{"unknown key", "# comment\ndata-dirr: /data\n", nil, nil, `mq.yaml:2: unknown key "data-dirr"; the nearest known one is data_dir`},
		{"a key as a flag is written", "log-level: info\n", nil, nil, `mq.yaml:1: unknown key "log-level"; the nearest known one is log_level`},
		{"unknown variable", "", []string{"MQ_LISTN=127.0.0.1:1"}, nil, `MQ_LISTN: unknown variable; the nearest known one is MQ_LISTEN`},
		{"a port that is no service link", "", []string{"MQ_PORT=7070"}, nil, `MQ_PORT: unknown variable; the nearest known one is MQ_ADDR`},
		{"missing file", "", []string{"MQ_CONFIG=no.yaml"}, nil, `MQ_CONFIG: no.yaml cannot be read: file does not exist; write the path of a file that can`},
		{"syntax", "listen: a: b\n", nil, nil, `mq.yaml:1: mapping values are not allowed in this context; write YAML lines of key: value`},
		{"not a mapping", "- listen\n", nil, nil, `mq.yaml:1: is a list; write lines of key: value`},
		{"two documents", "listen: 127.0.0.1:1\n---\nlisten: 127.0.0.1:2\n", nil, nil, `mq.yaml:2: a second document begins; write one`},
		{"a key twice", "log_level: info\nlisten: 127.0.0.1:1\nlog_level: debug\n", nil, nil, `mq.yaml:3: log_level: is also on line 1; write it once`},
		{"a list as key", "[a]: b\n", nil, nil, `mq.yaml:1: a key is a list; write one of the known keys, such as data_dir`},
		{"no value", "listen:\n", nil, nil, `mq.yaml:1: listen: has no value; write one, or remove the line`},
		{"a list", "listen: [127.0.0.1:1]\n", nil, nil, `mq.yaml:1: listen: is a list; write one value`},
		{"a boolean as text", "data_dir: true\n", nil, nil, `mq.yaml:1: data_dir: true is a boolean; write text, in quotes if it is meant so`},
		{"a bare number as duration", "drain_timeout: 30\n", nil, nil, `mq.yaml:1: drain_timeout: "30" is no duration; write a number and a unit, such as 30s`},
		{"text as number", "max_message_bytes: big\n", nil, nil, `mq.yaml:1: max_message_bytes: "big" is no number of bytes; write one, such as 1048576 or 1MiB`},
		{"all addresses", "", nil, map[string]string{"listen": "0.0.0.0:7070"},
			`--listen: "0.0.0.0:7070": 0.0.0.0 needs TLS, which this version does not have; write a loopback address and a port, such as 127.0.0.1:7070`},
		{"all addresses, unnamed", "", nil, map[string]string{"listen": ":7070"},
			`--listen: ":7070": 0.0.0.0 needs TLS, which this version does not have; write a loopback address and a port, such as 127.0.0.1:7070`},
		{"all addresses of IPv6", "", nil, map[string]string{"listen": "[::]:7070"},
			`--listen: "[::]:7070": :: needs TLS, which this version does not have; write a loopback address and a port, such as 127.0.0.1:7070`},
		{"an address of the network", "", nil, map[string]string{"listen": "192.0.2.1:7070"},
			`--listen: "192.0.2.1:7070": 192.0.2.1 needs TLS, which this version does not have; write a loopback address and a port, such as 127.0.0.1:7070`},
		{"a name", "", []string{"MQ_LISTEN=mq.example:7070"}, nil,
			`MQ_LISTEN: "mq.example:7070" has a host that is no IP address; write a loopback address and a port, such as 127.0.0.1:7070`},
		{"no port", "listen: 127.0.0.1\n", nil, nil,
			`mq.yaml:1: listen: "127.0.0.1" is not host:port; write a loopback address and a port, such as 127.0.0.1:7070`},
		{"a port out of range", "listen: 127.0.0.1:70700\n", nil, nil, `mq.yaml:1: listen: "127.0.0.1:70700" has no port from 0 to 65535; write one, such as 127.0.0.1:7070`},
		{"no data directory", "", nil, map[string]string{"data-dir": ""}, `--data-dir: is empty; write a directory, such as /var/lib/typedmq`},
		{"no socket", "", nil, map[string]string{"socket": ""}, `--socket: is empty; write a path, or none for no socket`},
		{"long socket", "socket: " + long + "\n", nil, nil,
			`mq.yaml:1: socket: "` + long + `" has 105 bytes, the path of a socket has at most 104; write a shorter path, or none for no socket`},
		{"drain too long", "", []string{"MQ_DRAIN_TIMEOUT=2h"}, nil, `MQ_DRAIN_TIMEOUT: 2h0m0s is out of bounds; write 0s to 1h`},
		{"drain negative", "", []string{"MQ_DRAIN_TIMEOUT=-1s"}, nil, `MQ_DRAIN_TIMEOUT: -1s is out of bounds; write 0s to 1h`},
		{"lease too short", "", nil, map[string]string{"lease-ttl": "4s"}, `--lease-ttl: 4s is out of bounds; write 5s to 1m`},
		{"lease too long", "", nil, map[string]string{"lease-ttl": "61s"}, `--lease-ttl: 1m1s is out of bounds; write 5s to 1m`},
		{"lease with a fraction", "", nil, map[string]string{"lease-ttl": "5500ms"}, `--lease-ttl: 5.5s is no whole number of seconds; write one, such as 5s`},
		{"a scrub too slow", "scrub_rate: 1KiB\n", nil, nil, `mq.yaml:1: scrub_rate: 1024 is out of bounds; write 65536 to 1073741824, or 0 for never`},
		{"a profile of neither", "profile: yes please\n", nil, nil, `mq.yaml:1: profile: "yes please" is neither; write true or false`},
		{"a scrub below nothing", "scrub_rate: -1\n", nil, nil, `mq.yaml:1: scrub_rate: -1 is out of bounds; write 65536 to 1073741824, or 0 for never`},
		{"messages too large", "max_message_bytes: 4MiB\n", nil, nil, `mq.yaml:1: max_message_bytes: 4194304 is out of bounds; write 1 to 4128768`},
		{"messages of nothing", "max_message_bytes: 0\n", nil, nil, `mq.yaml:1: max_message_bytes: 0 is out of bounds; write 1 to 4128768`},
		{"no free disk", "min_free_bytes: 0\n", nil, nil, `mq.yaml:1: min_free_bytes: 0 is out of bounds; write 16777216 to 1099511627776`},
		{"level", "log_level: loud\n", nil, nil, `mq.yaml:1: log_level: "loud" is unknown; write debug, info, warn or error`},
		{"format", "log_format: xml\n", nil, nil, `mq.yaml:1: log_format: "xml" is unknown; write text or json`},
		{"a fault that a later source would hide", "lease_ttl: soon\n", nil, map[string]string{"lease-ttl": "9s"},
			`mq.yaml:1: lease_ttl: "soon" is no duration; write a number and a unit, such as 30s`},
		{"all at once", "lisen: x\nlease_ttl: 1s\nlog_level: loud\n", []string{"MQ_TTL=1", "MQ_LOG_FORMAT=xml"}, map[string]string{"drain-timeout": "x"},
			`mq.yaml:1: unknown key "lisen"; the nearest known one is listen
MQ_TTL: unknown variable; the nearest known one is MQ_ADDR
--drain-timeout: "x" is no duration; write a number and a unit, such as 30s
mq.yaml:2: lease_ttl: 1s is out of bounds; write 5s to 1m
mq.yaml:3: log_level: "loud" is unknown; write debug, info, warn or error
MQ_LOG_FORMAT: "xml" is unknown; write text or json`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(tt.file, tt.environ, tt.flags)
			if err == nil {
				t.Fatalf("no error, got %+v", c)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

func TestMissingFileIsRecognised(t *testing.T) {
	if _, err := load("", []string{"MQ_CONFIG=no.yaml"}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestValidateNamesKeys(t *testing.T) {
	if err := config.Default(t.TempDir()).Validate(); err != nil && !strings.HasPrefix(err.Error(), "socket: ") { // a long TMPDIR
		t.Error(err)
	}
	err := config.Config{Listen: "localhost:1"}.Validate()
	want := `data_dir: is empty; write a directory, such as /var/lib/typedmq
listen: "localhost:1" has a host that is no IP address; write a loopback address and a port, such as 127.0.0.1:7070
socket: is empty; write a path, or none for no socket
lease_ttl: 0s is out of bounds; write 5s to 1m
max_message_bytes: 0 is out of bounds; write 1 to 4128768
min_free_bytes: 0 is out of bounds; write 16777216 to 1099511627776
log_level: "" is unknown; write debug, info, warn or error
log_format: "" is unknown; write text or json`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// The reference lists every setting with all of its names and its default, and no other.
func TestReferenceIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../../docs/formats/config.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.HasPrefix(cells[1], " `") {
			rows[strings.Trim(cells[1], " `")] = line
		}
	}
	for _, s := range config.Settings() {
		row := rows[s.Key]
		for _, part := range []string{"`" + s.Key + "`", "`" + s.Variable + "`", "`--" + s.Flag + "`", "`" + s.Default + "`"} {
			if !strings.Contains(row, part) {
				t.Errorf("the row of %s in docs/formats/config.md lacks %s: %q", s.Key, part, row)
			}
		}
		delete(rows, s.Key)
	}
	if len(rows) > 0 {
		t.Errorf("docs/formats/config.md has rows for %q", slices.Sorted(maps.Keys(rows)))
	}
}

// The example of the reference is a file that loads.
func TestReferenceExampleLoads(t *testing.T) {
	text, err := os.ReadFile("../../../docs/formats/config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/formats/config.md has no YAML example")
	}
	if _, err := load(example, nil, nil); err != nil {
		t.Error(err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add("listen: 127.0.0.1:1\n")
	f.Add("a: &a [*a]\n")
	f.Add("? [x]\n: y\n")
	f.Fuzz(func(_ *testing.T, file string) { _, _ = load(file, nil, nil) })
}
