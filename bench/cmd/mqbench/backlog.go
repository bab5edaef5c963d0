package main

import (
	"context"
	"fmt"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
	"github.com/typedmq/typedmq/runtime/mq"
)

// backlogRounds is how often, at most, a store with a backlog is compared with an empty one.
const backlogRounds = 3

// arriveWithin is how long messages may take to be handled by a sidecar that has nothing else to do.
const arriveWithin = 30 * time.Second

// backlogged publishes a backlog that nobody takes, then measures publishing and handling at once on empty stores and on that one in turns, and drains the backlog.
func backlogged(ctx context.Context, s settings, name string) ([]measured, error) {
	if free, err := process.Free(s.dir); err == nil && free < 2*int64(s.backlog)*int64(s.size+64) {
		return nil, fmt.Errorf("%s has %d MiB free, which may be too little for a backlog of %d messages; -backlog sets another", s.dir, free>>20, s.backlog)
	}
	return s.with(ctx, func(full *sidecar) ([]measured, error) {
		client, err := full.client(ctx)
		if err != nil {
			return nil, err
		}
		send := queueFlow.send(client, full.content())
		// The group is there before the backlog is, since it begins with what comes after it.
		if _, err := full.consume(ctx, client, queueFlow.take, 1, func(ctx context.Context) error { return send(ctx, 0, 1) }); err != nil {
			return nil, err
		}
		fill, err := full.timed(s.backlog, func() error {
			p := &crew{callers: callers, batch: full.batch(), total: s.backlog}
			defer s.tell("backlog fill", p.durable.Load, s.backlog)()
			return p.publish(ctx, send)
		})
		if err != nil {
			return nil, fmt.Errorf("fill: %w", err)
		}
		fill.part = "fill"
		out, left, flow := []measured{fill}, s.backlog, queueFlow
		flow.halves = true
		for turn := range min(backlogRounds, s.rounds) {
			empty, err := endToEnd(flow)(ctx, s, name+"-empty")
			if err != nil {
				return out, fmt.Errorf("on an empty store: %w", err)
			}
			loaded, more, err := full.stream(ctx, name, flow, []*mq.Client{client}, []*mq.Client{client})
			if err != nil {
				return out, fmt.Errorf("with the backlog: %w", err)
			}
			empty[0].part, empty[0].turn = "empty", turn
			loaded.part, loaded.turn, loaded.base = "full", turn, name+" empty"
			out = append(out, empty[0], loaded)
			left += int(more)
		}
		if left <= 0 {
			return out, fmt.Errorf("all of the backlog was handled before it could be drained; -backlog sets a larger one than %d", s.backlog)
		}
		drain, err := full.timed(left, func() error {
			_, err := full.consume(ctx, client, queueFlow.take, left, nil)
			return err
		})
		if err != nil {
			return out, fmt.Errorf("drain: %w", err)
		}
		drain.part = "drain"
		return append(out, drain), nil
	})
}

// timed measures what n messages take.
func (c *sidecar) timed(n int, do func() error) (measured, error) {
	began, used := time.Now(), process.Meter(c.pid())
	if err := do(); err != nil {
		return measured{}, err
	}
	took, spent := time.Since(began), used()
	return measured{unit: perSecond, value: float64(n) / took.Seconds(), client: each(spent.Self, float64(n)), sidecar: each(spent.Other, float64(n))}, nil
}

// consume handles n messages or some more, which were published before or which publish, if it is not nil, publishes meanwhile. It returns when the last of them came; the
// worker has ended by then too.
func (c *sidecar) consume(ctx context.Context, client *mq.Client, take register, n int, publish func(context.Context) error) (last time.Time, err error) {
	s := &sink{}
	defer c.tell("handled", s.handled.Load, n)()
	err = together(ctx, c.worker(client, take, s).Run, func(ctx context.Context) error {
		if publish != nil {
			if err := publish(ctx); err != nil {
				return err
			}
		}
		for before, since := int64(-1), time.Now(); ; {
			now := s.handled.Load()
			if now >= int64(n) {
				last = time.Now()
				return nil
			}
			if now != before {
				before, since = now, time.Now()
			} else if time.Since(since) > arriveWithin {
				return fmt.Errorf("of %d messages %d were handled, and no further one for %v", n, now, arriveWithin)
			}
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
		}
	})
	return last, err
}
