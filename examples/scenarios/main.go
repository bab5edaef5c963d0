// Command scenarios shows what typedmq promises about delivery, one scenario at a time, each against a real sidecar: what to annotate, what
// to write, and which command of mq to use. Every scenario checks what it shows and ends in one line, with the figures that it measured.
//
// A scenario is a .proto file in proto/ and a Go file of the same name: publisher and handlers on top, then the story, then the check. The rest
// (run.go, stage.go, journal.go, gate.go, admin.go, figures.go) is what all of them stand on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// scenario is one promise, shown and checked.
type scenario struct {
	name  string
	shows string
	// alone asks for a sidecar that no other scenario uses.
	alone bool
	// run plays the scenario and returns what it measured. Its error says which promise was not kept.
	run func(context.Context, *stage) (figures, error)
}

func scenarios() []scenario {
	return []scenario{
		{name: "retry", shows: "backoff, RetryAfter, Snooze, Permanent", run: runRetry},
		{name: "dead-letter", shows: "attempts spent, held keys, failures, redrive", run: runDeadLetter},
		{name: "poison", shows: "a message that kills its consumers", run: runPoison},
		{name: "delay", shows: "delay, instant of delivery, cancel, a killed sidecar", alone: true, run: runDelay},
		{name: "priority", shows: "urgent messages first, none left behind", run: runPriority},
		{name: "filter", shows: "CEL on message, key and headers", run: runFilter},
		{name: "ttl", shows: "messages that expire", run: runTTL},
		{name: "order", shows: "order by key and by partition, a blocked key", run: runOrder},
		{name: "replay", shows: "seek, pause, resume", run: runReplay},
		{name: "call", shows: "request and reply, errors, late answers, a killed sidecar", alone: true, run: runCall},
		{name: "retention", shows: "what a topic keeps, and for how long a queue does", run: runRetention},
		{name: "bank", shows: "outbox and inbox: money between two databases, and processes that are killed", run: runBank},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command runs the program and returns its exit status: 1 if a scenario failed, 2 if the command line makes no sense.
func command(ctx context.Context, args []string, out, complaints io.Writer) int {
	if len(args) == 1 && args[0] == thumbnailsCommand { // the consumer of the scenario poison
		if err := serveThumbnails(ctx, out); err != nil {
			fmt.Fprintln(complaints, "scenarios:", err)
			return 1
		}
		return 0
	}
	flags := flag.NewFlagSet("scenarios", flag.ContinueOnError)
	flags.SetOutput(complaints)
	mq := flags.String("mq", "", "path of the mq `binary`; without it the one beside this program")
	timeout := flags.Duration("timeout", time.Minute, "how long all of it may take")
	keep := flags.Bool("keep", false, "keep the directory of the run, which otherwise stays only after a failure")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "scenarios [flags] all | NAME…\n\n")
		for _, s := range scenarios() {
			fmt.Fprintf(flags.Output(), "  %-12s %s\n", s.name, s.shows)
		}
		fmt.Fprint(flags.Output(), "\nFlags:\n")
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		fmt.Fprintf(complaints, "scenarios: %v\n", err)
		return 2
	}
	r := run{out: out, timeout: *timeout, keep: *keep}
	if r.self, err = os.Executable(); err == nil {
		r.mq, err = filepath.Abs(*mq)
	}
	if *mq == "" {
		r.mq = filepath.Join(filepath.Dir(r.self), "mq")
	}
	if err != nil {
		fmt.Fprintf(complaints, "scenarios: %v\n", err)
		return 1
	}
	if !r.play(ctx, chosen) {
		return 1
	}
	return 0
}

// choose returns the scenarios of these names, in the order of the list.
func choose(names []string) ([]scenario, error) {
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	everything := wanted["all"]
	delete(wanted, "all")
	var chosen []scenario
	var known []string
	for _, s := range scenarios() {
		known = append(known, s.name)
		if everything || wanted[s.name] {
			chosen = append(chosen, s)
		}
		delete(wanted, s.name)
	}
	for name := range wanted {
		return nil, fmt.Errorf("there is no scenario %q; there are %s, and all", name, strings.Join(known, ", "))
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("which scenario? all, or some of %s", strings.Join(known, ", "))
	}
	return chosen, nil
}
