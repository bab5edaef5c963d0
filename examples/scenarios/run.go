package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/typedmq/typedmq/examples/internal/child"
)

// run plays scenarios, all at a time: they share a sidecar, but for those that need one of their own, and have topics and groups of their own.
type run struct {
	out     io.Writer
	mq      string // path of the mq binary
	self    string // path of this program
	timeout time.Duration
	keep    bool
}

// patience is how long a process may take to drain.
const patience = 10 * time.Second

// play prints a line for each scenario as it ends, and one for all. It returns whether all are well.
func (r *run) play(ctx context.Context, chosen []scenario) bool {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "typedmq-scenarios-")
	if err != nil {
		fmt.Fprintf(r.out, "demo: FAILED %v\n", err)
		return false
	}
	failed := r.playIn(ctx, dir, chosen)
	switch {
	case r.keep || failed > 0:
		fmt.Fprintf(r.out, "Logs and data are in %s\n", dir)
	default:
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(r.out, err)
		}
	}
	if failed > 0 {
		fmt.Fprintf(r.out, "demo: FAILED scenarios=%d failed=%d seconds=%.1f\n", len(chosen), failed, time.Since(begin).Seconds())
		return false
	}
	fmt.Fprintf(r.out, "demo: ok scenarios=%d seconds=%.1f\n", len(chosen), time.Since(begin).Seconds())
	return true
}

// playIn returns how many scenarios failed.
func (r *run) playIn(ctx context.Context, dir string, chosen []scenario) (failed int) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("not done within %v", r.timeout))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	shared := newServer(r.mq, filepath.Join(dir, "shared"))
	defer func() {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(r.out, err)
		}
	}()
	for _, s := range chosen {
		if !s.alone {
			if err := shared.start(ctx, fail); err != nil {
				fmt.Fprintf(r.out, "mq serve: FAILED %v\n", err)
				return len(chosen)
			}
			break
		}
	}
	lines := make(chan string, len(chosen))
	var group sync.WaitGroup
	for _, s := range chosen {
		group.Go(func() {
			measured, err := r.playOne(ctx, dir, shared, s)
			lines <- verdict(s.name, measured, err)
		})
	}
	for range chosen {
		line := <-lines
		fmt.Fprintln(r.out, line)
		if strings.Contains(line, ": FAILED") {
			failed++
		}
	}
	group.Wait()
	return failed
}

// playOne plays one scenario on the shared sidecar or one of its own, and ends all that it started.
func (r *run) playOne(ctx context.Context, dir string, shared *server, s scenario) (measured figures, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx, fail := context.WithCancelCause(ctx)
	st := &stage{server: shared, self: r.self, dir: filepath.Join(dir, s.name), fail: fail}
	if err := os.Mkdir(st.dir, 0o700); err != nil {
		return nil, err
	}
	if s.alone {
		st.server = newServer(r.mq, filepath.Join(st.dir, "mq"))
		if err := st.server.start(ctx, fail); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, st.server.stop()) }()
	}
	defer st.ended.Wait()
	defer fail(nil)
	if measured, err = s.run(ctx, st); err != nil {
		return nil, err
	}
	return measured, context.Cause(ctx) // such as a worker's fault that the scenario did not notice
}

// verdict is the line in which a scenario ends.
func verdict(name string, measured figures, err error) string {
	if err != nil {
		return fmt.Sprintf("%s: FAILED %s", name, strings.Join(strings.Fields(err.Error()), " "))
	}
	return fmt.Sprintf("%s: ok %s", name, strings.Join(measured, " "))
}

// server is a sidecar and its process.
type server struct {
	child.Sidecar
	dir     string
	process *child.Process // nil until start
}

func newServer(mq, dir string) *server { return &server{Sidecar: child.NewSidecar(mq, dir), dir: dir} }

// start starts the sidecar, on what it left in its directory. If it ends by itself, fail hears of it.
func (s *server) start(ctx context.Context, fail context.CancelCauseFunc) (err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	s.process, _, err = s.Serve(ctx, func(p *child.Process) {
		fail(fmt.Errorf("mq serve ended by itself: %v: %s", p.Err(), p.LastWords()))
	})
	if err != nil && s.process != nil {
		err = fmt.Errorf("%w: %s", err, s.process.LastWords())
	}
	return err
}

// stop drains the sidecar, if there is one.
func (s *server) stop() error {
	if s.process == nil {
		return nil
	}
	return s.process.Stop(patience)
}
