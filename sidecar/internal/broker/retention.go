package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

const (
	// retainEvery is how often topics are searched for messages past their retention, and groups for dead letters past theirs.
	retainEvery = time.Minute
	// retainSoon is how long after its growth a log is held against its retention in bytes, and after the start dead letters against theirs.
	retainSoon = time.Second
)

// retain deletes what is past its retention until ctx is done.
func (b *Broker) retain(ctx context.Context) {
	r := &retainer{Broker: b, watched: make(map[engine.LogID]logOwner), letters: make(map[*shard]letterAge)}
	r.grown.logs = make(map[engine.LogID]bool)
	r.wake = make(chan struct{}, 1)
	defer r.unwatch()
	next, stop := r.after(retainEvery)
	defer func() { stop() }()
	// The groups serve already: dead letters that came to their retention while the sidecar was down need not wait for the first minute.
	first, stopFirst := r.after(retainSoon)
	defer stopFirst()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next:
			r.topics(ctx)
			r.deadLetters(ctx)
			r.replies(ctx)
			for _, g := range r.allGroups() {
				g.restIfUnused()
			}
			r.chunks.sweep()
			next, stop = r.after(retainEvery)
		case <-first:
			first = nil
			r.deadLetters(ctx)
		case <-r.declared:
			r.watchDeclared(ctx)
		case <-r.wake:
			soon, stopSoon := r.after(retainSoon) // more will grow until then
			select {
			case <-soon:
			case <-ctx.Done():
				stopSoon()
				return
			}
			r.trimGrown(ctx)
		}
	}
}

// retainer is the state of retain. It belongs to its goroutine, but for grown and wake.
type retainer struct {
	*Broker
	watched map[engine.LogID]logOwner // logs of topics with a retention in bytes
	letters map[*shard]letterAge

	wake  chan struct{} // holds a token when grown is not empty
	grown struct {
		sync.Mutex
		logs map[engine.LogID]bool
	}
}

type logOwner struct {
	topic   string
	unwatch func()
}

// after returns a channel that is closed after a while.
func (b *Broker) after(d time.Duration) (over <-chan struct{}, stop func() bool) {
	c := make(chan struct{})
	return c, b.clock.AfterFunc(d, func() { close(c) })
}

func (r *retainer) unwatch() {
	for _, w := range r.watched {
		w.unwatch()
	}
}

// topics holds every log of every PUBSUB topic against its topic's retention.
func (r *retainer) topics(ctx context.Context) {
	for _, t := range r.allTopics() {
		if mutant.On(mutant.OrphanCleanUp) {
			r.cleanUpOrphans(ctx, t)
		}
		if t.decl.Delivery != topic.PubSub {
			continue
		}
		for _, log := range t.logs() {
			r.retainLog(ctx, t, log)
		}
	}
}

// cleanUpOrphans is what nobody should do: it deletes logs that no consumer is seen at.
func (r *retainer) cleanUpOrphans(ctx context.Context, t *topicState) {
	for _, g := range r.groupsBy("", t.decl.Name) {
		if len(g.allSessions()) > 0 {
			return
		}
	}
	for _, log := range t.logs() {
		if bounds, err := r.engine.Bounds(ctx, log); err == nil {
			_ = r.engine.Trim(ctx, log, bounds.End)
		}
	}
}

// watchDeclared watches the logs that are bounded in bytes and not watched yet: of topics that were just declared, or are so bounded from now on.
func (r *retainer) watchDeclared(ctx context.Context) {
	for _, t := range r.allTopics() {
		if t.decl.RetentionBytes == 0 || t.decl.Delivery != topic.PubSub {
			continue
		}
		for _, log := range t.logs() {
			if _, known := r.watched[log]; !known {
				r.watch(log, t.decl.Name)
				r.retainLog(ctx, t, log)
			}
		}
	}
}

// watch notes the log's growth from now on.
func (r *retainer) watch(log engine.LogID, name string) {
	r.watched[log] = logOwner{name, r.engine.Watch(log, func(engine.Offset) {
		r.grown.Lock()
		r.grown.logs[log] = true
		r.grown.Unlock()
		select {
		case r.wake <- struct{}{}:
		default:
		}
	})}
}

// trimGrown holds the logs that have grown against their retention.
func (r *retainer) trimGrown(ctx context.Context) {
	r.grown.Lock()
	logs := r.grown.logs
	r.grown.logs = make(map[engine.LogID]bool)
	r.grown.Unlock()
	for _, t := range r.allTopics() {
		if t.decl.RetentionBytes == 0 || t.decl.Delivery != topic.PubSub {
			continue
		}
		for _, log := range t.logs() {
			if logs[log] {
				r.retainLog(ctx, t, log)
			}
		}
	}
}

