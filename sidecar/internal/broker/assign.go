package broker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// assignLocked spreads the partitions evenly over the consumers that are there to stay, moving as few as it can. Nobody's session is 0. It
// returns the shards whose consumer is another one now, to be woken. g.mu is held.
func (g *group) assignLocked() (moved []*shard) {
	var members []cluster.MemberID
	sessions := make(map[cluster.MemberID]dispatch.SessionID)
	for id, s := range g.mu.sessions {
		if !s.passing {
			m := memberOf(id)
			members = append(members, m)
			sessions[m] = id
		}
	}
	var present []dispatch.SessionID
	if p := g.consumers.Load(); p != nil {
		present = *p
	}
	ids := make([]engine.ShardID, len(g.shards))
	owners := make(map[engine.ShardID]cluster.MemberID, len(g.shards))
	for i, s := range g.shards {
		ids[i] = s.id
		if present != nil && present[i] != 0 {
			owners[s.id] = memberOf(present[i])
		}
	}
	target := cluster.Assign(members, ids, owners)
	next := make([]dispatch.SessionID, len(g.shards))
	for i, s := range g.shards {
		next[i] = sessions[target[s.id]]
		if present != nil && next[i] != present[i] || present == nil && next[i] != 0 {
			moved = append(moved, s)
		}
	}
	g.consumers.Store(&next)
	return moved
}

// arrive adds a session, and gives it its share of the partitions.
func (g *group) arrive(s *Session) {
	g.mu.Lock()
	g.mu.sessions[s.ID] = s
	g.listLocked()
	g.reassignLocked(s)
	g.mu.Unlock()
}

// listLocked tells those who do not hold the lock which sessions there are. g.mu is held.
func (g *group) listLocked() {
	all := slices.SortedFunc(maps.Values(g.mu.sessions), func(a, b *Session) int { return cmp.Compare(a.ID, b.ID) })
	g.present.Store(&all)
}

// depart removes a session, and gives its partitions to others.
func (g *group) depart(s *Session) {
	g.mu.Lock()
	delete(g.mu.sessions, s.ID)
	g.listLocked()
	g.reassignLocked(s)
	g.mu.Unlock()
}

// reassignLocked lets the partitions follow a session that came or went.
func (g *group) reassignLocked(s *Session) {
	if s.passing {
		return
	}
	moved := g.assignLocked()
	for _, s := range moved {
		s.signal()
	}
}

// memberOf is a session as an owner of partitions. Names sort as the sessions do.
func memberOf(id dispatch.SessionID) cluster.MemberID {
	return cluster.MemberID(fmt.Sprintf("%016x", uint64(id)))
}

// consumerOf is the session that a partition belongs to, or 0.
func (g *group) consumerOf(partition uint32) dispatch.SessionID {
	if p := g.consumers.Load(); p != nil {
		return (*p)[partition]
	}
	return 0
}

// candidates are the sessions that may be asked to take messages, in order: the one that the partition belongs to, then, as long as that
// one cannot take more, the others by rendezvous. A partition that is handled in order stays with its own.
func (sv *serving) candidates() []*joined {
	if owner := sv.group.consumerOf(sv.partition); owner != sv.owner {
		sv.owner = owner
		sv.sortSessions()
	}
	if sv.owner == 0 || sv.group.topic.decl.Ordering != topic.PerPartition {
		return sv.order
	}
	if len(sv.order) == 0 || sv.order[0].ID != sv.owner {
		return nil // it is about to join
	}
	return sv.order[:1]
}

// sortSessions puts the sessions into the order of candidates.
func (sv *serving) sortSessions() {
	slices.SortFunc(sv.order, func(a, b *joined) int {
		if own := a.ID == sv.owner; own != (b.ID == sv.owner) {
			if own {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.ID, b.ID))
	})
}
