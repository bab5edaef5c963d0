package mq

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"
)

// Publication is one message on its way to the sidecar, as interceptors and a [Sender] see it. It is valid until they return.
type Publication struct {
	topic   *topic
	message proto.Message
	payload []byte // the encoding of the message, if it comes from one; else nil
	record  Record

	tx       *Tx           // where it goes, if not to the sidecar at once
	queued   chan struct{} // of capacity 1, for who waits until the record is queued; else nil
	detached bool          // once the record is queued, the context does not matter
}

// Topic returns the name of the topic.
func (p *Publication) Topic() string { return p.topic.name }

// Message returns the message. It is the caller's: it must not be changed, nor used once the next function has returned.
func (p *Publication) Message() proto.Message { return p.message }

// Record returns what travels beside the message: what its annotations derive and the options say. Changes count until the next function is
// called; they are checked as those of options are.
func (p *Publication) Record() *Record { return &p.record }

// PublishFunc publishes a message and returns when it is durable, or refused.
type PublishFunc func(ctx context.Context, p *Publication) (Receipt, error)

// PublishInterceptor wraps what publishes each message of a client: it returns a function that does something of its own and calls next, or does
// not and returns an error. It is called once, when the client is made; what it returns must be safe for concurrent use.
type PublishInterceptor func(next PublishFunc) PublishFunc

// HandlerInterceptor wraps the handlers of a worker, as [PublishInterceptor] does the publishing of a client. The error that the function returns
// is what the handler's would be. What is no message of the topic (see [Handle]) reaches no interceptor.
type HandlerInterceptor func(next HandlerFunc) HandlerFunc

// WithPublishInterceptors wraps all publishing of a client. The first is the outermost; those of a further option are within.
func WithPublishInterceptors(interceptors ...PublishInterceptor) Option {
	return func(o *clientOptions) { o.interceptors = append(o.interceptors, interceptors...) }
}

// WithHandlerInterceptors wraps all handlers of a worker. The first is the outermost; those of a further option are within.
func WithHandlerInterceptors(interceptors ...HandlerInterceptor) WorkerOption {
	return func(o *workerOptions) { o.interceptors = append(o.interceptors, interceptors...) }
}

// intercept returns f within the interceptors.
func intercept[F any, I ~func(F) F](interceptors []I, f F) F {
	for _, i := range slices.Backward(interceptors) {
		f = i(f)
	}
	return f
}
