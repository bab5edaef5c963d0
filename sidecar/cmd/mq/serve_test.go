package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// served is a sidecar that mq serve runs.
type served struct {
	DataDir string `json:"data_dir"`
	Addr    string `json:"addr"`
	Socket  string `json:"socket"`

	stop context.CancelFunc
	done chan int // its exit status
}

// startServe runs mq serve until the test ends and returns when it is ready.
func startServe(t *testing.T, args ...string) *served {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background()) // the test's own context ends before its clean-up
	logs, complaint := io.Pipe()
	s := &served{stop: stop, done: make(chan int, 1)}
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--log-format", "json"}, args...)
	go func() {
		s.done <- run(ctx, args, streams{nil, io.Discard, complaint}, nil)
		_ = complaint.Close()
	}()
	lines := bufio.NewScanner(logs)
	ready := false
	for !ready && lines.Scan() {
		ready = strings.Contains(lines.Text(), `"msg":"ready"`)
		if ready {
			if err := json.Unmarshal(lines.Bytes(), s); err != nil {
				t.Fatal(err)
			}
		} else {
			t.Log(lines.Text())
		}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, logs)
	}()
	t.Cleanup(func() {
		stop()
		<-drained
	})
	if !ready {
		t.Fatalf("mq serve ended with %d before it was ready", <-s.done)
	}
	return s
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	socket := newFake(t).addr + "erve" // a short path that is free
	s := startServe(t, "--data-dir", dir, "--socket", strings.TrimPrefix(socket, "unix://"))
	if s.DataDir != dir || "unix://"+s.Socket != socket || !strings.HasPrefix(s.Addr, "127.0.0.1:") {
		t.Errorf("ready with %+v", s)
	}
	answer, err := http.Get("http://" + s.Addr + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("/readyz answers %s", answer.Status)
	}
	for _, addr := range []string{"http://" + s.Addr, socket} {
		mq(t, nil, nil, "topics", "--addr", addr, "-o", "json").want(t, 0, "{\n  \"topics\": []\n}\n", "")
	}
	mq(t, strings.NewReader(""), []string{"MQ_ADDR=" + socket}, "publish", "nowhere", "{}").want(t, 1, "",
		"mq: topic \"nowhere\" is unknown: declare it first (TOPIC_UNKNOWN, topic)\nhint: mq topics lists the topics; an application declares its own when it connects\n")

	// The directory is locked now.
	got := mq(t, nil, nil, "serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--socket", "none")
	if got.status != 3 || !strings.Contains(got.err, "open in another process; stop the other sidecar or choose another directory with --data-dir\n") {
		t.Errorf("a second sidecar on the directory: %+v", got)
	}
	// So is the port.
	got = mq(t, nil, nil, "serve", "--data-dir", t.TempDir(), "--listen", s.Addr, "--socket", "none")
	if got.status != 1 || !strings.Contains(got.err, "address already in use") || !strings.HasSuffix(got.err, "choose another address with --listen\n") {
		t.Errorf("a second sidecar on the port: %+v", got)
	}

	s.stop()
	if status := <-s.done; status != 0 {
		t.Errorf("exit status %d after the first signal", status)
	}
	if _, err := os.Stat(s.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestServeRefusesConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mq.yaml")
	if err := os.WriteFile(file, []byte("listen: 0.0.0.0:7070\ndrain_timout: 5s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	mq(t, nil, []string{"MQ_CONFIG=" + file, "MQ_LISTN=x"}, "serve", "--data-dir", dir, "--socket", "none", "--lease-ttl", "1s").want(t, 2, "",
		"mq: "+file+`:2: unknown key "drain_timout"; the nearest known one is drain_timeout
mq: MQ_LISTN: unknown variable; the nearest known one is MQ_LISTEN
mq: `+file+`:1: listen: "0.0.0.0:7070": 0.0.0.0 needs TLS, which this version does not have; write a loopback address and a port, such as 127.0.0.1:7070
mq: --lease-ttl: 1s is out of bounds; write 5s to 1m
`)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory was touched: %v", err)
	}
}

func TestServeRefusesDataDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	newer := t.TempDir()
	if err := os.Mkdir(filepath.Join(newer, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(newer, "store", "FORMAT"), []byte("typedmq engine 999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, dir, want string }{
		{"a file", file, "not a directory; create it or choose another with --data-dir"},
		{"a newer format", newer, "use the version that wrote it, or a later one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := mq(t, nil, nil, "serve", "--data-dir", tt.dir, "--listen", "127.0.0.1:0", "--socket", "none")
			if got.status != 3 || !strings.HasPrefix(got.err, "mq: data directory cannot be used: ") || !strings.Contains(got.err, tt.want) {
				t.Errorf("got %+v, want %s", got, tt.want)
			}
		})
	}
}

// faulty is a sidecar that fails when told to.
type faulty struct {
	failed   chan error
	shutdown func(context.Context) error
}

func (f *faulty) Failed() <-chan error               { return f.failed }
func (f *faulty) Shutdown(ctx context.Context) error { return f.shutdown(ctx) }

func TestSupervise(t *testing.T) {
	disk, late := errors.New("the disk is gone"), errors.New("too late")
	silent := slog.New(slog.DiscardHandler)
	well := func(ctx context.Context) error { return ctx.Err() } // a drain must not begin with a context that is over
	t.Run("a signal", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := supervise(ctx, &faulty{make(chan error), well}, time.Minute, silent); err != nil {
			t.Error(err)
		}
	})
	t.Run("a drain that fails", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		f := &faulty{make(chan error), func(context.Context) error { return late }}
		if err := supervise(ctx, f, time.Minute, silent); !errors.Is(err, late) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a failure while it drains", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		f := &faulty{failed: make(chan error, 1)}
		f.shutdown = func(context.Context) error { f.failed <- disk; return nil }
		if err := supervise(ctx, f, time.Minute, silent); !errors.Is(err, disk) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a failure", func(t *testing.T) {
		f := &faulty{make(chan error, 1), func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("shutting down after a failure has no bound")
			}
			return late
		}}
		f.failed <- disk
		err := supervise(t.Context(), f, time.Minute, silent)
		if !errors.Is(err, disk) {
			t.Errorf("got %v", err)
		}
		if status := report(io.Discard, "mq serve", err); status != 1 {
			t.Errorf("exit status %d", status)
		}
	})
}
