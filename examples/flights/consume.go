package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/typedmq/typedmq/runtime/mq"
)

// consume is what the commands of the three services share: it connects, lets register add a consumer to the worker, and
// runs it until ctx ends. The worker then drains: what is being handled is finished and settled.
func consume(ctx context.Context, name string, does string, args []string, register func(*mq.Worker, *desk)) (err error) {
	options := newFlags(name, does)
	inject := options.Bool("inject", false,
		"let some handlers fail, until a line \"repair\" comes in on stdin; the end of stdin then ends the program")
	if err := parse(options, args); err != nil {
		return err
	}
	client, err := mq.Dial(ctx, mq.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err != nil {
		return err
	}
	defer closeAfter(client, &err)

	desk := &desk{report: newReport(os.Stdout)}
	defer closeAfter(desk.report, &err)
	if *inject {
		desk.faults = faultsOf(name)
		supervised, stop := context.WithCancel(ctx)
		defer stop()
		ctx = supervised
		go func() { // ends with stdin, or with the process
			defer stop()
			desk.obey(os.Stdin)
		}()
	}
	worker := mq.NewWorker(client)
	register(worker, desk)
	return worker.Run(ctx)
}

// desk is where handlers tell that they did their work. It is part of this example, not of what typedmq asks of a service.
type desk struct {
	report *report
	faults *faults // nil if nothing is to fail
}

// done reports the flight as handled, or fails if this attempt is to fail.
func (d *desk) done(ctx context.Context, flightID, what string) error {
	meta := mq.MetaFrom(ctx)
	if err := d.faults.strike(flightNumber(flightID), meta.Attempt); err != nil {
		d.report.consumed(failed, meta, flightID, err.Error())
		return err
	}
	d.report.consumed(handled, meta, flightID, what)
	return nil
}

// obey reads commands until their end.
func (d *desk) obey(commands io.Reader) {
	for lines := bufio.NewScanner(commands); lines.Scan(); {
		if lines.Text() == "repair" {
			d.faults.repair()
			d.report.say(repaired)
		}
	}
}
