package main

import (
	"context"
	"errors"
	"sync"
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
	halves bool // what is published counts a half and what is handled the other, since with a backlog they may differ
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
func endToEnd(f flow) measure { return manyToMany(f, 1) }

// manyToMany is endToEnd with so many clients on each side, each on a connection of its own.
func manyToMany(f flow, clients int) measure {
	return func(ctx context.Context, s settings, name string) ([]measured, error) {
		return s.with(ctx, func(c *sidecar) ([]measured, error) {
			var from, to []*mq.Client
			for range clients {
				client, err := c.client(ctx)
				if err != nil {
					return nil, err
				}
				if from, to = append(from, client), append(to, client); clients == 1 {
					break // both sides share one connection, as in a service that does both
				}
				if to[len(to)-1], err = c.client(ctx); err != nil {
					return nil, err
				}
			}
			m, _, err := c.stream(ctx, name, f, from, to)
			return only(m, err)
		})
	}
}

// stream measures a flow that some clients publish and some consume. more is how many messages were published beyond those that were handled, at least; it may be below zero.
func (c *sidecar) stream(ctx context.Context, name string, f flow, from, to []*mq.Client) (m measured, more int64, err error) {
	s := &sink{room: make(chan struct{}, c.room()), per: int64(c.batch() * f.groups), nacks: f.nacks}
	var running []func(context.Context) error
	for _, client := range to {
		running = append(running, c.worker(client, f.take, s).Run)
	}
	var senders []sender
	for _, client := range from {
		senders = append(senders, f.send(client, c.content()))
	}
	p := &crew{callers: max(callers, len(senders)), batch: c.batch(), room: s.room}
	running = append(running, func(ctx context.Context) error { return p.publish(ctx, senders...) })
	count := s.handled.Load
	if f.halves {
		count = func() int64 { return (s.handled.Load() + p.durable.Load()) / 2 }
	}
	m, err = c.window(ctx, name, f.unit, count, func(ctx context.Context) error { return together(ctx, running...) })
	return m, p.durable.Load() - s.handled.Load()/int64(f.groups), err
}

func (c *sidecar) worker(client *mq.Client, take register, s *sink) *mq.Worker {
	w := mq.NewWorker(client, mq.WithConcurrency(c.workers), mq.WithPrefetch(c.ahead))
	take(w, s)
	return w
}

// together runs functions until all have ended. When one ends the others have to. It returns the error of the first that ended with one.
func together(ctx context.Context, running ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	for _, run := range running {
		work.Go(func() {
			err := run(ctx)
			if err == nil {
				err = errDone
			}
			cancel(err) // the first counts
		})
	}
	work.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

var errDone = errors.New("done")
