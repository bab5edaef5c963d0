package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
	"github.com/typedmq/typedmq/runtime/mq"
)

// sidecar is a running mq serve on a data directory of its own.
type sidecar struct {
	settings
	command *exec.Cmd
	exited  chan struct{}
	log     *tail
	dir     string
	address string // of its clients
	socket  string
	clients []*mq.Client
}

// readyWithin bounds the start of a sidecar.
const readyWithin = 30 * time.Second

// start runs a sidecar, which close ends, and waits until it listens.
func (s settings) start(ctx context.Context) (*sidecar, error) {
	return s.startAs(ctx, s.binary, func(dir, listen, socket string) []string {
		return []string{"serve", "--data-dir", filepath.Join(dir, "data"), "--listen", listen, "--socket", socket, "--profile", "true", "--log-level", "warn"}
	})
}

// startAs runs another program in the sidecar's place.
func (s settings) startAs(ctx context.Context, program string, args func(dir, listen, socket string) []string) (*sidecar, error) {
	dir, err := os.MkdirTemp(s.dir, "mqbench")
	if err != nil {
		return nil, err
	}
	c := &sidecar{settings: s, dir: dir, socket: filepath.Join(dir, "s"), exited: make(chan struct{}), log: &tail{}}
	listen := "127.0.0.1:0"
	if s.tcp {
		if listen, err = freePort(ctx); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	c.command = exec.Command(program, args(dir, listen, c.socket)...)
	c.command.Stderr = c.log
	c.command.Env = withoutSettings(os.Environ())
	process.Bind(c.command)
	if err := c.command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), os.RemoveAll(dir))
	}
	go func() {
		_ = c.command.Wait()
		close(c.exited)
	}()
	c.address = "unix://" + c.socket
	if s.tcp {
		c.address = "http://" + listen
	}
	if err := c.ready(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// with runs a sidecar for the time of a function.
func (s settings) with(ctx context.Context, do func(*sidecar) ([]measured, error)) (out []measured, err error) {
	c, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	return do(c)
}

// ready returns when it takes connections.
func (c *sidecar) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("it did not listen within %v", readyWithin))
	defer cancel()
	for {
		conn, err := c.dial(ctx)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-c.exited:
			return c.gone()
		case <-ctx.Done():
			return fmt.Errorf("mq serve: %w", context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// dial connects to where its clients connect to.
func (c *sidecar) dial(ctx context.Context) (net.Conn, error) {
	if address, ok := strings.CutPrefix(c.address, "http://"); ok {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	return new(net.Dialer).DialContext(ctx, "unix", c.socket)
}

// gone is the error of a sidecar that ended by itself, with the last that it said.
func (c *sidecar) gone() error {
	return fmt.Errorf("mq serve ended: %v\n%s", c.command.ProcessState, c.log)
}

// client returns a new client, on a connection of its own.
func (c *sidecar) client(ctx context.Context) (*mq.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	client, err := mq.Dial(ctx, mq.WithAddress(c.address), mq.WithClientName("mqbench"))
	if err != nil {
		return nil, err
	}
	c.clients = append(c.clients, client)
	return client, nil
}

// close ends the clients and the sidecar, and removes its data.
func (c *sidecar) close() error {
	for _, client := range c.clients {
		_ = client.Close()
	}
	_ = c.command.Process.Kill()
	<-c.exited
	return os.RemoveAll(c.dir)
}

func (c *sidecar) pid() int { return c.command.Process.Pid }

// freePort returns an address that nobody listens on at this moment.
func freePort(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// withoutSettings leaves out what would change the sidecar, so that runs can be compared.
func withoutSettings(environ []string) []string {
	var out []string
	for _, v := range environ {
		if !strings.HasPrefix(v, "MQ_") {
			out = append(out, v)
		}
	}
	return out
}

// tail keeps the last of what is written to it. It is written to by one goroutine, and read after that has ended.
type tail struct{ last []byte }

func (t *tail) Write(p []byte) (int, error) {
	const kept = 4096
	t.last = append(t.last, p...)
	if len(t.last) > 2*kept {
		t.last = append(t.last[:0], t.last[len(t.last)-kept:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.last)) }
