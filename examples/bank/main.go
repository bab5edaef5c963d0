// Command bank moves money between the accounts of two banks. Each is a service with a database of its own; what lies between them are two queues:
//
//	north                                                                    south
//	one transaction: debit, note the transfer,      bank.transfers
//	             write Transfer to the outbox    ───────────────────▶  one transaction, by the inbox: credit,
//	one transaction, by the inbox: the transfer  ◀───────────────────  write Settled to the outbox
//	             is done, or paid back               bank.settled
//
// No process ever waits for another, and there is no transaction over both databases. `bank demo` runs both services and a sidecar as processes, kills one or another of them
// at random times, again and again, and checks in the end that no cent was lost or made, and nothing happened twice.
//
// It is a module of its own, since it has drivers of databases, which the SDK does not have.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command runs the program and returns its exit status: 1 if it failed, 2 if the command line makes no sense.
func command(ctx context.Context, args []string, out, complaints io.Writer) int {
	var run func(ctx context.Context) error
	var flags *flag.FlagSet
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "north", "south":
		flags = flag.NewFlagSet("bank "+verb, flag.ContinueOnError)
		db := flags.String("db", verb+".db", "database: a `file` of SQLite, or the URL of one of PostgreSQL")
		rate := flags.Int("rate", 0, "transfers that are begun in a second")
		journal := flags.String("journal", "", "`file` to write a line to for each delivery; for the demo")
		run = func(ctx context.Context) error {
			b := bank{name: verb, out: out, rate: *rate, journal: *journal, log: slog.New(slog.NewTextHandler(complaints, nil))}
			return b.serve(ctx, *db)
		}
	case "demo":
		flags = flag.NewFlagSet("bank demo", flag.ContinueOnError)
		d := demo{out: out}
		flags.StringVar(&d.mq, "mq", "", "path of the mq `binary`; without it the one beside this program")
		flags.IntVar(&d.kills, "kills", 100, "how often a process is killed")
		flags.IntVar(&d.rate, "rate", 100, "transfers that are begun in a second")
		flags.StringVar(&d.databases[0], "north", "", "database of the one bank, as of bank north; it is emptied. Default: SQLite")
		flags.StringVar(&d.databases[1], "south", "", "database of the other bank. Default: SQLite")
		flags.DurationVar(&d.timeout, "timeout", 8*time.Minute, "how long all of it may take")
		flags.BoolVar(&d.keep, "keep", false, "keep the directory of the run, which otherwise stays only after a failure")
		run = d.run
	default:
		fmt.Fprintln(complaints, "bank north | south | demo [flags]")
		return 2
	}
	flags.SetOutput(complaints)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || flags.NArg() > 0:
		return 2
	}
	if err := run(ctx); err != nil {
		if verb == "demo" { // its verdict stands on its output
			return 1
		}
		fmt.Fprintln(complaints, "bank:", err)
		return 1
	}
	return 0
}

// beside returns the path of a program beside this one.
func beside(name string) (string, error) {
	self, err := os.Executable()
	return filepath.Join(filepath.Dir(self), name), err
}
