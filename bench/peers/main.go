// peers measures typedmq and other message queues at the same work: the same typed messages, the same durability, in the same run, client and server as
// separate processes on one machine. It prints a table that ends with one ratio for each peer and work, and writes JSON beside it. docs/peers.md tells what
// is set, and what cannot be compared.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

const usage = `peers measures typedmq and other message queues at the same work, in rounds that take turns, and prints the ratios.

usage: peers [flags]

  peers                                 all that is installed, about four minutes
  peers -rounds 1 -time 1s              a quick look
  peers -run typedmq,redis -works queue

Build first: make bench-peers does, and runs it. A peer that is not installed, or does not start, is skipped and told.
docs/peers.md tells what is compared, and what cannot be.
Exit status: 0 measured, whatever the ratios are; 1 something could not be measured; 2 wrong flags; 130 interrupted.

flags:
`

type settings struct {
	mq, mqbench string
	run, works  string
	rounds      int
	span        time.Duration
	warm        time.Duration
	dir         string
	json        string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == serverCommand {
		if err := serveJetStream(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var s settings
	flag.StringVar(&s.mq, "mq", "bin/mq", "`path` of mq")
	flag.StringVar(&s.mqbench, "mqbench", "bin/mqbench", "`path` of mqbench, which measures typedmq")
	flag.StringVar(&s.run, "run", "all", "`systems`: "+strings.Join(ids(), ", "))
	flag.StringVar(&s.works, "works", "publish,queue", "`works`: publish, queue (end to end)")
	flag.IntVar(&s.rounds, "rounds", 3, "rounds, in each of which every system has its turn")
	flag.DurationVar(&s.span, "time", 3*time.Second, "time of one measurement")
	flag.DurationVar(&s.warm, "warm", time.Second, "time before each measurement of a peer; mqbench has its own")
	flag.StringVar(&s.dir, "dir", "", "`directory` for the servers' files, on a disk; default: that of temporary files")
	flag.StringVar(&s.json, "json", "bench/results/peers.json", "`path` of the JSON, empty for none")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "%s", usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "peers: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends this process at once, and the kernel its children
	err := s.compare(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "peers: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "peers:", err)
		if errors.As(err, &flagError{}) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// flagError is what is wrong with flags.
type flagError struct{ error }

const (
	ownID    = "typedmq"
	bodySize = 256    // bytes, the default of mqbench
	keyCount = 10_000 // the default of mqbench
)

func ids() []string {
	all := []string{ownID}
	for _, s := range systems() {
		all = append(all, s.id)
	}
	return all
}

// choose returns what the flags name.
func (s settings) choose() ([]work, []system, error) {
	var chosen []work
	for _, w := range works {
		if slices.Contains(strings.Split(s.works, ","), w.id) {
			chosen = append(chosen, w)
		}
	}
	var peers []system
	for _, p := range systems() {
		if s.wants(p.id) {
			peers = append(peers, p)
		}
	}
	var faults []error
	for _, id := range strings.Split(s.works, ",") {
		if !slices.Contains(workIDs(works), id) {
			faults = append(faults, fmt.Errorf("-works: there is no %q, there are %s", id, strings.Join(workIDs(works), ", ")))
		}
	}
	for _, id := range strings.Split(s.run, ",") {
		if id != "all" && !slices.Contains(ids(), id) {
			faults = append(faults, fmt.Errorf("-run: there is no %q, there are %s", id, strings.Join(ids(), ", ")))
		}
	}
	if s.rounds < 1 || s.span <= 0 || s.warm < 0 {
		faults = append(faults, fmt.Errorf("-rounds %d, -time %v, -warm %v: at least one round of some time", s.rounds, s.span, s.warm))
	}
	return chosen, peers, errors.Join(faults...)
}

func (s settings) wants(id string) bool {
	return s.run == "all" || slices.Contains(strings.Split(s.run, ","), id)
}

func workIDs(all []work) []string {
	var ids []string
	for _, w := range all {
		ids = append(ids, w.id)
	}
	return ids
}
