package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a program that the demo started. What it writes to stderr, and to stdout if nobody reads it, is in its log.
type process struct {
	name     string
	log      string // path
	command  *exec.Cmd
	stdin    io.WriteCloser
	stopping atomic.Bool
	done     chan struct{} // closed when the process has ended and its output is read
	err      error         // of the process or of read; valid once done is closed
}

// program is what to start.
type program struct {
	name  string
	path  string
	args  []string
	env   []string           // added to that of the demo
	read  func(string) error // takes the lines of stdout; may be nil
	ended func(*process)     // called once, when it has ended without stop; may be nil
}

// start starts a program. Its process must be stopped.
func start(dir string, p program) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	c := exec.Command(p.path, p.args...)
	c.Env = append(os.Environ(), p.env...)
	c.Stdout, c.Stderr = log, log
	stdin, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	var stdout io.Reader
	if p.read != nil {
		c.Stdout = nil
		if stdout, err = c.StdoutPipe(); err != nil {
			return nil, err
		}
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	started := &process{name: p.name, log: log.Name(), command: c, stdin: stdin, done: make(chan struct{})}
	go started.run(stdout, p.read, p.ended)
	return started, nil
}

func (p *process) run(stdout io.Reader, read func(string) error, ended func(*process)) {
	var unread error
	if stdout != nil {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if err := read(lines.Text()); err != nil && unread == nil {
				unread = err
			}
		}
	}
	p.err = errors.Join(p.command.Wait(), unread)
	close(p.done)
	if ended != nil && !p.stopping.Load() {
		ended(p)
	}
}

// say writes a line to the process's stdin.
func (p *process) say(line string) error {
	_, err := io.WriteString(p.stdin, line+"\n")
	return err
}

// kill ends the process as a crash would, and waits until it is gone.
func (p *process) kill() {
	p.stopping.Store(true)
	_ = p.command.Process.Kill() // fails only if it has ended
	<-p.done
}

// stop lets the process drain, kills it if that takes longer than patience, and waits until it is gone. It returns what was
// wrong with its end.
func (p *process) stop(patience time.Duration) error {
	p.stopping.Store(true)
	_ = p.command.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.kill()
		return fmt.Errorf("%s did not stop within %v", p.name, patience)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.name, p.err)
	}
	return nil
}

// lastWords is the end of the process's log.
func (p *process) lastWords() string {
	const most = 600
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
