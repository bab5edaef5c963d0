package mq

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// Outcome is what a handler's return makes of a message.
type Outcome string

// The outcomes.
const (
	OutcomeAck    Outcome = "ack"    // the message is done
	OutcomeSkip   Outcome = "skip"   // done, by [Skip]
	OutcomeRetry  Outcome = "retry"  // it is tried again, if attempts are left
	OutcomeReject Outcome = "reject" // it becomes a dead letter, by [Permanent]
	OutcomeSnooze Outcome = "snooze" // it is delivered again without using an attempt, by [Snooze]
)

// OutcomeOf returns what err means if a handler returns it. It does not know of what a message settled itself, nor of a worker that stops.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeAck
	}
	var o outcome
	if !errors.As(err, &o) {
		return OutcomeRetry
	}
	switch o.(type) {
	case *permanent, *undecodable:
		return OutcomeReject
	case *snooze:
		return OutcomeSnooze
	case *skip:
		return OutcomeSkip
	default:
		return OutcomeRetry
	}
}

// Outcome returns what becomes of message i of a call for which the next function returned err: what it was failed with counts, or how the
// handler settled it itself, or before both that a transaction acknowledged it.
func (c *Call) Outcome(i int, err error) Outcome {
	if c.items[i].delivery.isCommitted() {
		return OutcomeAck
	}
	if failure := c.Failure(i); failure != nil {
		return OutcomeOf(failure)
	}
	if settled := c.manual.outcome(); settled != "" {
		return settled
	}
	return OutcomeOf(err)
}

// LogPublishes logs each message that was not published, with its topic and the error, as a warning, and at level debug each that was. Payloads, keys
// and headers are not logged.
func LogPublishes(logger *slog.Logger) PublishInterceptor {
	return func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, p *Publication) (Receipt, error) {
			began := time.Now()
			receipt, err := next(ctx, p)
			if err != nil {
				logger.LogAttrs(ctx, slog.LevelWarn, "not published", slog.String("topic", p.Topic()),
					slog.Duration("took", time.Since(began)), slog.Any("error", err))
			} else if logger.Enabled(ctx, slog.LevelDebug) {
				logger.LogAttrs(ctx, slog.LevelDebug, "published", slog.String("topic", p.Topic()), slog.String("id", receipt.ID),
					slog.Duration("took", time.Since(began)))
			}
			return receipt, err
		}
	}
}

// LogHandlers logs each message that is not acknowledged, with its place, its attempt, the outcome and the error: what becomes a dead letter as an
// error, what is tried again as a warning, the rest as information; and at level debug each call of a handler. Payloads, keys and headers are not logged.
func LogHandlers(logger *slog.Logger) HandlerInterceptor {
	return func(next HandlerFunc) HandlerFunc {
		return func(ctx context.Context, c *Call) error {
			began := time.Now()
			err := next(ctx, c)
			took := time.Since(began)
			for i := range c.Len() {
				level := slog.LevelInfo
				outcome := c.Outcome(i, err)
				switch outcome {
				case OutcomeAck:
					continue
				case OutcomeReject:
					level = slog.LevelError
				case OutcomeRetry:
					level = slog.LevelWarn
				}
				failure := c.Failure(i)
				if failure == nil {
					failure = err
				}
				m := c.Meta(i)
				logger.LogAttrs(ctx, level, "handled", slog.String("group", c.Group()), slog.String("topic", c.Topic()), slog.String("id", m.ID),
					slog.Uint64("attempt", uint64(m.Attempt)), slog.String("outcome", string(outcome)), slog.Duration("took", took), slog.Any("error", failure))
			}
			if logger.Enabled(ctx, slog.LevelDebug) {
				logger.LogAttrs(ctx, slog.LevelDebug, "handler returned", slog.String("group", c.Group()), slog.String("topic", c.Topic()),
					slog.Int("messages", c.Len()), slog.Duration("took", took))
			}
			return err
		}
	}
}

// RecoverHandlers makes an error of a panic, for interceptors outside of it to see, and to decide what becomes of the message: an
// error made by [Permanent] spares a message that panics always its further attempts. Without it a panic is tried again as an error is, and
// logged by the worker; with it only what to does is done. Stack is that of the panic.
func RecoverHandlers(to func(ctx context.Context, c *Call, value any, stack []byte) error) HandlerInterceptor {
	return func(next HandlerFunc) HandlerFunc {
		return func(ctx context.Context, c *Call) (err error) {
			defer func() {
				if value := recover(); value != nil {
					err = to(ctx, c, value, debug.Stack())
				}
			}()
			return next(ctx, c)
		}
	}
}

