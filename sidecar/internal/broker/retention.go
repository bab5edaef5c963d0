package broker

import (
	"context"
	"errors"
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// retainEvery is how often topics are searched for messages past their retention.
const retainEvery = time.Minute

// retain deletes messages of PUBSUB topics that are older than their topic keeps them, until ctx is done.
func (b *Broker) retain(ctx context.Context) {
	tick := make(chan struct{}, 1)
	for {
		stop := b.clock.AfterFunc(retainEvery, func() { tick <- struct{}{} })
		select {
		case <-tick:
		case <-ctx.Done():
			stop()
			return
		}
		for _, t := range b.allTopics() {
			if t.decl.Delivery == topic.PubSub && t.decl.Retention > 0 {
				b.retainTopic(ctx, t)
			}
		}
	}
}

func (b *Broker) retainTopic(ctx context.Context, t *topicState) {
	oldest := b.wall().Add(-t.decl.Retention).UnixMilli()
	for _, log := range t.logs() {
		if err := errors.Join(b.retainLog(ctx, log, oldest), b.noteTrim(ctx, t, log)); err != nil && ctx.Err() == nil {
			b.log.Warn("delete old messages", "topic", t.decl.Name, "log", log, "error", err)
		}
	}
}

// retainLog deletes the chunks at the beginning of a log that are older than an instant.
func (b *Broker) retainLog(ctx context.Context, log engine.LogID, oldestMS int64) error {
	bounds, err := b.engine.Bounds(ctx, log)
	if err != nil {
		return err
	}
	before := bounds.Begin
	for before < bounds.End {
		chunks, err := b.engine.Read(ctx, log, before, 1<<20)
		if err != nil {
			return err
		}
		if len(chunks) == 0 {
			break
		}
		for _, c := range chunks {
			if c.TimeMS >= oldestMS {
				bounds.End = before // found the first that stays
				break
			}
			before = c.Last() + 1
		}
	}
	if before == bounds.Begin {
		return nil
	}
	return b.engine.Trim(ctx, log, before)
}
