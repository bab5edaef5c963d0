package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/typedmq/typedmq/examples/internal/child"
)

// demo is one run: a sidecar, the publisher and the services, each a process of its own.
type demo struct {
	flights  []flight
	services []service
	data     string // path of the file of flights, empty if they are generated
	count    int
	self     string // path of this program
	dir      string // of everything the run writes
	sidecar  sidecar
	kill     bool // whether the sidecar is killed on the way

	fail      context.CancelCauseFunc // ends the run
	progress  *progress
	ledger    *ledger
	server    *child.Process
	publisher *child.Process
	workers   []*child.Process
}

// patience is how long a process may take to drain.
const patience = 10 * time.Second

func runDemo(ctx context.Context, args []string) (err error) {
	options := newFlags("demo", `runs a sidecar, the publisher and the three services, lets some handlers fail, redrives
the dead letters, and checks that every flight was handled by every service exactly once and in order. It ends with a
table and a line "demo: ok …" or, with exit code 1, "demo: FAILED …".`)
	data := options.String("data", "", "JSON `file` of flights; without it they are generated")
	count := options.Int("count", 0, "how many flights, 0 for all of the file, or 20,000")
	mq := options.String("mq", "", "path of the mq `binary`; without it the one beside this program")
	kill := options.Bool("kill", false, "kill the sidecar on the way (SIGKILL) and start it again")
	timeout := options.Duration("timeout", time.Minute, "how long the run may take")
	keep := options.Bool("keep", false, "keep the directory of the run, which otherwise stays only after a failure")
	if err := parse(options, args); err != nil {
		return err
	}
	all, err := flights(*data, *count)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if *mq == "" {
		*mq = filepath.Join(filepath.Dir(self), "mq")
	}
	if *mq, err = filepath.Abs(*mq); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "typedmq-demo-")
	if err != nil {
		return err
	}

	run, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("not settled within %v", *timeout))
	defer cancel()
	run, fail := context.WithCancelCause(run)
	defer fail(nil)
	d := &demo{
		flights: all, services: services(), data: *data, count: *count, self: self, dir: dir, sidecar: newSidecar(*mq, dir), kill: *kill,
		fail: fail, progress: newProgress(os.Stdout), ledger: newLedger(),
	}
	defer d.stopAll() // also after a panic
	line, good, err := d.run(run)
	d.stopAll()
	interrupted := ctx.Err() != nil
	if err != nil {
		reason, details, _ := strings.Cut(err.Error(), "\n")
		if interrupted {
			reason, details = "interrupted", ""
		}
		if details != "" {
			d.progress.say("%s", details)
		}
		line, good = "demo: FAILED "+reason, false
	}
	if *keep || (!good && !interrupted) {
		d.progress.say("Logs and data are in %s", dir)
	} else if err := os.RemoveAll(dir); err != nil {
		d.progress.say("%v", err)
	}
	d.progress.say("%s", line)
	if !good {
		return errFailed
	}
	return nil
}

// run is the story of a demo, up to its verdict: the last line to print, and whether all is well. An error means that there is
// no verdict.
func (d *demo) run(ctx context.Context) (line string, good bool, err error) {
	ready, err := d.launch(ctx)
	if err != nil {
		return "", false, err
	}
	d.progress.say("mq serve is ready; %s flights are published to %d workers of %d services", thousands(len(d.flights)), len(d.workers), len(d.services))

	e := evidence{flights: d.flights, start: time.Now(), dead: make(map[string][]string), redriven: make(map[string]int)}
	d.progress.begin()
	if d.publisher, err = child.Start(d.dir, d.publisherProgram()); err != nil {
		return "", false, err
	}
	if d.kill {
		if e.outage, err = d.killSidecar(ctx); err != nil {
			return "", false, err
		}
	}
	if err := d.await(ctx, d.firstPass); err != nil {
		return "", false, err
	}
	if err := d.redrive(ctx, &e); err != nil {
		return "", false, err
	}
	if err := d.await(ctx, d.secondPass); err != nil {
		return "", false, err
	}
	took := time.Since(e.start)
	if err := errors.Join(d.stopClients(), d.server.Stop(patience)); err != nil { // before the verdict: a second handling may still come in
		return "", false, err
	}

	e.history = d.ledger.history()
	v := judge(e, d.services)
	d.progress.say("\n%s", v.table())
	d.progress.say("mq serve was ready in %.2f s", ready.Seconds())
	if e.outage != nil {
		d.progress.say("It was killed and back after %.2f s", e.outage.back.Sub(e.outage.killed).Seconds())
		d.progress.say("Duplicates: %d acknowledged in vain, at most %d ms before the kill; %d published twice; %d without a cause",
			v.again, v.oldest.Milliseconds(), v.resent, v.unruled)
	}
	for _, complaint := range v.complaints() {
		d.progress.say("%s", complaint)
	}
	return v.line(took, d.kill), len(v.faults) == 0, nil
}

// launch starts the sidecar and the services, and returns how long the sidecar took to be ready.
func (d *demo) launch(ctx context.Context) (ready time.Duration, err error) {
	d.server, ready, err = d.sidecar.Serve(ctx, d.died)
	if err != nil {
		return 0, d.explain(d.server, err)
	}
	for _, s := range d.services {
		for i := range s.workers {
			p, err := child.Start(d.dir, child.Program{
				Name: fmt.Sprintf("%s-%d", s.name, i+1), Path: d.self, Args: []string{s.name, "--inject"}, Env: d.sidecar.Env(),
				Read: func(line string) error { return d.ledger.add(s.name, line) }, Ended: d.died,
			})
			if err != nil {
				return 0, err
			}
			d.workers = append(d.workers, p)
		}
	}
	return ready, nil
}

