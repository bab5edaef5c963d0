// Package mqotel traces publishes and handlers with OpenTelemetry. The trace context travels in the messages' headers, as W3C traceparent and
// tracestate: one trace leads from the publisher through the sidecar to the handler. The sidecar does not touch the headers, and filters see
// them.
//
// A publish is a span of kind producer. The handling of a message is one of kind consumer, a child of the publish span; that of a batch is
// linked to the publish span of each of its messages, since it cannot have several parents. It takes no measurements and logs nothing.
//
//	client, err := mq.Dial(ctx, mq.WithPublishInterceptors(mqotel.TracePublishes()))
//	worker := mq.NewWorker(client, mq.WithHandlerInterceptors(mqotel.TraceHandlers()))
package mqotel

import (
	"context"
	"fmt"
	"strconv"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/typedmq/typedmq/runtime/mq"
)

// scope is the name of the instrumentation.
const scope = "github.com/typedmq/typedmq/runtime/mq/mqotel"

// Option configures an interceptor.
type Option func(*options)

type options struct {
	provider   trace.TracerProvider
	propagator propagation.TextMapPropagator
}

// WithTracerProvider sets where spans go. Default: the global provider, as it is when the interceptor is made.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(o *options) { o.provider = p }
}

// WithPropagator sets what is written to the headers of messages, and read from them. Default: propagation.TraceContext, which is traceparent
// and tracestate.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(o *options) { o.propagator = p }
}

func configure(opts []Option) (trace.Tracer, propagation.TextMapPropagator) {
	o := options{provider: otel.GetTracerProvider(), propagator: propagation.TraceContext{}}
	for _, opt := range opts {
		opt(&o)
	}
	return o.provider.Tracer(scope), o.propagator
}

// TracePublishes makes a span of each publish, until the message is durable or refused, and puts its context into the message's headers.
func TracePublishes(opts ...Option) mq.PublishInterceptor {
	tracer, propagator := configure(opts)
	return func(next mq.PublishFunc) mq.PublishFunc {
		return func(ctx context.Context, p *mq.Publication) (mq.Receipt, error) {
			ctx, span := tracer.Start(ctx, "send "+p.Topic(), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
				system, attribute.String("messaging.operation.name", "send"), attribute.String("messaging.operation.type", "send"),
				attribute.String("messaging.destination.name", p.Topic())))
			defer span.End() // notes a panic, too
			propagator.Inject(ctx, recordHeaders{p.Record()})
			receipt, err := next(ctx, p)
			if err != nil {
				span.RecordError(err)
				span.SetStatus(codes.Error, err.Error())
			} else if span.IsRecording() {
				span.SetAttributes(attribute.String("messaging.message.id", receipt.ID), partition(receipt.Partition))
			}
			return receipt, err
		}
	}
}

// TraceHandlers makes a span of each call of a handler. It fails if a message of the call is tried again or becomes a dead letter.
func TraceHandlers(opts ...Option) mq.HandlerInterceptor {
	tracer, propagator := configure(opts)
	return func(next mq.HandlerFunc) mq.HandlerFunc {
		return func(ctx context.Context, c *mq.Call) error {
			ctx, span := tracer.Start(parent(ctx, propagator, c), "process "+c.Topic(), startOptions(propagator, c)...)
			defer span.End()
			err := next(ctx, c)
			failed := 0
			for i := range c.Len() {
				outcome := c.Outcome(i, err)
				if c.Len() == 1 {
					span.SetAttributes(attribute.String("typedmq.outcome", string(outcome)))
				}
				if outcome == mq.OutcomeRetry || outcome == mq.OutcomeReject {
					failed++
					if failure := c.Failure(i); failure != nil {
						span.RecordError(failure)
					}
				}
			}
			if failed > 0 {
				if err != nil {
					span.RecordError(err)
				}
				span.SetStatus(codes.Error, fmt.Sprintf("%d of %d messages failed", failed, c.Len()))
			}
			return err
		}
	}
}

// parent returns the context with the publish span of a single message.
func parent(ctx context.Context, propagator propagation.TextMapPropagator, c *mq.Call) context.Context {
	if c.Batch() {
		return ctx
	}
	return propagator.Extract(ctx, metaHeaders{c.Meta(0)})
}

func startOptions(propagator propagation.TextMapPropagator, c *mq.Call) []trace.SpanStartOption {
	attributes := []attribute.KeyValue{
		system, attribute.String("messaging.operation.name", "process"), attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", c.Topic()), attribute.String("messaging.consumer.group.name", c.Group()),
	}
	o := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)}
	if c.Batch() {
		attributes = append(attributes, attribute.Int("messaging.batch.message_count", c.Len()))
		for i := range c.Len() {
			published := trace.SpanContextFromContext(propagator.Extract(context.Background(), metaHeaders{c.Meta(i)}))
			if published.IsValid() {
				o = append(o, trace.WithLinks(trace.Link{SpanContext: published,
					Attributes: []attribute.KeyValue{attribute.String("messaging.message.id", c.Meta(i).ID)}}))
			}
		}
	} else {
		m := c.Meta(0)
		attributes = append(attributes, attribute.String("messaging.message.id", m.ID), partition(m.Partition),
			attribute.Int("typedmq.attempt", int(m.Attempt)))
	}
	return append(o, trace.WithAttributes(attributes...))
}

var system = attribute.String("messaging.system", "typedmq")

func partition(n uint32) attribute.KeyValue {
	return attribute.String("messaging.destination.partition.id", strconv.FormatUint(uint64(n), 10))
}

// recordHeaders are the headers of a message that is published.
type recordHeaders struct{ record *mq.Record }

func (h recordHeaders) Get(key string) string {
	value, _ := h.record.Header(key)
	return value
}

func (h recordHeaders) Set(key, value string) { h.record.AddHeader(key, value) }

// Keys is for what lists all: no propagator does that to write.
func (h recordHeaders) Keys() []string { return nil }

// metaHeaders are the headers of a message that is handled.
type metaHeaders struct{ meta *mq.Meta }

func (h metaHeaders) Get(key string) string {
	value, _ := h.meta.Header(key)
	return value
}

// Set does nothing: what was published does not change.
func (h metaHeaders) Set(string, string) {}

func (h metaHeaders) Keys() []string {
	var all []string
	for name := range h.meta.Headers() {
		all = append(all, name)
	}
	return all
}
