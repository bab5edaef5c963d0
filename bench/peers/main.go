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
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

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
		fmt.Fprintf(flag.CommandLine.Output(), "peers measures typedmq and other message queues at the same work, and prints the ratios.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends this process at once, and the kernel its children
	if err := s.compare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

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

// compare measures, in rounds, and tells.
func (s settings) compare(ctx context.Context) error {
	chosen, peers, err := s.choose()
	if err != nil {
		return err
	}
	base, err := os.MkdirTemp(s.dir, "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(base)
	if inMemory(base) {
		return fmt.Errorf("%s is kept in memory, where syncs cost nothing: choose a directory on a disk with -dir", filepath.Dir(base))
	}
	r := &report{Time: time.Now().UTC().Format(time.RFC3339), Commit: commit(ctx), Machine: machine(), Settings: map[string]string{
		"callers": strconv.Itoa(callers), "body bytes": strconv.Itoa(bodySize), "keys": strconv.Itoa(keyCount), "rounds": strconv.Itoa(s.rounds), "time": s.span.String(),
	}}
	ours := &systemResult{ID: ownID, Title: ownID, Settings: "mqbench: fsync before each acknowledgement; a Unix socket; 8 callers of PublishAsync, batches of 1,024; one group"}
	r.Systems = []*systemResult{ours}
	for _, p := range peers {
		r.Systems = append(r.Systems, &systemResult{ID: p.id, Title: p.title, Settings: p.settings, least: p.least})
	}
	say := progress(time.Now())
	each := s.span + s.warm + time.Second
	say("%d rounds of %d systems and %d works, about %v", s.rounds, len(r.Systems), len(chosen), (time.Duration(s.rounds*len(r.Systems)*len(chosen)) * each).Round(time.Second))
	var own typedmq
	if s.wants(ownID) {
		if own, err = findTypedMQ(ctx, base, s.mqbench, s.mq); err != nil {
			return err
		}
	} else {
		ours.Skipped = "not chosen"
	}
	for round := range s.rounds {
		if ours.Skipped == "" {
			rates, err := own.rates(ctx, base, workIDs(chosen), s.span)
			if err != nil {
				return err
			}
			for _, w := range chosen {
				ours.add(w.id, rates[w.id])
				say("round %d/%d  %-40s %-8s %12s/s", round+1, s.rounds, ours.Title, w.id, grouped(rates[w.id]))
			}
		}
		for i, p := range peers {
			result := r.Systems[i+1]
			for _, w := range chosen {
				if result.Skipped != "" {
					continue
				}
				rate, err := s.measure(ctx, base, p, w, result)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				var start startError
				if errors.As(err, &start) {
					result.Skipped = start.Error()
					say("round %d/%d  %-40s skipped: %v", round+1, s.rounds, p.title, start)
					continue
				}
				if err != nil {
					return fmt.Errorf("%s, %s: %w", p.title, w.id, err)
				}
				result.add(w.id, rate)
				say("round %d/%d  %-40s %-8s %12s/s", round+1, s.rounds, p.title, w.id, grouped(rate))
			}
		}
	}
	r.compare()
	if s.json != "" {
		if err := r.save(s.json); err != nil {
			return err
		}
	}
	return r.table(os.Stdout)
}

// startError is why a server could not be started.
type startError struct{ error }

// measure starts a peer on an empty directory, does one work, and ends it.
func (s settings) measure(ctx context.Context, base string, p system, w work, result *systemResult) (float64, error) {
	dir, err := os.MkdirTemp(base, p.id)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	n, err := p.start(ctx, dir)
	if err != nil {
		return 0, startError{err}
	}
	defer n.close()
	result.Version = n.version()
	return load{node: n, batch: p.batch, room: p.room, size: bodySize, keys: keys(keyCount)}.rate(ctx, w.id, s.warm, s.span)
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

// progress says what happens, with the seconds since began.
func progress(began time.Time) func(format string, args ...any) {
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// commit is what is checked out here, and whether it was changed; empty if git does not tell.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
