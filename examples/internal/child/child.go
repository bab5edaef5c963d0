// Package child runs programs as child processes: those of an example, and `mq serve` beside them. It is how the examples show typedmq
// end to end, not something that a service needs.
package child

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

// Process is a program that was started. What it writes to stderr, and to stdout if nobody reads it, is in its log.
type Process struct {
	Name     string
	log      string // path
	command  *exec.Cmd
	stdin    io.WriteCloser
	stopping atomic.Bool
	done     chan struct{} // closed when the process has ended and its output is read
	err      error         // of the process or of Read; valid once done is closed
}

// Program is what to start.
type Program struct {
	Name  string // of its log, too
	Path  string
	Args  []string
	Env   []string           // added to that of this process
	Read  func(string) error // takes the lines of stdout; may be nil
	Ended func(*Process)     // called once, when it has ended without Stop or Kill; may be nil
}

// Start starts a program, with its log in dir. Its process must be stopped.
func Start(dir string, p Program) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(dir, p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	c := exec.Command(p.Path, p.Args...)
	c.Env = append(os.Environ(), p.Env...)
	c.Stdout, c.Stderr = log, log
	stdin, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	var stdout io.Reader
	if p.Read != nil {
		c.Stdout = nil
		if stdout, err = c.StdoutPipe(); err != nil {
			return nil, err
		}
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	started := &Process{Name: p.Name, log: log.Name(), command: c, stdin: stdin, done: make(chan struct{})}
	go started.run(stdout, p.Read, p.Ended)
	return started, nil
}

func (p *Process) run(stdout io.Reader, read func(string) error, ended func(*Process)) {
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

// Say writes a line to the process's stdin.
func (p *Process) Say(line string) error {
	_, err := io.WriteString(p.stdin, line+"\n")
	return err
}

// Done is closed when the process has ended and its output is read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is what was wrong with the end of the process, or with what Read got. It is valid once Done is closed.
func (p *Process) Err() error { return p.err }

// Kill ends the process as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	p.stopping.Store(true)
	_ = p.command.Process.Kill() // fails only if it has ended
	<-p.done
}

// Stop lets the process drain, kills it if that takes longer than patience, and waits until it is gone. It returns what was
// wrong with its end.
func (p *Process) Stop(patience time.Duration) error {
	p.stopping.Store(true)
	_ = p.command.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("%s did not stop within %v", p.Name, patience)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.Name, p.err)
	}
	return nil
}

// LastWords is the end of the process's log.
func (p *Process) LastWords() string {
	const most = 600
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