func (d *demo) publisherProgram() child.Program {
	args := []string{"publish", fmt.Sprintf("--count=%d", d.count)}
	if d.data != "" {
		args = append(args, "--data="+d.data)
	}
	return child.Program{
		Name: "publish", Path: d.self, Args: args, Env: d.sidecar.Env(),
		Read: func(line string) error { return d.ledger.add("", line) },
		Ended: func(p *child.Process) {
			if p.Err() != nil {
				d.died(p)
			}
		},
	}
}

// died ends the run: no process but the publisher may end before it is told to.
func (d *demo) died(p *child.Process) {
	d.fail(d.explain(p, fmt.Errorf("%s ended by itself: %v", p.Name, p.Err())))
}

// explain adds what a process said last.
func (d *demo) explain(p *child.Process, err error) error {
	if p == nil {
		return err
	}
	return fmt.Errorf("%w\n%s", err, strings.TrimSpace(p.LastWords()))
}

// killSidecar kills the sidecar when about half of the flights are published, and starts it again on the same directory.
func (d *demo) killSidecar(ctx context.Context) (*outage, error) {
	err := d.await(ctx, func(_ context.Context, c counts) (string, error) {
		if c.departed < len(d.flights)*4/10 {
			return "the publisher is not half way", nil
		}
		return "", nil
	})
	if err != nil {
		return nil, err
	}
	o := &outage{killed: time.Now()}
	d.server.Kill()
	d.progress.say("mq serve is killed")
	var ready time.Duration
	if d.server, ready, err = d.sidecar.Serve(ctx, d.died); err != nil {
		return nil, d.explain(d.server, err)
	}
	o.back = time.Now()
	d.progress.say("mq serve is back, ready in %.2f s", ready.Seconds())
	return o, nil
}

// await asks missing again and again, with the present counts, until nothing is.
func (d *demo) await(ctx context.Context, missing func(context.Context, counts) (string, error)) error {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		c := d.ledger.counts()
		d.progress.show(c, d.services)
		what, err := missing(ctx, c)
		if err == nil && what == "" {
			return nil
		}
		if ctx.Err() == nil && err != nil {
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			if what == "" {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w; %s", context.Cause(ctx), what)
		}
	}
}

// firstPass tells what is missing until everything is published and handled, but for the flights that cannot be.
func (d *demo) firstPass(_ context.Context, c counts) (string, error) {
	if left := d.missing(c, func(wanted, hopeless int) int { return wanted - hopeless }); left != "" {
		return left, nil
	}
	select {
	case <-d.publisher.Done():
		return "", nil
	default:
		return "the publisher has not ended", nil
	}
}

// secondPass tells what is missing until everything is handled and settled.
func (d *demo) secondPass(ctx context.Context, c counts) (string, error) {
	if left := d.missing(c, func(wanted, _ int) int { return wanted }); left != "" {
		return left, nil
	}
	return d.sidecar.unsettled(ctx)
}

// missing compares the counts with what every service is due by now.
func (d *demo) missing(c counts, due func(wanted, hopeless int) int) string {
	var left []string
	if published := min(c.departed, c.checked); published < len(d.flights) {
		left = append(left, fmt.Sprintf("%d of %d published", published, len(d.flights)))
	}
	for _, s := range d.services {
		wanted, hopeless := s.wanted(d.flights)
		if n, handled := due(wanted, len(hopeless)), c.handled[s.name]; handled < n {
			left = append(left, fmt.Sprintf("%s handled %d of %d", s.name, handled, n))
		}
	}
	return strings.Join(left, ", ")
}

// redrive waits for the dead letters, repairs the handlers, and gives the dead letters back.
func (d *demo) redrive(ctx context.Context, e *evidence) error {
	total := 0
	for _, s := range d.services {
		_, hopeless := s.wanted(d.flights)
		err := d.await(ctx, func(ctx context.Context, _ counts) (what string, err error) {
			if e.dead[s.name], err = d.sidecar.deadLetters(ctx, s); len(e.dead[s.name]) < len(hopeless) {
				what = fmt.Sprintf("%s has %d of %d dead letters", s.name, len(e.dead[s.name]), len(hopeless))
			}
			return what, err
		})
		if err != nil {
			return err
		}
		total += len(e.dead[s.name])
	}
	d.progress.say("%d dead letters; the handlers are repaired, the dead letters redriven", total)
	for _, p := range d.workers {
		if err := p.Say("repair"); err != nil {
			return err
		}
	}
	err := d.await(ctx, func(_ context.Context, c counts) (string, error) {
		if c.repaired < len(d.workers) {
			return fmt.Sprintf("%d of %d handlers are repaired", c.repaired, len(d.workers)), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	for _, s := range d.services {
		if e.redriven[s.name], err = d.sidecar.redrive(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// stopClients drains the publisher and the services, so that all they had to report is in.
func (d *demo) stopClients() error {
	clients := append([]*child.Process{}, d.workers...)
	if d.publisher != nil {
		clients = append(clients, d.publisher)
	}
	ends := make(chan error, len(clients))
	for _, p := range clients {
		go func() { ends <- p.Stop(patience) }()
	}
	var err error
	for range clients {
		err = errors.Join(err, <-ends)
	}
	return err
}

// stopAll ends every process. It may be called again.
func (d *demo) stopAll() {
	_ = d.stopClients()
	if d.server != nil {
		_ = d.server.Stop(patience)
	}
}
