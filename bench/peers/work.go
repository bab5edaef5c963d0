package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
	"google.golang.org/protobuf/proto"
)

// callers is how many goroutines publish.
const callers = 8

// A work is what is measured of each system.
type work struct {
	id    string // that of the scenario of mqbench, too
	title string
}

var works = []work{
	{"publish", "publish only"},
	{"queue", "publish, deliver, handle, acknowledge"},
}

// load is what is done to a node. Its messages are those of mqbench.
type load struct {
	node  node
	batch int
	room  int
	size  int      // of a message's body
	keys  []string // of messages, in turn
	total int      // of messages; 0: until the context is done
}

// keys makes the keys of mqbench.
func keys(count int) []string {
	all := make([]string, count)
	for i := range all {
		all[i] = fmt.Sprintf("key%07d", i)
	}
	return all
}

// measured is what a span of time came to.
type measured struct {
	rate           float64 // messages per second
	client, server float64 // nanoseconds of processor time for each message; 0: not known
}

// measure does a work for warm and then for span, which is measured.
func (l load) measure(ctx context.Context, id string, warm, span time.Duration) (measured, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var n atomic.Int64
	done := make(chan error, 1)
	go func() {
		if id == "publish" {
			done <- l.publish(ctx, nil, func(count int) { n.Add(int64(count)) })
			return
		}
		done <- l.endToEnd(ctx, func(*message) { n.Add(1) })
	}()
	wait := func(d time.Duration) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case err := <-done:
			return cause(ctx, fmt.Errorf("it ended early: %w", err))
		case <-timer.C:
			return nil
		}
	}
	if err := wait(warm); err != nil {
		return measured{}, err
	}
	from, began, used := n.Load(), time.Now(), process.Meter(l.node.pid())
	if err := wait(span); err != nil {
		return measured{}, err
	}
	count, took, cpu := n.Load()-from, time.Since(began), used()
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		return measured{}, err
	}
	if count == 0 {
		return measured{}, fmt.Errorf("no message within %v: give it more -time", span)
	}
	return measured{float64(count) / took.Seconds(), float64(cpu.Self) / float64(count), float64(cpu.Other) / float64(count)}, nil
}

// cause is err, unless ctx ended, which explains it.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// publish lets callers publish batches, each when there is room for it, and calls acked as they are acknowledged. The context's end is no error.
func (l load) publish(ctx context.Context, room chan struct{}, acked func(n int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	var next atomic.Int64
	for range callers {
		work.Go(func() {
			if err := l.caller(ctx, &next, room, acked); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	work.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// caller publishes batch after batch: messages are marshalled into one buffer, which is used again once they are acknowledged.
func (l load) caller(ctx context.Context, next *atomic.Int64, room chan struct{}, acked func(n int)) error {
	p, err := l.node.publisher(ctx)
	if err != nil {
		return err
	}
	body := make([]byte, l.size)
	for i := range body {
		body[i] = byte(i * 7)
	}
	buffer := make([]byte, 0, l.batch*(l.size+64))
	bodies := make([][]byte, 0, l.batch)
	for ctx.Err() == nil {
		if room != nil {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
		}
		first := int(next.Add(int64(l.batch))) - l.batch
		if l.total > 0 && first >= l.total {
			return nil
		}
		buffer, bodies = buffer[:0], bodies[:0]
		for i := first; i < first+l.batch && (l.total == 0 || i < l.total); i++ {
			from := len(buffer)
			buffer, err = proto.MarshalOptions{}.MarshalAppend(buffer, &message{Key: l.keys[i%len(l.keys)], Body: body})
			if err != nil {
				return err
			}
			bodies = append(bodies, buffer[from:len(buffer):len(buffer)])
		}
		if err := p.publish(ctx, bodies, acked); err != nil {
			return err
		}
	}
	return nil
}

// endToEnd publishes and consumes at once, with room for so many batches between a publisher and the end of their handlers. It ends with the context, which is no error.
func (l load) endToEnd(ctx context.Context, handled func(*message)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	room := make(chan struct{}, l.room)
	var count atomic.Int64
	consumed := make(chan error, 1)
	go func() {
		err := l.node.consume(ctx, func(body []byte) error {
			m := new(message)
			if err := proto.Unmarshal(body, m); err != nil {
				return err
			}
			handled(m)
			if count.Add(1)%int64(l.batch) == 0 {
				select {
				case <-room:
				default: // a message was delivered again
				}
			}
			return nil
		})
		if err == nil && ctx.Err() == nil {
			err = errors.New("the consumer ended")
		}
		cancel(err)
		consumed <- err
	}()
	if err := l.publish(ctx, room, func(int) {}); err != nil {
		cancel(err)
		<-consumed
		return err
	}
	return <-consumed
}
