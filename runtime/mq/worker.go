package mq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Subscription names a consumer rpc and the file that describes it. Generated code makes subscriptions; the policy is in the
// file's annotations.
type Subscription struct {
	Group string
	Topic string
	// RPC is "package.Service/Method".
	RPC string
	// File is the file that holds the service.
	File protoreflect.FileDescriptor
}

// Worker runs handlers for the subscriptions of one client. Its methods are safe for concurrent use.
type Worker struct {
	client  *Client
	options workerOptions
	counts  counts

	mu struct {
		sync.Mutex
		subscriptions []*subscription
		faults        []error // of registration, returned by Run
		started       bool
	}
}

// subscription is a Subscription with its handler, its message type erased.
type subscription struct {
	Subscription
	style  style
	decode func(payload []byte) (proto.Message, error)
	handle HandlerFunc
	batch  batchPolicy // if the style is inBatches
}

// NewWorker returns a worker without subscriptions.
func NewWorker(c *Client, opts ...WorkerOption) *Worker {
	w := &Worker{client: c, options: workerOptions{drainTimeout: defaultDrainTimeout}}
	for _, opt := range opts {
		opt(&w.options)
	}
	return w
}

// Handle registers the handler of a subscription. It must be called before [Worker.Run], which reports what is wrong with
// the registration; afterwards it panics. The handler is called from several goroutines; if the topic is ordered by key, never
// for two messages of one key at the same time, as long as no handler outlives its context. The goroutines are used again: what a handler
// does to its own, such as locking its thread, it must undo. What it returns settles the message:
//
//   - nil: the message is done
//   - [Permanent], [RetryAfter], [Snooze], [Skip], also wrapped: as they say
//   - another error, or a panic: it is tried again by the subscription's policy, and becomes a dead letter when the attempts
//     are spent
//
// The handler's context carries the message's [Meta]. It ends when the processing timeout passes (the attempt has failed by
// then, whatever the handler returns), when the connection to the sidecar is lost (the message is delivered again, to
// whomever), and when the worker stops and its drain timeout has passed. context.Cause tells which:
// [ErrProcessingTimeout], [ErrLeaseLost] or [ErrShutdown]. A message whose payload does not decode becomes a dead letter
// without a call of the handler.
func Handle[T any, P interface {
	*T
	proto.Message
}](w *Worker, s Subscription, handler func(context.Context, P) error) {
	var handle HandlerFunc
	if handler != nil {
		handle = func(ctx context.Context, c *Call) error {
			if c.Failure(0) != nil {
				return nil
			}
			return handler(ctx, c.items[0].message.(P))
		}
	}
	w.register(&subscription{Subscription: s, decode: decode[T, P], handle: handle})
}

// decode returns the message of a payload.
func decode[T any, P interface {
	*T
	proto.Message
}](payload []byte) (proto.Message, error) {
	message := P(new(T))
	if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(payload, message); err != nil { // there is nothing to reset
		return nil, &undecodable{err}
	}
	return message, nil
}

func (w *Worker) register(s *subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.started {
		panic("mq: Handle called after Run")
	}
	fault := func(format string, args ...any) {
		w.mu.faults = append(w.mu.faults, fmt.Errorf("mq: subscription %s: %s", s.RPC, fmt.Sprintf(format, args...)))
	}
	if s.Group == "" || s.Topic == "" || s.RPC == "" || s.File == nil {
		fault("group, topic, rpc and file are required")
	}
	if s.handle == nil {
		fault("the handler is nil")
	} else {
		s.handle = intercept(w.options.interceptors, s.handle)
	}
	for _, other := range w.mu.subscriptions {
		if other.Group == s.Group && other.Topic == s.Topic {
			fault("group %q has a handler for topic %q already, of %s", s.Group, s.Topic, other.RPC)
		}
	}
	w.mu.subscriptions = append(w.mu.subscriptions, s)
}

// start returns the subscriptions to run, once.
func (w *Worker) start() ([]*subscription, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.started {
		return nil, errors.New("mq: the worker was run before")
	}
	w.mu.started = true
	if len(w.mu.faults) == 0 && len(w.mu.subscriptions) == 0 {
		return nil, errors.New("mq: the worker has no subscriptions")
	}
	return w.mu.subscriptions, errors.Join(w.mu.faults...)
}

// lastGrace is how long handlers may take to return once their contexts are cancelled at the worker's end.
const lastGrace = 5 * time.Second

// life is the contexts of one Run. Each is done later than the one before.
type life struct {
	stop     context.Context // take no more messages
	handling context.Context // handlers are to return
	streams  context.Context // streams are cut
}

