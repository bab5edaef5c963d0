package child

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Sidecar is a sidecar on a directory and socket of its own. It is run and asked through the mq binary, as a person at a terminal would.
type Sidecar struct {
	mq     string // path of the binary
	dir    string
	socket string
}

// NewSidecar returns the sidecar whose data, socket and log are in dir. The length of a socket's path is bounded: dir should be short.
func NewSidecar(mq, dir string) Sidecar {
	return Sidecar{mq: mq, dir: dir, socket: filepath.Join(dir, "mq.sock")}
}

// Address is where the sidecar is, for mq.WithAddress.
func (s Sidecar) Address() string { return "unix://" + s.socket }

// Program is the path of the mq binary.
func (s Sidecar) Program() string { return s.mq }

// Env tells programs where the sidecar is.
func (s Sidecar) Env() []string { return []string{"MQ_ADDR=" + s.Address()} }

// Serve starts the sidecar and returns how long it took to be ready, which it is as soon as it listens.
func (s Sidecar) Serve(ctx context.Context, ended func(*Process)) (*Process, time.Duration, error) {
	begin := time.Now()
	p, err := Start(s.dir, Program{
		Name: "mq", Path: s.mq, Ended: ended,
		Args: []string{"serve", "--data-dir", filepath.Join(s.dir, "data"), "--listen", "127.0.0.1:0", "--socket", s.socket},
	})
	if err != nil {
		return nil, 0, err
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if c, err := net.Dial("unix", s.socket); err == nil {
			return p, time.Since(begin), c.Close()
		}
		select {
		case <-poll.C:
		case <-p.done:
			return p, 0, fmt.Errorf("mq serve ended at its start: %w", p.err)
		case <-ctx.Done():
			return p, 0, fmt.Errorf("mq serve is not ready: %w", context.Cause(ctx))
		}
	}
}

// Ask runs an mq command and reads its JSON answer.
func (s Sidecar) Ask(ctx context.Context, answer any, args ...string) error {
	c := exec.CommandContext(ctx, s.mq, append(args, "--output", "json")...)
	c.Env = append(os.Environ(), s.Env()...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	if err != nil {
		return fmt.Errorf("mq %s: %w %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}
