package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/bench/internal/hist"
	"github.com/typedmq/typedmq/bench/internal/process"
	"github.com/typedmq/typedmq/runtime/mq"
)

// arrival is a handler that takes the time from when a message was to be published until it is handled.
type arrival struct {
	began time.Time // what intended_ns counts from
	from  time.Duration
	took  hist.H
	count atomic.Int64
}

func (a *arrival) Work(_ context.Context, msg *benchv1.Job) error {
	now, intended := time.Since(a.began), time.Duration(msg.GetIntendedNs())
	if intended >= a.from {
		a.took.Add(now - intended)
	}
	a.count.Add(1)
	return nil
}

// latency measures from publish to handler at a rate that does not depend on how the sidecar keeps up (an open loop). A message's time counts from when it was to be
// published, not from when that was done, so that a sidecar that holds everything up for a while is charged for each message that was due meanwhile.
func latency(rate int) measure {
	return func(ctx context.Context, s settings, name string) ([]measured, error) {
		return s.with(ctx, func(c *sidecar) ([]measured, error) {
			client, err := c.client(ctx)
			if err != nil {
				return nil, err
			}
			a := &arrival{began: time.Now(), from: time.Hour}
			w := mq.NewWorker(client, mq.WithConcurrency(c.workers), mq.WithPrefetch(c.ahead))
			benchv1mq.RegisterWorkersConsumer(w, a)
			var out []measured
			err = together(ctx, w.Run, func(ctx context.Context) (err error) {
				out, err = c.paced(ctx, name, rate, a, benchv1mq.NewStreamQueue(client))
				return err
			})
			return out, err
		})
	}
}

// paced publishes at a rate, and waits until all has arrived.
func (c *sidecar) paced(ctx context.Context, name string, rate int, a *arrival, pub *mq.Publisher[*benchv1.Job]) ([]measured, error) {
	m := c.content()
	if _, err := pub.Publish(ctx, m.job(0)); err != nil { // the topic is declared, the group is there
		return nil, err
	}
	for a.count.Load() == 0 {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	a.began, a.from = time.Now(), c.warmup
	warm, total := int(c.warmup.Seconds()*float64(rate)), int((c.warmup+c.time).Seconds()*float64(rate))
	var used func() process.Used
	stop := func() error { return nil }
	err := pace(ctx, a.began, rate, total, func(i int, intended time.Duration) error {
		if i == warm {
			var err error
			if stop, err = c.profiles(name); err != nil {
				return err
			}
			used = process.Meter(c.pid())
		}
		msg := m.job(i)
		msg.IntendedNs = uint64(intended)
		pub.PublishAsync(ctx, msg)
		return nil
	})
	spent := used()
	if err := errors.Join(err, stop()); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(arriveWithin); a.count.Load() < int64(total)+1; {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("of %d messages %d were handled, %v after the last was published", total, a.count.Load()-1, arriveWithin)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
	n := float64(total - warm)
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	return []measured{
		{part: "p50", unit: milliseconds, value: ms(a.took.Quantile(0.5)), client: each(spent.Self, n), sidecar: each(spent.Other, n)},
		{part: "p99", unit: milliseconds, value: ms(a.took.Quantile(0.99))},
		{part: "p99.9", unit: milliseconds, value: ms(a.took.Quantile(0.999))},
		{part: "max", unit: milliseconds, value: ms(a.took.Max())},
	}, nil
}

// pace calls do for 0 to n-1, each at its time: i/rate seconds after began, or as soon afterwards as the calls before it are done. It sleeps in the kernel: sleeping by
// Go's timers in a process that is idle ends up to a millisecond late, which would be told as the sidecar's.
func pace(ctx context.Context, began time.Time, rate, n int, do func(i int, intended time.Duration) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range n {
		intended := time.Duration(float64(i) / float64(rate) * 1e9)
		for wait := intended - time.Since(began); wait > 0; wait = intended - time.Since(began) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			nap(min(wait, 10*time.Millisecond))
		}
		if err := do(i, intended); err != nil {
			return err
		}
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// nap sleeps about so long in the kernel.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&t, nil)
}

// sleep waits until d has passed, or returns the error of the context if that ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
