// Mq is the sidecar and the tool that looks at one: `mq serve` runs it, the other commands are clients of its admin and broker APIs.
//
// Every command has a file of its own with its flags and what it does. The commands decide nothing that the sidecar could: they translate
// arguments to calls and answers to tables or JSON.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first signal asks to stop. After it, the default holds again: a second one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}, os.Environ()))
}

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run executes a command line and returns the exit status. Cancelling ctx is the first signal.
func run(ctx context.Context, args []string, io streams, environ []string) int {
	c := &cli{environ: environ, format: "table"}
	root := newRoot(c)
	root.SetArgs(args)
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !c.began {
		err = &usageError{err} // cobra refused the command line
	}
	return report(io.err, cmd.CommandPath(), err)
}
