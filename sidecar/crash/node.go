package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
)

// node is `mq serve` on a data directory: a process that is started, hit, and started again. Its methods are called by one goroutine, but for up.
type node struct {
	mq, data, socket, log string
	life                  *life // every process is ended with it

	mu struct {
		sync.Mutex
		process *process
	}
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it is gone
	err  error         // how it ended; valid once done is closed
}

// startPatience is how long a start may take before it counts as hung.
const startPatience = 30 * time.Second

// start runs the sidecar and returns how long it took to be ready, which it is as soon as it listens.
func (n *node) start(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close() // the process has its own
	begin := time.Now()
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command(n.mq, "serve", "--data-dir", n.data, "--listen", "127.0.0.1:0", "--socket", n.socket,
		"--lease-ttl", "5s", "--drain-timeout", "1s")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return 0, err
	}
	n.life.add(p)
	go func() {
		p.err = p.cmd.Wait()
		n.life.remove(p)
		close(p.done)
	}()
	n.mu.Lock()
	n.mu.process = p
	n.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("not ready within %v", startPatience))
	defer cancel()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		if c, err := net.Dial("unix", n.socket); err == nil {
			return time.Since(begin), c.Close()
		}
		select {
		case <-poll.C:
		case <-p.done:
			return 0, fmt.Errorf("mq serve ended at its start: %w", p.err)
		case <-ctx.Done():
			n.signal(syscall.SIGQUIT) // so that its log tells where it hangs
			n.wait()
			return 0, fmt.Errorf("mq serve: %w", context.Cause(ctx))
		}
	}
}

// up tells whether the process runs.
func (n *node) up() bool {
	p := n.current()
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (n *node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.process
}

func (n *node) signal(s syscall.Signal) {
	if p := n.current(); p != nil {
		_ = p.cmd.Process.Signal(s) // fails only if it has ended
	}
}

func (n *node) wait() {
	if p := n.current(); p != nil {
		<-p.done
	}
}

// kill ends the process as a crash would.
func (n *node) kill() {
	n.signal(syscall.SIGKILL)
	n.wait()
}

// stop lets it drain, and returns what was wrong with its end.
func (n *node) stop() error {
	p := n.current()
	if p == nil {
		return nil
	}
	n.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		n.kill()
		return fmt.Errorf("mq serve did not stop within 20s")
	}
	return p.err
}

// said is what the process logged since a place in its log.
func (n *node) said(from int64) string {
	text, err := os.ReadFile(n.log)
	if err != nil || from > int64(len(text)) {
		return ""
	}
	return string(text[from:])
}

// logEnd is the present end of its log.
func (n *node) logEnd() int64 {
	info, err := os.Stat(n.log)
	if err != nil {
		return 0
	}
	return info.Size()
}

// lastWords is the end of its log, in lines.
func lastWords(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

func (n *node) address() string { return "unix://" + n.socket }

// admin returns a client for what people and tools ask.
func (n *node) admin() adminv1connect.AdminServiceClient {
	return adminv1connect.NewAdminServiceClient(httpClient(n.socket), "http://sidecar", connect.WithReadMaxBytes(64<<20))
}

// life holds what must not outlive the harness.
type life struct {
	dir string // of everything that it writes
	mu  struct {
		sync.Mutex
		processes map[*process]struct{}
		closers   []func()
		over      bool
	}
}

func newLife() (*life, error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", ownPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	l := &life{dir: dir}
	l.mu.processes = map[*process]struct{}{}
	return l, nil
}

func (l *life) add(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.processes[p] = struct{}{}
	if l.mu.over {
		_ = p.cmd.Process.Kill()
	}
}

func (l *life) remove(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mu.processes, p)
}

// atEnd has a function called at the end, the last one first.
func (l *life) atEnd(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.closers = append(l.mu.closers, f)
}

// end kills what runs and undoes what was mounted. Calling it again does nothing.
func (l *life) end(keep bool) {
	l.mu.Lock()
	if l.mu.over {
		l.mu.Unlock()
		return
	}
	l.mu.over = true
	for p := range l.mu.processes {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Kill()
	}
	closers := l.mu.closers
	l.mu.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	if !keep {
		_ = os.RemoveAll(l.dir)
	}
}

// ownPrefix begins the name of a run's directory, before the process's number.
const ownPrefix = "mq-crash-"

// sweep unmounts what earlier runs left that were killed. It touches nothing of theirs: a file system whose process is gone may never answer.
func sweep() {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "fuse.cutfs" && f[0] != "mq-crash" {
			continue
		}
		_, rest, ok := strings.Cut(f[1], string(filepath.Separator)+ownPrefix)
		number, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(number)
		if ok && err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}
