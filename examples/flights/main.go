// Command flights is the example of typedmq: a publisher of flight events, three services that consume them, and a demo that
// runs all of them against a sidecar and checks that no message was lost and none handled twice.
//
// The publisher (publish.go) and the services (board.go, rebooking.go, baggage.go, consume.go) are written as any program that
// uses typedmq would be. The files named demo_*.go are the referee: they start the processes, read what each reports, and judge.
// They know nothing of the messages on the wire.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `flights shows typedmq at work.

  flights publish      publish flight events
  flights board        show departures, in order per origin
  flights rebooking    rebook the passengers of late flights
  flights baggage      move bags; run several, they share the work
  flights demo         run all of these against a sidecar of their own, and check the sums

All but demo use the sidecar at $MQ_ADDR: unix:///path or http://host:port, by default http://127.0.0.1:7070.
"flights COMMAND --help" lists the flags of a command.
`

type command func(ctx context.Context, args []string) error

// Reasons to end that have been told already, or need no telling.
var (
	errUsage  = errors.New("wrong usage")
	errFailed = errors.New("failed")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	commands := map[string]command{
		"publish": publish, "board": runBoard, "rebooking": runRebooking, "baggage": runBaggage, "demo": runDemo,
	}
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	do, known := commands[args[0]]
	if !known {
		if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
			fmt.Print(usage)
			return 0
		}
		fmt.Fprintf(os.Stderr, "flights: there is no command %q\n\n%s", args[0], usage)
		return 2
	}
	err := do(ctx, args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, errFailed):
		return 1
	default:
		fmt.Fprintf(os.Stderr, "flights %s: %v\n", args[0], err)
		return 1
	}
}

// newFlags returns the flags of a command, which begin their help with what it does.
func newFlags(name, does string) *flag.FlagSet {
	flags := flag.NewFlagSet("flights "+name, flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "flights %s %s\n", name, does)
		defined := false
		flags.VisitAll(func(*flag.Flag) { defined = true })
		if defined {
			fmt.Fprint(flags.Output(), "\nFlags:\n")
			flags.PrintDefaults()
		}
	}
	return flags
}

// parse reads the arguments of a command that takes flags only.
func parse(flags *flag.FlagSet, args []string) error {
	for _, arg := range args {
		if arg == "-h" || arg == "--help" || arg == "-help" {
			flags.SetOutput(os.Stdout)
		}
	}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage // flag has told
	case flags.NArg() > 0:
		fmt.Fprintf(flags.Output(), "%s: unexpected argument %q\n", flags.Name(), flags.Arg(0))
		return errUsage
	}
	return nil
}

// closeAfter closes c and keeps its error if there is no other.
func closeAfter(c io.Closer, err *error) {
	if e := c.Close(); *err == nil {
		*err = e
	}
}
