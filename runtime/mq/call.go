package mq

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
)

// Call is one call of a handler, as interceptors see it: one message, or those of a batch.
type Call struct {
	subscription *subscription
	items        []item
	single       [1]item       // what items is of, unless it is a batch
	manual       *manual       // of a handler that settles itself
	reply        proto.Message // of a handler that answers
	failed       error         // what that handler returned instead
	deadline     time.Time     // of the processing time, when it began

	failing atomic.Bool // a message was failed
	mu      sync.Mutex  // guards meta and failure of items
}

// item is one message of a call.
type item struct {
	meta     *Meta // nil until somebody asks
	message  proto.Message
	failure  error
	delivery *delivery
}

// Group returns the group of the subscription.
func (c *Call) Group() string { return c.subscription.Group }

// Topic returns the topic of the subscription.
func (c *Call) Topic() string { return c.subscription.Topic }

// RPC returns the consumer rpc, "package.Service/Method".
func (c *Call) RPC() string { return c.subscription.RPC }

// Batch reports whether the handler is one of batches, however many messages this one has.
func (c *Call) Batch() bool { return c.subscription.style == inBatches }

// Manual reports whether the handler settles its message itself, as a [Delivery], before it returns.
func (c *Call) Manual() bool { return c.subscription.style == bySelf }

// Len returns the number of messages: 1, or for a batch handler at least 1.
func (c *Call) Len() int { return len(c.items) }

// Message returns message i. It is the handler's: it must not be kept.
func (c *Call) Message(i int) proto.Message { return c.items[i].message }

// Messages yields the messages with their indexes.
func (c *Call) Messages() iter.Seq2[int, proto.Message] {
	return func(yield func(int, proto.Message) bool) {
		for i := range c.items {
			if !yield(i, c.items[i].message) {
				return
			}
		}
	}
}

// Meta returns what is known of message i besides its content. It must not be changed.
func (c *Call) Meta(i int) *Meta {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &c.items[i]
	if m.meta == nil {
		m.meta = m.delivery.meta(c.deadline)
	}
	return m.meta
}

// Fail fails message i of the call with err, which means what it would if a handler of single messages returned it; the other messages of
// a batch are not concerned. A message that was failed before the handler is called is not handed to it, and if none is left, the
// handler is not called. A later err replaces an earlier one. A nil err changes nothing. It is safe for concurrent use, and without
// effect after the call.
func (c *Call) Fail(i int, err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items[i].failure = err
	c.failing.Store(true)
}

// Failure returns what message i was failed with by Fail, nil if it was not.
func (c *Call) Failure(i int) error {
	if !c.failing.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.items[i].failure
}

// sound returns the indexes of the messages that were not failed, nil for all of them.
func (c *Call) sound() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var indexes []int
	for i := range c.items {
		if c.items[i].failure != nil && indexes == nil {
			indexes = make([]int, 0, len(c.items))
			for j := range i {
				indexes = append(indexes, j)
			}
		} else if c.items[i].failure == nil && indexes != nil {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// HandlerFunc carries out one call of a handler. Its error settles the messages that were not failed one by one.
type HandlerFunc func(ctx context.Context, c *Call) error

// style is the signature of a subscription's handler.
type style uint8

const (
	oneByOne style = iota
	inBatches
	bySelf // the handler settles each message itself
	answering
)