// retainLog deletes from a log what is past its topic's retention, and tells the groups, which may have lost something.
func (r *retainer) retainLog(ctx context.Context, t *topicState, log engine.LogID) {
	bounds, err := r.engine.Bounds(ctx, log)
	var before engine.Offset
	if err == nil {
		before, err = r.retainedFrom(ctx, t.decl, log, bounds)
	}
	if err == nil && before > bounds.Begin {
		err = r.engine.Trim(ctx, log, before)
		err = errors.Join(err, r.noteTrim(ctx, t, log))
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrClosed) {
		r.log.Warn("delete old messages", "topic", t.decl.Name, "partition", log.Partition, "lane", log.Lane, "error", err)
	}
}

// retainedFrom is the offset from which on a log is kept. A log that is within its retention costs a read of one chunk, another one some thirty more.
func (b *Broker) retainedFrom(ctx context.Context, t *topic.Topic, log engine.LogID, bounds engine.Bounds) (engine.Offset, error) {
	oldest := int64(0) // where time is no limit
	if t.Retention > 0 {
		oldest = b.wall().Add(-t.Retention).UnixMilli()
	}
	young := func(c engine.Chunk) bool { return c.TimeMS >= oldest }
	over := int64(0)
	if t.RetentionBytes > 0 && uint64(bounds.Bytes) > t.RetentionBytes {
		over = bounds.Bytes - int64(t.RetentionBytes)
	}
	if over == 0 && t.Retention == 0 || bounds.Begin == bounds.End {
		return bounds.Begin, nil
	}
	first, err := b.engine.Read(ctx, log, bounds.Begin, 1)
	if err != nil || len(first) == 0 || young(first[0]) && over == 0 {
		return bounds.Begin, err
	}
	from, err := b.firstChunk(ctx, log, bounds, young)
	if err != nil || over == 0 {
		return from, err
	}
	last, err := b.engine.Read(ctx, log, bounds.End-1, 1)
	if err != nil || len(last) == 0 {
		return from, err
	}
	// The newest chunk stays, however large it is: a message that nobody could have seen yet is not deleted for its size.
	bounds.End = last[0].First
	light, err := b.firstChunk(ctx, log, bounds, func(c engine.Chunk) bool { return c.Taken-first[0].Taken >= over })
	return max(from, light), err
}

// firstChunk is the offset of the first chunk within bounds that is so, bounds.End if none is. All chunks after one that is so must be so too.
func (b *Broker) firstChunk(ctx context.Context, log engine.LogID, bounds engine.Bounds, is func(engine.Chunk) bool) (engine.Offset, error) {
	low, high := bounds.Begin, bounds.End
	for low < high {
		middle := low + (high-low)/2
		chunks, err := b.engine.Read(ctx, log, middle, 1)
		switch {
		case err != nil:
			return bounds.Begin, err
		case len(chunks) == 0: // trimmed meanwhile, up to the end
			return bounds.End, nil
		case is(chunks[0]):
			high = min(middle, chunks[0].First)
		default:
			low = chunks[0].Last() + 1
		}
	}
	return low, nil
}

// letterAge is what the last look for dead letters past their retention left.
type letterAge struct {
	looked time.Time
	oldest time.Time // no letter died before
}

// deadLetters deletes the dead letters that are past their group's retention. Letters are kept by offset, not by age, so that finding old ones means
// reading all: that is done when the oldest one that was left is due, and then not for a hundredth of the retention.
func (r *retainer) deadLetters(ctx context.Context) {
	now := r.wall()
	for _, g := range r.groupsBy("", "") {
		keep := g.policy.Load().decl.DeadLetter.Retention
		if keep <= 0 {
			continue
		}
		pause := min(max(keep/100, retainEvery), time.Hour)
		for _, s := range g.shards {
			age, known := r.letters[s]
			if known && (now.Sub(age.oldest) < keep || now.Sub(age.looked) < pause) {
				continue
			}
			m := &move{group: g, do: (*serving).expire, chosen: func(d DeadLetter) bool { return now.Sub(d.Died) >= keep }, oldestLeft: now}
			err := m.shard(ctx, s, 0)
			if m.n > 0 {
				r.log.Info("deleted dead letters past their retention", "group", g.name, "topic", g.topicName(), "partition", s.partition, "count", m.n)
			}
			switch {
			case err == nil:
				r.letters[s] = letterAge{looked: now, oldest: m.oldestLeft}
			case ctx.Err() != nil:
				return
			case !errors.Is(err, errNotServing):
				r.log.Warn("delete old dead letters", "group", g.name, "topic", g.topicName(), "partition", s.partition, "error", err)
			}
		}
	}
}

// expire lets the next commit delete a dead letter that is past its retention.
func (sv *serving) expire(d DeadLetter) error {
	sv.drop(d)
	sv.counted.DeadLettersExpired++
	return nil
}
