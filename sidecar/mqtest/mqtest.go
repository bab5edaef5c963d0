// Package mqtest runs a sidecar inside a test: the same broker, handlers and SDK as in production, with a log in memory, connections in memory, and a clock
// that only the test moves.
//
//	func TestRebooking(t *testing.T) {
//		s := mqtest.New(t)
//		rebookingv1mq.RegisterRebookingConsumer(s.Worker(), &rebooking{})
//		flights := flightsv1mq.NewFlightEventsPublisher(s.Client())
//		if _, err := flights.Departed(t.Context(), &flightsv1.FlightDeparted{DelayMinutes: 90}); err != nil {
//			t.Fatal(err)
//		}
//		s.Settle(t)                    // every message was handled that can be
//		s.Advance(10 * time.Minute)    // retries, delays and what they lead to, each in its time
//		mqtest.AssertNoDeadLetters(t, s)
//	}
//
// There are no ports, no files and nothing shared: tests run in parallel, inside and outside of testing/synctest. What the sidecar and the SDK log is shown if the
// test fails.
//
// The test's clock is the sidecar's: when delays, retries, time to live and retention are due. It is also what batches wait by for their max_wait. What else the SDK
// measures runs in real time: how long a handler takes, and the short wait before it connects again after a crash. In a testing/synctest bubble that is the bubble's time.
package mqtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/typedmq/typedmq/internal/hook"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
)

// Sidecar is a sidecar of one test. Its methods are safe for concurrent use, but those that take or use a testing.TB end the test when something is wrong, so they
// belong to the test's goroutine.
type Sidecar struct {
	t       testing.TB
	options options
	log     *slog.Logger
	clock   *clock
	changes changes
	journal *journal
	store   *memengine.Engine
	members *memcluster.Coordinator
	wire    *wire
	http    *http.Client
	client  *mq.Client

	life context.Context // of workers
	end  context.CancelFunc

	mu struct {
		sync.Mutex
		run        *run // nil while a crash is under way
		closed     bool
		crashAt    Step
		crashes    sync.WaitGroup
		crashing   int
		publishing int // publishes that are not answered
		settling   int // calls that settle and are not answered
		clients    []*mq.Client
		workers    []*worker
		deliveries map[string]delivery // by lease token
		repeated   map[delivery]bool   // whose first outcome was dropped
	}
}

// subscription names a group's interest in a topic.
type subscription struct{ group, topic string }

// worker is a worker that the sidecar runs.
type worker struct {
	*mq.Worker
	started bool
	done    chan struct{}
	err     error // once done is closed
}

// Option configures a Sidecar.
type Option func(*options)

type options struct {
	start     time.Time
	duplicate bool
}

// WithStart sets the clock. Default: the time at which the test creates the sidecar.
func WithStart(start time.Time) Option {
	return func(o *options) { o.start = start }
}

// DuplicateEverything makes every message come twice to each group: what a handler decides about it the first time (done, skipped or rejected) does not reach the
// sidecar, as if the connection had broken in between. A handler that passes is idempotent. The first transaction that acknowledges a message fails with
// mq.ErrLeaseLost.
func DuplicateEverything() Option {
	return func(o *options) { o.duplicate = true }
}

// New starts a sidecar. It ends with the test: workers stop, their handlers' contexts end at once, and an error of a worker's Run fails the test.
func New(t testing.TB, opts ...Option) *Sidecar {
	t.Helper()
	s := &Sidecar{t: t, options: options{start: time.Now()}, changes: newChanges(), wire: newWire(), journal: &journal{}}
	for _, opt := range opts {
		opt(&s.options)
	}
	s.log = logOnFailure(t)
	s.clock = newClock(s.options.start)
	s.store, s.members = memengine.New(), memcluster.New()
	s.life, s.end = context.WithCancel(context.WithoutCancel(t.Context()))
	s.mu.deliveries = make(map[string]delivery)
	s.mu.repeated = make(map[delivery]bool)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Client{Transport: &http.Transport{
		Protocols: &protocols, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.wire.dial(ctx) },
	}}
	t.Cleanup(s.close)
	r, err := s.startRun(t.Context())
	if err != nil {
		t.Fatalf("mqtest: %v", err)
	}
	s.mu.run = r
	s.client = s.Dial()
	return s
}

// Client is a client of the sidecar. It is closed with the test.
func (s *Sidecar) Client() *mq.Client { return s.client }

// Dial returns another client of the sidecar, which is closed with the test. Options that say how to reach the sidecar have no effect.
func (s *Sidecar) Dial(opts ...mq.Option) *mq.Client {
	s.t.Helper()
	all := append([]mq.Option{mq.WithLogger(s.log), mq.WithClientName(s.t.Name())}, opts...)
	c, err := mq.Dial(hook.With(s.t.Context(), hook.Hooks{Clock: clientClock{s.clock}, Waiting: s.changes.park, FileSets: &fileSets}),
		append(all, mq.WithAddress("http://mqtest"), mq.WithHTTPClient(s.http))...)
	if err != nil {
		s.t.Fatalf("mqtest: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.clients = append(s.mu.clients, c)
	return c
}

// Worker returns a worker of Client to register handlers with. The sidecar runs it, from the next Settle or Advance, or the first call that waits for an answer, to the end of the test: do
// not call its Run.
// Several workers share the messages of a group.
func (s *Sidecar) Worker(opts ...mq.WorkerOption) *mq.Worker {
	w := mq.NewWorker(s.client, append([]mq.WorkerOption{mq.WithDrainTimeout(0)}, opts...)...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.workers = append(s.mu.workers, &worker{Worker: w, done: make(chan struct{})})
	return w
}

// startWorkers runs the workers that have subscriptions and do not run yet.
func (s *Sidecar) startWorkers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.mu.workers {
		if w.started || len(w.Subscriptions()) == 0 {
			continue
		}
		w.started = true
		go func() {
			w.err = w.Run(s.life)
			close(w.done)
			s.changes.note()
		}()
	}
}

// broker is the broker that runs, nil while a crash is under way.
func (s *Sidecar) broker() *broker.Broker {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.run == nil {
		return nil
	}
	return s.mu.run.broker
}

// must is the broker that runs, once a crash that is under way is over.
func (s *Sidecar) must() *broker.Broker {
	s.t.Helper()
	s.await(s.t, "the sidecar did not come back after its crash", func() bool { return s.broker() != nil })
	return s.broker()
}

// close ends what New started, in reverse order.
func (s *Sidecar) close() {
	s.mu.Lock()
	s.mu.closed = true
	missed := s.mu.crashAt
	s.mu.crashAt = 0
	workers, clients := s.mu.workers, s.mu.clients
	s.mu.Unlock()
	s.checkCrashed(missed)
	s.end()
	s.mu.crashes.Wait() // workers drain at the sidecar that comes back
	for _, w := range workers {
		if !w.started {
			continue
		}
		if <-w.done; w.err != nil {
			s.t.Errorf("mqtest: a worker ended: %v", w.err)
		}
	}
	var errs []error
	for _, c := range clients {
		errs = append(errs, c.Close())
	}
	s.http.CloseIdleConnections()
	if s.mu.run != nil {
		errs = append(errs, s.mu.run.close(context.WithoutCancel(s.t.Context())))
	}
	if err := errors.Join(errs...); err != nil {
		s.t.Errorf("mqtest: %v", err)
	}
}

// Now is the sidecar's time.
func (s *Sidecar) Now() time.Time { return s.clock.Now() }

func (w *worker) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (s subscription) String() string { return fmt.Sprintf("group %q in topic %q", s.group, s.topic) }
