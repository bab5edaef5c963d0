package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// sink counts what is handled, and gives a place in room back each time that as many messages as a batch has were handled by all groups.
type sink struct {
	handled atomic.Int64
	room    chan struct{}
	per     int64 // deliveries of a batch
	nacks   int64 // one call of so many fails; 0 for none
	calls   atomic.Int64
}

var errNack = errors.New("one of those that fail")

func (s *sink) done() error {
	if s.nacks > 0 && s.calls.Add(1)%s.nacks == 0 {
		return errNack
	}
	if n := s.handled.Add(1); s.room != nil && n%s.per == 0 {
		select {
		case <-s.room:
		default: // a message that came twice
		}
	}
	return nil
}

// handler implements the consumers of one message type.
type handler[M any] struct{ *sink }

func (h handler[M]) Work(context.Context, M) error { return h.done() }
func (h handler[M]) Read(context.Context, M) error { return h.done() }

// register adds subscriptions, whose handlers are those of a sink, to a worker.
type register func(*mq.Worker, *sink)

func workers(w *mq.Worker, s *sink) { benchv1mq.RegisterWorkersConsumer(w, handler[*benchv1.Job]{s}) }
func looseWorkers(w *mq.Worker, s *sink) {
	benchv1mq.RegisterLooseWorkersConsumer(w, handler[*benchv1.Loose]{s})
}
func wideWorkers(w *mq.Worker, s *sink) {
	benchv1mq.RegisterWideWorkersConsumer(w, handler[*benchv1.Wide]{s})
}
func lateWorkers(w *mq.Worker, s *sink) {
	benchv1mq.RegisterLateWorkersConsumer(w, handler[*benchv1.Late]{s})
}

// readers registers n groups of the topic of events, at most 16.
func readers(n int) register {
	return func(w *mq.Worker, s *sink) {
		h := handler[*benchv1.Event]{s}
		for _, add := range []func(){
			func() { benchv1mq.RegisterReaders1Consumer(w, h) },
			func() { benchv1mq.RegisterReaders2Consumer(w, h) },
			func() { benchv1mq.RegisterReaders3Consumer(w, h) },
			func() { benchv1mq.RegisterReaders4Consumer(w, h) },
			func() { benchv1mq.RegisterReaders5Consumer(w, h) },
			func() { benchv1mq.RegisterReaders6Consumer(w, h) },
			func() { benchv1mq.RegisterReaders7Consumer(w, h) },
			func() { benchv1mq.RegisterReaders8Consumer(w, h) },
			func() { benchv1mq.RegisterReaders9Consumer(w, h) },
			func() { benchv1mq.RegisterReaders10Consumer(w, h) },
			func() { benchv1mq.RegisterReaders11Consumer(w, h) },
			func() { benchv1mq.RegisterReaders12Consumer(w, h) },
			func() { benchv1mq.RegisterReaders13Consumer(w, h) },
			func() { benchv1mq.RegisterReaders14Consumer(w, h) },
			func() { benchv1mq.RegisterReaders15Consumer(w, h) },
			func() { benchv1mq.RegisterReaders16Consumer(w, h) },
		}[:n] {
			add()
		}
	}
}

// flow is a stream of messages from publisher to handlers.
type flow struct {
	groups int
	send   func(*mq.Client, content) sender
	take   register
	nacks  int64
	unit   string
}

var (
	queueFlow = flow{groups: 1, send: jobsAsync, take: workers, unit: perSecond}
	looseFlow = flow{groups: 1, send: looseAsync, take: looseWorkers, unit: perSecond}
	wideFlow  = flow{groups: 1, send: wideAsync, take: wideWorkers, unit: perSecond}
)

// fan is a stream of events to n groups.
func fan(n int) flow {
	return flow{groups: n, take: readers(n), unit: deliveriesPerSecond,
		send: func(c *mq.Client, m content) sender { return async(benchv1mq.NewStreamFan(c), m.event) }}
}

func (f flow) failing(oneOf int64) flow {
	f.nacks = oneOf
	return f
}

// endToEnd measures publishing and handling at once, at most as far apart as settings.room says.
func endToEnd(f flow) measure {
	return func(ctx context.Context, s settings, name string) ([]measured, error) {
		return s.with(ctx, func(c *sidecar) ([]measured, error) {
			client, err := c.client(ctx)
			if err != nil {
				return nil, err
			}
			m, err := c.stream(ctx, name, f, client, client)
			return []measured{m}, err
		})
	}
}

// stream measures a flow, published by one client and consumed by another, or the same.
func (c *sidecar) stream(ctx context.Context, name string, f flow, from, to *mq.Client) (measured, error) {
	s := &sink{room: make(chan struct{}, c.room()), per: int64(c.batch() * f.groups), nacks: f.nacks}
	w := c.worker(to, f.take, s)
	send := f.send(from, c.content())
	return c.window(ctx, name, f.unit, s.handled.Load, func(ctx context.Context) error {
		var published atomic.Int64
		return both(ctx, w.Run, func(ctx context.Context) error {
			return publish(ctx, callers, c.batch(), s.room, &published, send)
		})
	})
}

func (c *sidecar) worker(client *mq.Client, take register, s *sink) *mq.Worker {
	w := mq.NewWorker(client, mq.WithConcurrency(c.workers), mq.WithPrefetch(c.ahead))
	take(w, s)
	return w
}

// both runs two functions until both have ended. When one ends the other has to.
func both(ctx context.Context, first, second func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := first(ctx)
		cancel()
		ended <- err
	}()
	err := second(ctx)
	cancel()
	other := <-ended
	if errors.Is(err, context.Canceled) && other != nil {
		return fmt.Errorf("worker: %w", other)
	}
	return err
}
