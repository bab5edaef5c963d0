package mq

import (
	"context"
	"log/slog"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/hook"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

// Client is a connection to one sidecar, shared by publishers and workers. It is safe for concurrent use.
type Client struct {
	broker brokerv1connect.BrokerServiceClient
	name   string
	log    *slog.Logger
	hooks  hook.Hooks

	// The client's life, in which its goroutine runs and its connections are open.
	ctx context.Context
	end context.CancelCauseFunc

	drafts sync.Pool // of *draft, each used by one Publish call at a time

	publish PublishFunc // send within the interceptors; nil if there are none

	// Publishes that run in goroutines of their own.
	beside struct {
		sync.Mutex
		running map[*answers]struct{}
	}

	pipeline  *pipeline
	pipelines sync.WaitGroup
	inbox     *inbox

	topics struct {
		sync.Mutex
		byName map[topicKey]*topic
	}
}

func newClient(
	life context.Context,
	end context.CancelCauseFunc,
	broker brokerv1connect.BrokerServiceClient,
	options clientOptions,
	hooks hook.Hooks,
) *Client {
	c := &Client{broker: broker, name: options.name, log: options.logger, hooks: hooks, ctx: life, end: end}
	c.drafts.New = func() any { return new(draft) }
	c.topics.byName = make(map[topicKey]*topic)
	c.beside.running = make(map[*answers]struct{})
	if len(options.interceptors) > 0 {
		c.publish = intercept(options.interceptors, c.send)
	}
	c.inbox = newInbox(c)
	c.pipeline = newPipeline(c)
	for _, l := range c.pipeline.lanes {
		c.pipelines.Go(func() { l.run(life) })
	}
	return c
}

// Close ends the client: publishes in progress return [ErrClosed], and workers' Run returns it. To lose nothing, stop workers
// and wait for publishes first. Close waits for what the client started and may be called more than once.
func (c *Client) Close() error {
	c.end(ErrClosed)
	c.pipelines.Wait()
	return c.settleBeside(context.Background())
}

// topic returns the client's one state for a topic, whoever publishes to it.
func (c *Client) topic(name string, message protoreflect.MessageDescriptor) *topic {
	key := topicKey{name, message.FullName()}
	c.topics.Lock()
	defer c.topics.Unlock()
	t := c.topics.byName[key]
	if t == nil {
		t = newTopicState(c, name, message)
		c.topics.byName[key] = t
	}
	return t
}
