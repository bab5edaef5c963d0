package mq

import (
	"log/slog"
	"time"

	"connectrpc.com/connect"
)

// Option configures a [Client].
type Option func(*clientOptions)

type clientOptions struct {
	address    string
	name       string
	logger     *slog.Logger
	httpClient connect.HTTPClient

	interceptors []PublishInterceptor
}

// WithAddress names the sidecar: "unix:///path/to/socket" or "http://host:port". It takes precedence over the environment
// variable MQ_ADDR.
func WithAddress(address string) Option {
	return func(o *clientOptions) { o.address = address }
}

// WithLogger makes the client say when it loses and finds its sidecar, what it could not settle, and that a handler panicked or
// is stuck. Without it nothing is logged. Payloads, keys, headers and handlers' errors are not logged; what a panic says is.
func WithLogger(logger *slog.Logger) Option {
	return func(o *clientOptions) { o.logger = logger }
}

// WithHTTPClient replaces the transport. It must speak HTTP/2 to the address, without TLS for an http address. The client
// does not close it.
func WithHTTPClient(client connect.HTTPClient) Option {
	return func(o *clientOptions) { o.httpClient = client }
}

// WithClientName is the name shown in the sidecar's list of consumers. Default: the name of the executable.
func WithClientName(name string) Option {
	return func(o *clientOptions) { o.name = name }
}

// PublishOption changes the record of one published message. It must not keep the record.
type PublishOption func(*Record)

// WithKey replaces the key that the message's annotations derive. Messages of equal keys share a partition. The client
// does not keep key after Publish returns.
func WithKey(key []byte) PublishOption {
	return func(r *Record) { r.Key = key }
}

// WithHeader adds a header, or replaces the header of that name. See [Record.AddHeader] for its bounds.
func WithHeader(name, value string) PublishOption {
	return func(r *Record) { r.AddHeader(name, value) }
}

// WithID gives the message an id: UTF-8 of at most 249 bytes without control characters. A message without one is known by its
// place, "<partition>-<offset>" or "<partition>.<priority>-<offset>", so that no other may have an id of these forms, such as "2026-11"; one
// that is kept back has a random id.
func WithID(id string) PublishOption {
	return func(r *Record) { r.ID = id }
}

// WithDelay keeps the message back for d, counted from when the sidecar takes it: 0 to [MaxScheduleAhead]. It enters the topic then, and gets
// its offset and its place in the order; until then [Client.Cancel] can take it back. It replaces what the message's annotations derive
// and excludes [WithDeliverAt]. With 0 it enters at once.
func WithDelay(d time.Duration) PublishOption {
	return func(r *Record) {
		t := r.mayWait()
		t.delay, t.hasDelay = d, true
	}
}

// WithDeliverAt is [WithDelay] until an instant, by the sidecar's clock. One in the past is now; one before 1970, such as the zero Time, or
// more than [MaxScheduleAhead] ahead is refused.
func WithDeliverAt(at time.Time) PublishOption {
	return func(r *Record) {
		t := r.mayWait()
		t.at, t.hasAt = at, true
	}
}

// WithTTL bounds how long the message may wait to be delivered, from when it enters the topic: 1 ms to [MaxTTL]. The topic's own ttl applies
// if it is shorter. A message that waits longer expires: it is not delivered any more.
func WithTTL(d time.Duration) PublishOption {
	return func(r *Record) { r.ttl, r.hasTTL = d, true }
}

// WithPriority replaces the priority that the message's annotations derive: 1, the lowest, to the topic's number of levels.
func WithPriority(n int) PublishOption {
	return func(r *Record) { r.priority, r.priorityChosen = int64(n), true }
}

// WorkerOption configures a [Worker].
type WorkerOption func(*workerOptions)

type workerOptions struct {
	concurrency  int
	prefetch     int
	maxBytes     int64
	drainTimeout time.Duration
	interceptors []HandlerInterceptor
}

const defaultDrainTimeout = 30 * time.Second

// WithConcurrency limits how many handlers of one subscription run at a time in this worker. It can only lower the
// subscription's max_in_flight. Values below 1 are ignored.
func WithConcurrency(n int) WorkerOption {
	return func(o *workerOptions) { o.concurrency = n }
}

// WithPrefetch lets n messages of each subscription wait in this worker for a handler, so that a handler that is done need not wait for the
// sidecar. It raises what [WithConcurrency] leaves of the subscription's max_in_flight, at most to that. Messages that wait do not age, and go
// back unharmed when the worker stops. Until then no other worker gets them. In a topic with priorities nothing is prefetched: what waits here
// would start before a higher priority that is ready at the sidecar. Values below 1 are ignored; default: none.
func WithPrefetch(n int) WorkerOption {
	return func(o *workerOptions) { o.prefetch = min(max(n, 0), maxLimit) }
}

// WithMaxBytesInFlight bounds the bytes of the messages of each subscription that are unsettled in this worker: 1 byte to 1 GiB. One message
// may exceed it when nothing else is unsettled. Values below 1 are ignored; default: what the sidecar takes, 64 MiB.
func WithMaxBytesInFlight(n int64) WorkerOption {
	return func(o *workerOptions) { o.maxBytes = min(max(n, 0), 1<<30) }
}

// WithDrainTimeout sets how long running handlers may take to finish once Run is told to stop; then their contexts are
// cancelled. Default: 30 seconds. With 0 they are cancelled at once.
func WithDrainTimeout(d time.Duration) WorkerOption {
	return func(o *workerOptions) { o.drainTimeout = max(d, 0) }
}
