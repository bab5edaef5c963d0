package main

import (
	"context"
	"fmt"

	"github.com/typedmq/typedmq/examples/flights/gen/air/board/v1/boardv1mq"
	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/runtime/mq"
)

// board shows departures. flights.departed has its origin as key, so the flights of one origin arrive in order, one at a time.
type board struct{ desk *desk }

// OnDeparted implements boardv1mq.BoardConsumer.
func (b *board) OnDeparted(ctx context.Context, flight *flightsv1.FlightDeparted) error {
	line := fmt.Sprintf("%s %s to %s, %+d min", flight.GetScheduled(), flight.GetOrigin(), flight.GetDestination(), flight.GetDelayMinutes())
	return b.desk.done(ctx, flight.GetFlightId(), line)
}

func runBoard(ctx context.Context, args []string) error {
	return consume(ctx, "board", "shows every departure, in order per origin.", args, func(worker *mq.Worker, desk *desk) {
		boardv1mq.RegisterBoardConsumer(worker, &board{desk})
	})
}