// Run consumes until ctx is done, then drains and returns nil: it takes no more messages, gives back those that no handler has
// started on, lets running handlers finish within the drain timeout, and settles what they return. It reconnects for ever. A
// refusal that no reconnect can change, such as a subscription that contradicts what the topic is declared as, ends
// it with that error, after the same drain. Handlers that do not return even after their contexts were cancelled are left
// behind, with an error. When the client is closed, Run returns [ErrClosed]. A worker runs once.
func (w *Worker) Run(ctx context.Context) error {
	subscriptions, err := w.start()
	if err != nil {
		return err
	}
	streams, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	handling, interrupt := context.WithCancelCause(streams)
	defer interrupt(nil)
	stop, halt := context.WithCancelCause(ctx)
	defer halt(nil)
	defer context.AfterFunc(w.client.ctx, func() {
		halt(ErrClosed)
		cut(ErrClosed)
	})()
	l := life{stop, handling, streams}

	policies, err := w.declare(l.stop, subscriptions)
	if err != nil || l.stop.Err() != nil {
		return w.result(err, 0)
	}
	var first struct {
		sync.Once
		err error
	}
	var group sync.WaitGroup
	consumers := make([]*consumer, len(subscriptions))
	for i, s := range subscriptions {
		c := newConsumer(w, s, policies[i])
		consumers[i] = c
		group.Go(func() {
			if err := c.run(l); err != nil {
				first.Do(func() { first.err = err })
				halt(err)
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		group.Wait()
		close(finished)
	}()
	w.await(l, finished, interrupt, cut)
	left := 0
	for _, c := range consumers {
		left += c.handlers()
	}
	return w.result(first.err, left)
}

// await returns when the consumers are finished. Once the worker is to stop, it sees to it that they will be.
func (w *Worker) await(l life, finished <-chan struct{}, interrupt, cut context.CancelCauseFunc) {
	select {
	case <-finished:
		return
	case <-l.stop.Done():
	}
	for _, step := range []struct {
		after time.Duration
		then  context.CancelCauseFunc
	}{{w.options.drainTimeout, interrupt}, {lastGrace, cut}} {
		timer := time.NewTimer(step.after)
		select {
		case <-finished:
			timer.Stop()
			return
		case <-timer.C:
			step.then(ErrShutdown)
		}
	}
	<-finished
}

// result is what Run returns after everything it started has ended, but for handlers that were left behind.
func (w *Worker) result(err error, left int) error {
	switch {
	case w.client.ctx.Err() != nil:
		return ErrClosed
	case err != nil:
		return err
	case left > 0:
		return fmt.Errorf("mq: %d handlers did not return though their contexts were cancelled", left)
	default:
		return nil
	}
}

// declare declares the subscriptions, those of one file at once, and returns their policies. It retries while the sidecar is
// away and returns all refusals together. The policies are incomplete if ctx ended.
func (w *Worker) declare(ctx context.Context, subscriptions []*subscription) ([]policy, error) {
	policies := make([]policy, len(subscriptions))
	byFile := make(map[string][]int)
	var paths []string
	for i, s := range subscriptions {
		path := s.File.Path()
		if byFile[path] == nil {
			paths = append(paths, path)
		}
		byFile[path] = append(byFile[path], i)
	}
	var faults []error
	for _, path := range paths {
		members := make([]*subscription, len(byFile[path]))
		for i, j := range byFile[path] {
			members[i] = subscriptions[j]
		}
		var pause backoff
		for {
			found, err := w.client.declareSubscriptions(ctx, members)
			if err == nil {
				for i, j := range byFile[path] {
					policies[j] = found[i]
				}
				break
			}
			if ctx.Err() != nil {
				return nil, nil
			}
			if final(err) {
				faults = append(faults, fmt.Errorf("subscriptions of %s: %w", path, err))
				break
			}
			if pause.loud() {
				w.client.log.Warn("cannot declare subscriptions at the moment, trying again", "file", path,
					"failures", pause.failures+1, "error", err)
			}
			if !pause.wait(ctx) {
				return nil, nil
			}
		}
	}
	return policies, errors.Join(faults...)
}

// Counts is what a worker has settled since it was started. Acked and the others up to Released count what the sidecar
// confirmed.
type Counts struct {
	Acked    uint64
	Skipped  uint64
	Retried  uint64
	Rejected uint64
	Snoozed  uint64
	Released uint64
	// LeaseLost counts outcomes that came too late: the message is delivered again.
	LeaseLost uint64
	// Unsettled counts outcomes that were given up because the sidecar could not be reached.
	Unsettled uint64
	// Reconnects counts streams that were lost.
	Reconnects uint64
}

type counts struct {
	acked, skipped, retried, rejected, snoozed, released, leaseLost, unsettled, reconnects atomic.Uint64
}

// Counts returns the present numbers.
func (w *Worker) Counts() Counts {
	return Counts{
		Acked: w.counts.acked.Load(), Skipped: w.counts.skipped.Load(), Retried: w.counts.retried.Load(),
		Rejected: w.counts.rejected.Load(), Snoozed: w.counts.snoozed.Load(), Released: w.counts.released.Load(),
		LeaseLost: w.counts.leaseLost.Load(), Unsettled: w.counts.unsettled.Load(), Reconnects: w.counts.reconnects.Load(),
	}
}

// add counts one settlement, nil being a plain acknowledgement.
func (c *counts) add(s *brokerv1.Settlement) {
	switch o := s.GetOutcome().(type) {
	case nil:
		c.acked.Add(1)
	case *brokerv1.Settlement_Ack_:
		if o.Ack.GetSkipReason() != "" {
			c.skipped.Add(1)
		} else {
			c.acked.Add(1)
		}
	case *brokerv1.Settlement_Answer_:
		c.acked.Add(1)
	case *brokerv1.Settlement_Retry_:
		c.retried.Add(1)
	case *brokerv1.Settlement_Reject_:
		c.rejected.Add(1)
	case *brokerv1.Settlement_Snooze_:
		c.snoozed.Add(1)
	case *brokerv1.Settlement_Release_:
		c.released.Add(1)
	}
}

// logger names a subscription in every line about it.
func (w *Worker) logger(s *subscription) *slog.Logger {
	return w.client.log.With("group", s.Group, "topic", s.Topic)
}