// Published is what became of one publish.
type Published struct {
	Topic string
	Took  time.Duration // until it was durable or refused
	Err   error
}

// Handled is what one call of a handler came to.
type Handled struct {
	Group, Topic string
	Took         time.Duration
	// Outcomes counts the messages of the call, of which there is one at least.
	Outcomes map[Outcome]int
}

// Metrics takes measurements. Its methods are called from many goroutines and should be fast.
type Metrics interface {
	Published(Published)
	Handled(Handled)
}

// MeasurePublishes tells m of each publish.
func MeasurePublishes(m Metrics) PublishInterceptor {
	return func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, p *Publication) (Receipt, error) {
			began := time.Now()
			receipt, err := next(ctx, p)
			m.Published(Published{p.Topic(), time.Since(began), err})
			return receipt, err
		}
	}
}

// MeasureHandlers tells m of each call of a handler. One that panics counts its messages as [OutcomeRetry], unless [RecoverHandlers] is within.
func MeasureHandlers(m Metrics) HandlerInterceptor {
	return func(next HandlerFunc) HandlerFunc {
		return func(ctx context.Context, c *Call) error {
			began := time.Now()
			err := errUnknown // of a panic
			defer func() {
				outcomes := make(map[Outcome]int, 1)
				for i := range c.Len() {
					outcomes[c.Outcome(i, err)]++
				}
				m.Handled(Handled{c.Group(), c.Topic(), time.Since(began), outcomes})
			}()
			err = next(ctx, c)
			return err
		}
	}
}

var errUnknown = errors.New("the handler did not return")

// Counters is a [Metrics] that counts. It is an expvar.Var: expvar.Publish("mq", counters) shows it. The zero value is ready.
type Counters struct {
	mu struct {
		sync.Mutex
		topics map[string]*PublishCounts
		groups map[string]map[string]*HandleCounts
	}
}

// PublishCounts are the publishes to one topic.
type PublishCounts struct {
	Published uint64        `json:"published"`
	Failed    uint64        `json:"failed"`
	Took      time.Duration `json:"took_ns"` // in sum
}

// HandleCounts are the calls of a group's handlers for one topic.
type HandleCounts struct {
	Calls    uint64             `json:"calls"`
	Took     time.Duration      `json:"took_ns"` // in sum
	Messages map[Outcome]uint64 `json:"messages"`
}

// Published counts a publish.
func (c *Counters) Published(p Published) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.topics == nil {
		c.mu.topics = make(map[string]*PublishCounts)
	}
	counts := c.mu.topics[p.Topic]
	if counts == nil {
		counts = new(PublishCounts)
		c.mu.topics[p.Topic] = counts
	}
	if p.Err != nil {
		counts.Failed++
	} else {
		counts.Published++
	}
	counts.Took += p.Took
}

// Handled counts a call of a handler.
func (c *Counters) Handled(h Handled) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.groups == nil {
		c.mu.groups = make(map[string]map[string]*HandleCounts)
	}
	topics := c.mu.groups[h.Group]
	if topics == nil {
		topics = make(map[string]*HandleCounts)
		c.mu.groups[h.Group] = topics
	}
	counts := topics[h.Topic]
	if counts == nil {
		counts = &HandleCounts{Messages: make(map[Outcome]uint64)}
		topics[h.Topic] = counts
	}
	counts.Calls++
	counts.Took += h.Took
	for outcome, n := range h.Outcomes {
		counts.Messages[outcome] += uint64(n)
	}
}

// String returns the counters as JSON: {"published": {TOPIC: PublishCounts}, "handled": {GROUP: {TOPIC: HandleCounts}}}.
func (c *Counters) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := json.Marshal(struct {
		Published map[string]*PublishCounts           `json:"published"`
		Handled   map[string]map[string]*HandleCounts `json:"handled"`
	}{c.mu.topics, c.mu.groups})
	if err != nil {
		return "{}" // of numbers and strings: it cannot be
	}
	return string(text)
}
