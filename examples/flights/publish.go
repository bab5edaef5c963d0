package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// publish is the command that tells the world about flights.
func publish(ctx context.Context, args []string) (err error) {
	options := newFlags("publish", "publishes a departure and the checked bags of each flight, and prints what is durable.")
	data := options.String("data", "", "JSON `file` of flights; without it they are generated")
	count := options.Int("count", 0, "how many flights to publish, 0 for all of the file, or 20,000")
	if err := parse(options, args); err != nil {
		return err
	}
	all, err := flights(*data, *count)
	if err != nil {
		return err
	}

	client, err := mq.Dial(ctx)
	if err != nil {
		return err
	}
	defer closeAfter(client, &err)
	report := newReport(os.Stdout)
	defer closeAfter(report, &err)

	return publishAll(ctx, flightsv1mq.NewFlightEventsPublisher(client), all, report)
}

// publishAll publishes concurrently, so that many messages share a frame and a sync of the disk. The departures of one origin
// keep their order: one goroutine publishes them, each once the one before is durable. Bags have no order, and their own goroutine.
func publishAll(ctx context.Context, publisher flightsv1mq.FlightEventsPublisher, all []flight, report *report) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	each := func(list []flight, publish func(context.Context, flight) error) {
		group.Go(func() {
			for _, f := range list {
				if err := publish(ctx, f); err != nil {
					stop(fmt.Errorf("flight %s: %w", flightID(f.Number), err))
					return
				}
			}
		})
	}
	for _, list := range byOrigin(all) {
		each(list, func(ctx context.Context, f flight) error {
			receipt, err := publisher.Departed(ctx, &flightsv1.FlightDeparted{
				FlightId:      flightID(f.Number),
				Origin:        f.Origin,
				Destination:   f.Destination,
				DelayMinutes:  int32(f.Delay),
				DistanceMiles: int32(f.Distance),
				Scheduled:     f.Scheduled,
			})
			if err == nil {
				report.published(departed, receipt, f)
			}
			return err
		})
		each(list, func(ctx context.Context, f flight) error {
			receipt, err := publisher.CheckedIn(ctx, &flightsv1.BagsChecked{
				FlightId:    flightID(f.Number),
				Origin:      f.Origin,
				Destination: f.Destination,
			})
			if err == nil {
				report.published(checked, receipt, f)
			}
			return err
		})
	}
	group.Wait()
	return context.Cause(ctx)
}
