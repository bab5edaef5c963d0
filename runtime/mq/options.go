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

// PublishOption changes the record of one published message.
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

// WithID gives the message an id: UTF-8 of at most 249 bytes without CR, LF or NUL. A message without one is known by its
// place, "<partition>-<offset>".
func WithID(id string) PublishOption {
	return func(r *Record) { r.ID = id }
}

// WorkerOption configures a [Worker].
type WorkerOption func(*workerOptions)

type workerOptions struct {
	concurrency  int
	drainTimeout time.Duration
}

const defaultDrainTimeout = 30 * time.Second

// WithConcurrency limits how many handlers of one subscription run at a time in this worker. It can only lower the
// subscription's max_in_flight. Values below 1 are ignored.
func WithConcurrency(n int) WorkerOption {
	return func(o *workerOptions) { o.concurrency = n }
}

// WithDrainTimeout sets how long running handlers may take to finish once Run is told to stop; then their contexts are
// cancelled. Default: 30 seconds. With 0 they are cancelled at once.
func WithDrainTimeout(d time.Duration) WorkerOption {
	return func(o *workerOptions) { o.drainTimeout = max(d, 0) }
}
