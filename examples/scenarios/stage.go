package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
)

// stage is where a scenario plays: a sidecar, and what ends with the scenario.
type stage struct {
	server *server
	self   string // path of this program
	dir    string // of the scenario alone
	fail   context.CancelCauseFunc
	ended  sync.WaitGroup // of all that the scenario started
}

// dial connects to the stage's sidecar. A service would leave the address to MQ_ADDR. The client is closed when ctx ends.
func (s *stage) dial(ctx context.Context) (*mq.Client, error) {
	client, err := mq.Dial(ctx, mq.WithAddress(s.server.Address()))
	if err != nil {
		return nil, err
	}
	s.ended.Go(func() {
		<-ctx.Done()
		_ = client.Close()
	})
	return client, nil
}

// consume runs a worker with a client of its own, as a process of its own would have it, until stop is called or ctx ends. Stop waits until
// the worker is drained. A worker that ends by itself ends the scenario.
func (s *stage) consume(ctx context.Context, register func(*mq.Worker), options ...mq.WorkerOption) (stop func()) {
	running, halt := context.WithCancel(ctx)
	done := make(chan struct{})
	s.ended.Go(func() {
		defer close(done)
		defer halt()
		if err := s.work(running, register, options); err != nil && ctx.Err() == nil {
			s.fail(fmt.Errorf("worker: %w", err))
		}
	})
	return func() {
		halt()
		<-done
	}
}

func (s *stage) work(ctx context.Context, register func(*mq.Worker), options []mq.WorkerOption) (err error) {
	client, err := mq.Dial(ctx, mq.WithAddress(s.server.Address()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	worker := mq.NewWorker(client, options...)
	register(worker)
	return worker.Run(ctx)
}

// await asks missing again and again until it answers that nothing is.
func await(ctx context.Context, missing func() (string, error)) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		what, err := missing()
		if ctx.Err() == nil && (err != nil || what == "") {
			return err
		}
		if e := sleep(ctx, pause); e != nil {
			return fmt.Errorf("%w; %s", e, what)
		}
	}
}

// sleep waits for d. Its error is what ended ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// publishLines publishes lines of messages at the same time, so that they share frames and syncs of the disk. The messages of one line
// keep their order: each is durable before the next is sent.
func publishLines[T any](ctx context.Context, lines [][]T, publish func(context.Context, T) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	for _, line := range lines {
		group.Go(func() {
			for _, message := range line {
				if err := publish(ctx, message); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// publishAll publishes messages whose order does not matter.
func publishAll[T any](ctx context.Context, messages []T, publish func(context.Context, T) error) error {
	lines := make([][]T, min(len(messages), 64))
	for i, m := range messages {
		lines[i%len(lines)] = append(lines[i%len(lines)], m)
	}
	return publishLines(ctx, lines, publish)
}
