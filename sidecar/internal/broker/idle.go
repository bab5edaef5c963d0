package broker

import (
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// work tells whether the goroutine of a shard, or of the schedule, has something to do: it was asked for more turns than it has ended. A turn ends what
// was asked for before the turn began, since whoever asks has made the reason visible first.
type work struct{ asked, ended atomic.Uint64 }

func (w *work) idle() bool {
	ended := w.ended.Load() // first: it never overtakes asked
	return w.asked.Load() == ended
}

// stir tells whoever wants to know that something was begun or ended.
func (b *Broker) stir() {
	if b.onActivity != nil {
		b.onActivity()
	}
}

// Idle tells whether nothing can happen until somebody calls or the clock moves on: no shard has work, no group is on its way to serve or to rest, and no
// message is leased but as many as consumers let wait for the clock. Messages that are ready and have nobody to go to do not count, nor do those that wait for a time.
//
// It looks at one part after the other. What it says holds for one instant if Options.OnActivity was not called between the beginning and the end of the look:
// each part that becomes busy is made so by one that still is, or by a call, and tells OnActivity before that one ends.
func (b *Broker) Idle(waiting int) bool {
	if !b.schedule.work.idle() || !b.ledger.work.idle() || !b.transactions.idle() || !b.postboxes.idle() {
		return false
	}
	leased := 0
	for _, g := range b.allGroups() {
		n, idle := g.idle()
		if !idle {
			return false
		}
		leased += n
	}
	return leased == waiting
}

// idle tells whether nothing but what is leased keeps the group from being idle, and how many messages that is.
func (g *group) idle() (leased int, idle bool) {
	g.mu.Lock()
	t := g.mu.term
	stopped := t != nil && t.stopped
	g.mu.Unlock()
	switch {
	case t == nil:
		return 0, true
	case stopped:
		return 0, over(t.done)
	case !over(t.begun):
		return 0, false
	}
	for _, s := range g.shards {
		n, idle := s.idle()
		if !idle {
			return 0, false
		}
		leased += n
	}
	return leased, true
}

// idle is group.idle of one shard. One that failed to serve is idle: it waits for a time to try again.
func (s *shard) idle() (leased int, idle bool) {
	s.mu.Lock()
	serving, tried := s.mu.serving, s.mu.tried
	s.mu.Unlock()
	if !serving {
		return 0, over(tried)
	}
	idle = s.work.idle() // first: what ends work has counted its leases
	return int(s.leases.Load()), idle
}

func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// KeepConsumers counts every consumer that is there as heard of d from now: for whoever moves the clock past the heartbeats that a consumer sends by another one.
func (b *Broker) KeepConsumers(d time.Duration) {
	now := b.now()
	for _, g := range b.allGroups() {
		for _, s := range g.allSessions() {
			if !s.passing {
				s.keepUntil(now.Add(d).Add(s.Lease))
			}
		}
	}
}

// keepUntil moves the end of the session's leases, never back.
func (s *Session) keepUntil(end dispatch.Instant) {
	for {
		until := s.until.Load()
		if until >= int64(end) || s.until.CompareAndSwap(until, int64(end)) {
			return
		}
	}
}

// TopicID is the name of a topic in the engine.
func (b *Broker) TopicID(name string) (engine.TopicID, error) {
	t, refused := b.topic(name)
	if refused != nil {
		return 0, refused
	}
	return t.id, nil
}

// TopicsOf lists the topics that a group is declared for.
func (b *Broker) TopicsOf(group string) (topics []string) {
	for _, g := range b.groupsBy(group, "") {
		topics = append(topics, g.topic.decl.Name)
	}
	return topics
}
