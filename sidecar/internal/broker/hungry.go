package broker

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// hungry is the queue of a group's shards that have messages and nobody to lease them to. Credits that come back wake as many of them as have messages for these credits, the one that
// waits longest first: waking a thousand shards for a few credits would cost each of them a turn for nothing. One that was woken lets the next go on if it left credits over, so that none
// waits while there are any that it has not looked at. It is safe for concurrent use.
type hungry struct {
	n  atomic.Int64 // length of the queue
	mu struct {
		sync.Mutex
		queue []*shard
		round uint64 // grows whenever credits come back; no shard has a later one than those behind it
	}
}

// hunger is a shard's part in the queue.
type hunger struct {
	waits atomic.Bool // is in the queue; changes with the queue's lock held
	fed   atomic.Bool // was taken out of it by feed, and has not passed on since

	// The queue's lock guards them.
	backlog int    // messages that it could lease
	round   uint64 // the queue's when it came
}

// queueUp notes that the shard has looked for credits in vain. It does not know of credits that come back after its look and before this call: it looks for those afterwards.
func (s *shard) queueUp(backlog int) {
	h := &s.group.hungry
	h.mu.Lock()
	defer h.mu.Unlock()
	s.hunger.backlog = backlog
	if s.hunger.waits.Load() { // it looked out of turn, and keeps its place
		return
	}
	s.hunger.waits.Store(true)
	s.hunger.round = h.mu.round
	h.mu.queue = append(h.mu.queue, s)
	h.n.Store(int64(len(h.mu.queue)))
}

// withdraw takes a shard that ends out of the queue. What it was woken for goes to the next.
func (s *shard) withdraw() {
	if h := &s.group.hungry; s.hunger.waits.Load() {
		h.mu.Lock()
		h.mu.queue = slices.DeleteFunc(h.mu.queue, func(q *shard) bool { return q == s })
		s.hunger.waits.Store(false)
		h.n.Store(int64(len(h.mu.queue)))
		h.mu.Unlock()
	}
	s.passOn()
}

// passOn lets the next shard go on if this one was woken because of credits, and some are left.
func (s *shard) passOn() {
	if s.hunger.fed.Load() && s.hunger.fed.Swap(false) {
		s.group.feed(s.group.room())
	}
}

// creditsFree lets shards go on that had messages and nobody to lease them to: n credits came back.
func (g *group) creditsFree(n int) {
	if mutant.On(mutant.LostWakeup) {
		return
	}
	h := &g.hungry
	if h.n.Load() == 0 { // as most often
		return
	}
	h.mu.Lock()
	h.mu.round++
	h.mu.Unlock()
	g.feed(n)
}

// feed wakes shards that wait, the longest first, until they have n messages together. It passes over those that have looked since credits came back for the last time.
func (g *group) feed(n int) {
	h := &g.hungry
	if n <= 0 || h.n.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for n > 0 && len(h.mu.queue) > 0 && h.mu.queue[0].hunger.round != h.mu.round {
		s := h.mu.queue[0]
		h.mu.queue[0] = nil
		h.mu.queue = h.mu.queue[1:]
		n -= s.hunger.backlog
		s.hunger.fed.Store(true)
		s.hunger.waits.Store(false)
		s.signal()
	}
	h.n.Store(int64(len(h.mu.queue)))
}

// room is how many messages can be leased to the first session that has room, 0 if none has.
func (g *group) room() int {
	if all := g.present.Load(); all != nil {
		for _, s := range *all {
			if n := s.room(); n > 0 {
				return n
			}
		}
	}
	return 0
}

// room is how many more messages may be leased to the session.
func (s *Session) room() int {
	if s.unread() || s.over() {
		return 0
	}
	s.budget.Lock()
	defer s.budget.Unlock()
	if s.budget.bytes <= s.budget.outBytes && s.budget.outMessages > 0 {
		return 0
	}
	return int(max(0, s.budget.messages-s.budget.outMessages))
}
