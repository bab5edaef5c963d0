// Package memcluster is a cluster whose members share a process, for tests and for a sidecar that has no coordinator. Leases do not run
// out by themselves: a test ends them. It starts no goroutine and reads no clock but the one it is given.
package memcluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Coordinator is what the members share. It is safe for concurrent use.
type Coordinator struct {
	mu struct {
		sync.Mutex
		revision uint64 // grows with every claim: the source of epochs
		joined   int    // leases given so far: the source of names
		alive    map[cluster.MemberID]bool
		owners   map[engine.ShardID]owner
	}
}

type owner struct {
	member cluster.MemberID
	epoch  engine.Epoch
}

// New returns a coordinator without members.
func New() *Coordinator {
	c := &Coordinator{}
	c.mu.alive = make(map[cluster.MemberID]bool)
	c.mu.owners = make(map[engine.ShardID]owner)
	return c
}

// Member implements cluster.Cluster.
type Member struct {
	coordinator *Coordinator
	ttl         time.Duration
	now         func() time.Time

	// Guarded by coordinator.mu.
	self   cluster.MemberID
	lost   chan struct{}
	lostAt time.Time // when the lease ended; zero while it lives
	cut    bool
	closed bool
}

// Join gives a new member a lease. Its deadline is always ttl from now, by the clock given; nil is time.Now.
func (c *Coordinator) Join(ttl time.Duration, now func() time.Time) *Member {
	if now == nil {
		now = time.Now
	}
	m := &Member{coordinator: c, ttl: ttl, now: now}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.joinLocked()
	return m
}

func (m *Member) joinLocked() {
	c := m.coordinator
	c.mu.joined++
	m.self = cluster.MemberID(fmt.Sprintf("member-%03d", c.mu.joined))
	m.lost = make(chan struct{})
	m.lostAt = time.Time{}
	c.mu.alive[m.self] = true
}

// Expire ends the member's lease, frees its claims and gives it a new lease under a new name, as after a pause longer than the TTL.
func (m *Member) Expire() {
	m.coordinator.mu.Lock()
	defer m.coordinator.mu.Unlock()
	m.endLocked()
	if !m.cut && !m.closed {
		m.joinLocked()
	}
}

// Cut ends the member's lease and keeps the coordinator out of its reach until Heal.
func (m *Member) Cut() {
	m.coordinator.mu.Lock()
	defer m.coordinator.mu.Unlock()
	m.cut = true
	m.endLocked()
}

// Heal undoes Cut: the member holds a new lease under a new name.
func (m *Member) Heal() {
	m.coordinator.mu.Lock()
	defer m.coordinator.mu.Unlock()
	if m.cut && !m.closed {
		m.cut = false
		m.joinLocked()
	}
}

func (m *Member) endLocked() {
	if !m.lostAt.IsZero() {
		return
	}
	c := m.coordinator
	delete(c.mu.alive, m.self)
	maps.DeleteFunc(c.mu.owners, func(_ engine.ShardID, o owner) bool { return o.member == m.self })
	m.lostAt = m.now()
	close(m.lost)
}

// usableLocked is the error that a call gets now, nil for none.
func (m *Member) usableLocked(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case m.cut:
		return cluster.ErrUnavailable
	case !m.lostAt.IsZero():
		return cluster.ErrLost
	}
	return nil
}

// Self implements cluster.Cluster.
func (m *Member) Self() cluster.MemberID {
	m.coordinator.mu.Lock()
	defer m.coordinator.mu.Unlock()
	return m.self
}

// Members implements cluster.Cluster.
func (m *Member) Members(ctx context.Context) ([]cluster.MemberID, error) {
	c := m.coordinator
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(c.mu.alive)), nil
}

// Claim implements cluster.Cluster.
func (m *Member) Claim(ctx context.Context, shards []engine.ShardID) ([]cluster.Claim, error) {
	c := m.coordinator
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return nil, err
	}
	var held []cluster.Claim
	for _, shard := range shards {
		o, taken := c.mu.owners[shard]
		if !taken {
			c.mu.revision++
			o = owner{member: m.self, epoch: engine.Epoch(c.mu.revision)}
			c.mu.owners[shard] = o
		}
		if o.member == m.self {
			held = append(held, cluster.Claim{Shard: shard, Epoch: o.epoch})
		}
	}
	return held, nil
}

// Release implements cluster.Cluster.
func (m *Member) Release(ctx context.Context, claims []cluster.Claim) error {
	c := m.coordinator
	c.mu.Lock()
	defer c.mu.Unlock()
	switch err := m.usableLocked(ctx); err {
	case nil:
	case cluster.ErrLost:
		return nil
	default:
		return err
	}
	for _, claim := range claims {
		if o := c.mu.owners[claim.Shard]; o.member == m.self && o.epoch == claim.Epoch {
			delete(c.mu.owners, claim.Shard)
		}
	}
	return nil
}

// Owners implements cluster.Cluster.
func (m *Member) Owners(ctx context.Context, group string, topic engine.TopicID) (map[engine.ShardID]cluster.MemberID, error) {
	c := m.coordinator
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return nil, err
	}
	owners := make(map[engine.ShardID]cluster.MemberID)
	for shard, o := range c.mu.owners {
		if shard.Group == group && shard.Topic == topic {
			owners[shard] = o.member
		}
	}
	return owners, nil
}

// Deadline implements cluster.Cluster. Once the lease is over it is the instant at which it ended.
func (m *Member) Deadline() time.Time {
	m.coordinator.mu.Lock()
	defer m.coordinator.mu.Unlock()
	if !m.lostAt.IsZero() {
		return m.lostAt
	}
	return m.now().Add(m.ttl)
}

// Lost implements cluster.Cluster.
func (m *Member) Lost() <-chan struct{} {
	m.coordinator.mu.Lock()
	defer m.coordinator.mu.Unlock()
	return m.lost
}

// Close implements cluster.Cluster. It does not wait. Closing again does nothing.
func (m *Member) Close(context.Context) error {
	m.coordinator.mu.Lock()
	defer m.coordinator.mu.Unlock()
	m.closed = true
	m.endLocked()
	return nil
}
