package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// A child is a process that this one started, in a process group of its own, so that a Ctrl-C reaches it through this process only. On Linux it
// ends with this process, however that ends.
type child struct {
	name   string
	log    string // path of what it writes to stdout and stderr
	pid    int
	ended  chan struct{} // closed when it has ended
	failed error         // of its end; valid once ended is closed
}

// A program is what to start.
type program struct {
	name string // of its log, too
	path string
	args []string
	env  []string // added to that of this process
}

// startChild starts a program, with its log in dir. It must be killed.
func startChild(dir string, p program) (*child, error) {
	c := &child{name: p.name, log: filepath.Join(dir, p.name+".log"), ended: make(chan struct{})}
	log, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	command := exec.Command(p.path, p.args...)
	command.Env = append(os.Environ(), p.env...)
	command.Stdout, command.Stderr = log, log
	process.Bind(command)
	started := make(chan error)
	go func() {
		// The kernel ends the child with the thread that started it, so the thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := command.Start()
		if err == nil {
			c.pid = command.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		c.failed = command.Wait()
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return c, nil
}

// kill ends the child and what it started, and waits until it is gone.
func (c *child) kill() {
	_ = syscall.Kill(-c.pid, syscall.SIGKILL) // fails only if all of the group have ended
	<-c.ended
}

// wait waits until the child has ended. When ctx ends first, the child is asked to end, and killed with all it started if it takes more than patience.
func (c *child) wait(ctx context.Context, patience time.Duration) error {
	select {
	case <-c.ended:
		return c.failed
	case <-ctx.Done():
	}
	_ = syscall.Kill(-c.pid, syscall.SIGINT)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-timer.C:
	}
	c.kill()
	return ctx.Err()
}

// ready calls try every few milliseconds until it returns no error. It gives up when the child has ended, or patience.
func (c *child) ready(ctx context.Context, patience time.Duration, try func() error) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ended:
			return fmt.Errorf("%s ended: %w", c.name, errors.Join(c.failed, c.lastWords()))
		case <-deadline.C:
			return fmt.Errorf("%s was not ready after %v: %w", c.name, patience, errors.Join(err, c.lastWords()))
		case <-again.C:
		}
	}
}

// output is what the child has written so far.
func (c *child) output() string {
	raw, _ := os.ReadFile(c.log)
	return string(raw)
}

// lastWords is the end of the child's output.
func (c *child) lastWords() error {
	lines := bytes.Split(bytes.TrimSpace([]byte(c.output())), []byte("\n"))
	return errors.New(strings.TrimSpace(string(bytes.Join(lines[max(0, len(lines)-3):], []byte(" | ")))))
}

// freePort returns a port of the loopback interface that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
