package main

import (
	"context"
	"fmt"

	"github.com/typedmq/typedmq/examples/flights/gen/air/baggage/v1/baggagev1mq"
	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/runtime/mq"
)

// baggage moves bags. bags.checked is a queue: each message goes to one worker of all that run.
type baggage struct{ desk *desk }

// OnBagsChecked implements baggagev1mq.BaggageConsumer.
func (b *baggage) OnBagsChecked(ctx context.Context, bags *flightsv1.BagsChecked) error {
	return b.desk.done(ctx, bags.GetFlightId(), fmt.Sprintf("moved to the flight to %s", bags.GetDestination()))
}

func runBaggage(ctx context.Context, args []string) error {
	return consume(ctx, "baggage", "moves the bags of each flight, together with the other workers.", args, func(worker *mq.Worker, desk *desk) {
		baggagev1mq.RegisterBaggageConsumer(worker, &baggage{desk})
	})
}
