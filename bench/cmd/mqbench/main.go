// mqbench measures a sidecar from outside: clients of generated code in this process, mq serve in another, over a Unix socket or TCP, on a disk that is synced before
// anything is acknowledged. Each round has a sidecar and a data directory of its own.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `mqbench measures a sidecar: clients in this process, mq serve in another, a disk that is synced.

usage: mqbench [flags]

  mqbench -run publish,queue            some scenarios, a line for each round
  mqbench -run queue -profile prof      CPU profiles of both processes as well
  mqbench -list                         what scenarios there are
  mqbench -suite full -svg plot.svg     all of them, and a table with what must hold (make bench)

Build first: go build -o bin/ ./sidecar/cmd/mq ./bench/cmd/mqbench. docs/performance.md tells how to read the figures.
Exit status: 0 measured, 1 something could not be measured, 2 wrong flags, 130 interrupted (what was measured is printed).

flags:
`

func main() {
	if len(os.Args) == 4 && os.Args[1] == rawServer {
		fmt.Fprintln(os.Stderr, serveFrames(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	os.Exit(command(os.Args[1:], os.Stdout, os.Stderr))
}

func command(args []string, stdout, stderr io.Writer) int {
	var (
		s           settings
		names, json string
		svg, whole  string
		list        bool
		network     string
	)
	flags := flag.NewFlagSet("mqbench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&names, "run", "publish,plain,queue,pubsub", "`scenarios`, separated by commas")
	flags.BoolVar(&list, "list", false, "print the scenarios and end")
	flags.StringVar(&json, "json", "", "write the results as JSON into a `file`; - is standard output, with nothing else on it")
	flags.StringVar(&whole, "suite", "", "measure all scenarios, instead of -run, -rounds, -time and -warmup: full (7 minutes) or quick (1 minute)")
	flags.StringVar(&svg, "svg", "", "draw the results into a `file`")
	flags.StringVar(&s.binary, "mq", "bin/mq", "`path` of mq")
	flags.StringVar(&s.store, "store", "", "`path` of the test binary of pebbleengine, for raw-store")
	flags.StringVar(&s.etcd, "etcd", "", "`path` of the test binary of etcdcluster with the tag measure, for what is etcd's share of idle")
	flags.StringVar(&s.dir, "dir", os.TempDir(), "`directory`, on a disk, for the sidecars' data")
	flags.StringVar(&s.profile, "profile", "", "`directory` for CPU profiles of both processes, SCENARIO.client.pprof and SCENARIO.sidecar.pprof; the last round's stay")
	flags.IntVar(&s.rounds, "rounds", 3, "rounds of each scenario")
	flags.DurationVar(&s.time, "time", 4*time.Second, "how long a round is measured")
	flags.DurationVar(&s.warmup, "warmup", time.Second, "how long it runs before that")
	flags.IntVar(&s.size, "size", 256, "`bytes` of a message's body")
	flags.IntVar(&s.keys, "keys", 10_000, "number of keys; for none, run the scenarios named -nokey")
	flags.StringVar(&network, "network", "unix", "unix or tcp")
	flags.IntVar(&s.workers, "workers", 64, "handlers of a subscription at a time")
	flags.IntVar(&s.ahead, "ahead", 16_384, "messages of a subscription that wait for a handler")
	flags.IntVar(&s.backlog, "backlog", 0, "`messages` of the backlog (default 10,000,000; 300,000 in the quick suite)")
	flags.IntVar(&s.delayed, "delayed", 0, "`messages` that are delayed (default 1,000,000; 50,000 in the quick suite)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	all := catalogue()
	if list {
		for _, c := range all {
			fmt.Fprintf(stdout, "%-16s %s\n", c.name, c.about)
		}
		return 0
	}
	s.tcp = network == "tcp"
	quick := whole == "quick"
	backlog, delayed := 10_000_000, 1_000_000
	if quick {
		backlog, delayed = 300_000, 50_000
	}
	s.backlog, s.delayed = cmp.Or(s.backlog, backlog), cmp.Or(s.delayed, delayed)
	if whole != "" {
		s = s.suited(quick)
	}
	chosen, err := choose(all, names)
	if network != "unix" && network != "tcp" {
		err = errors.Join(err, fmt.Errorf("-network %q: must be unix or tcp", network))
	}
	if whole != "" && whole != "full" && !quick {
		err = errors.Join(err, fmt.Errorf("-suite %q: must be full or quick", whole))
	}
	if flags.NArg() > 0 {
		err = errors.Join(err, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if err = errors.Join(err, s.check()); err != nil {
		fmt.Fprintln(stderr, "mqbench:", err)
		return 2
	}
	var plan []planned
	for _, c := range chosen {
		plan = append(plan, planned{c, s.rounds})
	}
	if whole != "" {
		plan = suite(all, quick)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	human := stdout
	if json == "-" {
		human = stderr
	}
	r := newReport(s)
	interrupted := run(ctx, s, plan, r, human)
	r.conclude()
	status := 0
	for _, x := range r.Results {
		if x.Error != "" {
			status = 1
		}
	}
	if whole != "" {
		r.table(human)
	} else {
		r.medians(human)
	}
	if err := errors.Join(save(json, stdout, r.writeJSON), save(svg, stdout, r.plot)); err != nil {
		fmt.Fprintln(stderr, "mqbench:", err)
		status = 1
	}
	if interrupted != nil {
		fmt.Fprintln(stderr, "mqbench: interrupted")
		status = 130
	}
	return status
}

// medians prints a line for each result.
func (r *report) medians(w io.Writer) {
	for _, x := range r.Results {
		if x.Error != "" {
			continue
		}
		line := fmt.Sprintf("%-18s median %s", x.Scenario, quantity(x.Median, x.Unit))
		if x.RatioTo != "" {
			line += fmt.Sprintf("  %.2f × %s", x.Ratio, x.RatioTo)
		}
		fmt.Fprintln(w, line)
	}
}

// save writes something where it was asked for.
func save(file string, stdout io.Writer, write func(io.Writer) error) error {
	switch file {
	case "":
		return nil
	case "-":
		return write(stdout)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(write(out), out.Close())
}
