package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// publisher sends batches until the chaos is over: hot keys and cold ones, small and large, some that must be refused.
func (w *World) publisher(n int) {
	c := w.client("publisher-%d", n)
	for w.rest(c.between(30*time.Millisecond, 1200*time.Millisecond), c.name) {
		if w.plan.Transactions > 0 && c.roll(w.plan.Transactions) {
			c.transact(c.sidecar(c.rng.IntN(8)), c.compose(nil, nil))
			continue
		}
		t := &w.plan.Topics[c.rng.IntN(len(w.plan.Topics))]
		c.publish(t, 1+c.rng.IntN(5), c.rng.IntN(40) == 0)
	}
}

// publish sends one batch. A spoiled batch has a record that cannot be taken.
func (c *client) publish(t *Topic, n int, spoiled bool) {
	w := c.w
	var (
		records []byte
		sent    []Event
	)
	op := w.op()
	var delay, ttl time.Duration
	switch c.rng.IntN(10) {
	case 0, 1:
		delay = c.between(time.Millisecond, 8*time.Second).Truncate(time.Millisecond)
	case 2:
		ttl = []time.Duration{time.Second, 3 * time.Second, time.Hour}[c.rng.IntN(3)]
	}
	how := c.resends(t)
	for range n {
		w.lastUID++
		for how == underIDs && idOf(w.lastUID) == "" {
			w.lastUID++
		}
		e := Event{Kind: Publish, Op: op, Client: c.name, Topic: t.Name, UID: w.lastUID, Key: c.key(), Offset: noOffset, After: delay, TTL: ttl}
		records = engine.AppendRecord(records, record(e.UID, e.Key, delay, ttl))
		sent = append(sent, e)
	}
	if spoiled {
		records = engine.AppendRecord(records, broker.NewRecord([]byte("k"), []byte{0xff, 0xff}, nil, ""))
	}
	for _, e := range sent {
		w.record(e)
	}
	placed, r, why := c.sendAgain(broker.Batch{Topic: t.Name, Records: records}, how, spoiled)
	defer func() {
		if delay > time.Second && c.rng.IntN(2) == 0 {
			c.cancel(sent[c.rng.IntN(len(sent))], delay)
		}
	}()
	for i, e := range sent {
		e.Kind, e.Result, e.Detail = Published, r, why
		if r == OK {
			e.Partition, e.Offset = placed.Partitions[i], placed.Offsets[i]
		}
		w.record(e)
	}
}

// key is a hot one, a cold one or one of a few.
func (c *client) key() string {
	switch n := c.rng.IntN(10); {
	case n < 4:
		return "hot"
	case n < 9:
		return fmt.Sprintf("k%d", c.rng.IntN(6))
	}
	return fmt.Sprintf("cold%d", c.rng.IntN(1000))
}

// judge tells of an error whether what was asked for did certainly not happen.
func judge(err error) Result {
	switch broker.Refusal(err).Reason {
	case broker.DiskFull, broker.LeaseLost, broker.BadToken, broker.MessageUnknown:
		return Fail
	}
	return Unknown
}

// cancel takes a scheduled message back, if it has an id to name it by.
func (c *client) cancel(e Event, delay time.Duration) {
	if idOf(e.UID) == "" || !c.w.rest(c.between(0, delay), c.name+" thinks") {
		return
	}
	e.Op, e.Kind, e.After = c.w.op(), Cancel, 0
	c.w.record(e)
	got, r := call(c, c.sidecar(c.rng.IntN(8)), func(ctx context.Context, b *broker.Broker) error {
		_, _, err := b.Cancel(ctx, e.Topic, []string{idOf(e.UID)})
		return err
	})
	if r == OK && got != nil {
		r = judge(got)
	}
	e.Kind, e.Result = Canceled, r
	c.w.record(e)
}
