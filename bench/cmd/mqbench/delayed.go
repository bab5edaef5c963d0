package main

import (
	"context"
	"fmt"
	"time"

	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// delayedAll schedules messages that are all due at one instant, and measures how fast they are taken, and from that instant on how fast they are handled.
func delayedAll(ctx context.Context, s settings, _ string) ([]measured, error) {
	return s.with(ctx, func(c *sidecar) ([]measured, error) {
		client, err := c.client(ctx)
		if err != nil {
			return nil, err
		}
		lateAsync := func(at time.Time) sender {
			return async(mq.NewPublisher(client, benchv1mq.LateTopic(), mq.WithDeliverAt(at)), c.content().late)
		}
		// How fast it goes says which instant is far enough ahead. These messages are due after the end.
		trial := max(callers*perCaller, s.delayed/20)
		first, err := c.timed(trial, func() error {
			return (&crew{callers: callers, batch: c.batch(), total: trial}).publish(ctx, lateAsync(time.Now().Add(time.Hour)))
		})
		if err != nil {
			return nil, fmt.Errorf("schedule: %w", err)
		}
		due := time.Now().Add(time.Duration(float64(s.delayed)/first.value*1.3*float64(time.Second)) + 2*time.Second)
		var scheduled, handled measured
		last, err := c.consume(ctx, client, lateWorkers, s.delayed, func(ctx context.Context) error {
			scheduled, err = c.timed(s.delayed, func() error {
				return (&crew{callers: callers, batch: c.batch(), total: s.delayed}).publish(ctx, lateAsync(due))
			})
			if err != nil {
				return fmt.Errorf("schedule: %w", err)
			}
			if late := time.Since(due); late > 0 {
				return fmt.Errorf("the messages were due %v before all were scheduled", late)
			}
			return sleep(ctx, time.Until(due))
		})
		if err != nil {
			return nil, err
		}
		handled.unit, handled.value = perSecond, float64(s.delayed)/last.Sub(due).Seconds()
		scheduled.part, handled.part = "schedule", "due"
		return []measured{scheduled, handled}, nil
	})
}
