package main

import (
	"context"
	"fmt"
	"time"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/rebooking/v1/rebookingv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// rebooking finds connections for the passengers of late flights. The sidecar filters: other flights do not come here.
type rebooking struct{ desk *desk }

// busy is how long the reservation system asks to be left alone when it turns a request down.
const busy = 50 * time.Millisecond

// OnDeparted implements rebookingv1mq.RebookingConsumer.
func (r *rebooking) OnDeparted(ctx context.Context, flight *flightsv1.FlightDeparted) error {
	line := fmt.Sprintf("rebooked for %s, %d min late", flight.GetDestination(), flight.GetDelayMinutes())
	err := r.desk.done(ctx, flight.GetFlightId(), line)
	return mq.RetryAfter(err, busy) // nil if err is
}

func runRebooking(ctx context.Context, args []string) error {
	return consume(ctx, "rebooking", "rebooks the passengers of flights more than an hour late.", args, func(worker *mq.Worker, desk *desk) {
		rebookingv1mq.RegisterRebookingConsumer(worker, &rebooking{desk})
	})
}
