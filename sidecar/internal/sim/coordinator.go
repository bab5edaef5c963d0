package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// coordination is the coordinator as one process sees it: it may be away, lose answers, end a lease early and tell of it late.
type coordination struct {
	w      *World
	p      *process
	member *memcluster.Member

	mu struct {
		sync.Mutex
		lost     chan struct{}
		deadline time.Time // of a lease that is over while the process does not know; zero otherwise
	}
}

func (w *World) join(p *process) *coordination {
	c := &coordination{w: w, p: p, member: w.coordinator.Join(leaseTTL, nil)}
	c.mu.lost = make(chan struct{})
	return c
}

// abandon is what is left of a dead process: its lease ends when the coordinator has waited for long enough, or at once if the coordinator died with it.
func (c *coordination) abandon() {
	end := func() { _ = c.member.Close(context.Background()) }
	if c.w.plan.Sidecars == 1 {
		end()
		return
	}
	time.AfterFunc(leaseTTL, end)
}

// expire ends the lease now. The process is told after a while, and its own deadline is not before until.
func (c *coordination) expire(until, told time.Duration) {
	c.member.Expire()
	c.mu.Lock()
	c.mu.deadline = time.Now().Add(until)
	lost := c.mu.lost
	c.mu.Unlock()
	time.AfterFunc(told, func() { c.tell(lost) })
}

// tell lets the process know that a lease is over, once.
func (c *coordination) tell(lost chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.lost == lost {
		close(lost)
		c.mu.lost = make(chan struct{})
		c.mu.deadline = time.Time{}
	}
}

// call is what happens to every call: answer says whether the coordinator does what it is asked, err what the process hears.
func (c *coordination) call(name string) (answer bool, err error) {
	name = fmt.Sprintf("%s %d.%d", name, c.p.id, c.p.number)
	c.w.gate.pass(c.p, name)
	c.mu.Lock()
	unaware, lost := !c.mu.deadline.IsZero(), c.mu.lost
	c.mu.Unlock()
	switch {
	case c.p.isDead():
		return false, cluster.ErrUnavailable
	case unaware:
		c.tell(lost)
		return false, cluster.ErrLost
	case c.w.chance(c.w.plan.Faults.Coordinator, name):
		c.w.fault("coordinator away")
		return false, cluster.ErrUnavailable
	case c.w.chance(c.w.plan.Faults.Coordinator, name+" reply"):
		c.w.fault("coordinator's reply lost")
		return true, cluster.ErrUnavailable
	}
	return true, nil
}

func (c *coordination) Self() cluster.MemberID { return c.member.Self() }

func (c *coordination) Members(ctx context.Context) ([]cluster.MemberID, error) {
	return c.member.Members(ctx)
}

func (c *coordination) Claim(ctx context.Context, shards []engine.ShardID) ([]cluster.Claim, error) {
	do, err := c.call("claim")
	var claims []cluster.Claim
	if do {
		var failed error
		if claims, failed = c.member.Claim(ctx, shards); failed != nil {
			return nil, failed
		}
	}
	if err != nil {
		return nil, err
	}
	return claims, nil
}

func (c *coordination) Release(ctx context.Context, claims []cluster.Claim) error {
	do, err := c.call("release " + claims[0].Shard.String())
	if do {
		if failed := c.member.Release(ctx, claims); failed != nil {
			return failed
		}
	}
	if err == cluster.ErrLost {
		return nil // what is to be released is not held
	}
	return err
}

func (c *coordination) Owners(ctx context.Context, group string, topic engine.TopicID) (map[engine.ShardID]cluster.MemberID, error) {
	return c.member.Owners(ctx, group, topic)
}

func (c *coordination) Deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.deadline.IsZero() {
		return c.mu.deadline
	}
	return c.member.Deadline()
}

func (c *coordination) Lost() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.lost
}

func (c *coordination) Close(ctx context.Context) error { return c.member.Close(ctx) }
