package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
)

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 2 * time.Second
)

// lease is one lease of this member, from its grant to its end.
type lease struct {
	id     clientv3.LeaseID
	member cluster.MemberID
	lost   chan struct{}
	mu     struct {
		sync.Mutex
		deadline time.Time
		ended    bool
	}
}

// until is when the lease ends unless it is renewed, or when it did end.
func (l *lease) until() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.deadline
}

// renewed moves the deadline of a lease that has not ended.
func (l *lease) renewed(deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mu.ended && deadline.After(l.mu.deadline) {
		l.mu.deadline = deadline
	}
}

// over tells whether the lease must not be relied on any more. It does not wait for somebody to notice the deadline.
func (l *lease) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.ended || !time.Now().Before(l.mu.deadline)
}

// end declares the lease over, for good.
func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.ended {
		return
	}
	l.mu.ended = true
	if now := time.Now(); now.Before(l.mu.deadline) {
		l.mu.deadline = now
	}
	close(l.lost)
}

// grant asks etcd for a lease and registers the member under it.
func (c *Cluster) grant(ctx context.Context) (*lease, error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	sent := time.Now()
	resp, err := c.client.Grant(ctx, int64(c.ttl/time.Second))
	if err != nil {
		return nil, unavailable("get a lease", err)
	}
	l := &lease{id: resp.ID, member: cluster.MemberID(fmt.Sprintf("%016x", uint64(resp.ID))), lost: make(chan struct{})}
	l.mu.deadline = sent.Add(c.life(resp.TTL))
	key := memberKey(l.member)
	if _, err := c.client.Put(ctx, key, seal(key, string(l.member)), clientv3.WithLease(l.id)); err != nil {
		return nil, unavailable("register the member", err)
	}
	return l, nil
}

// life is how long a lease may be relied on after a renewal: as long as etcd says, and no longer than was asked for.
func (c *Cluster) life(seconds int64) time.Duration {
	return min(time.Duration(seconds)*time.Second, c.ttl)
}

// keepLeases holds a lease after the other until ctx is done.
func (c *Cluster) keepLeases(ctx context.Context, l *lease) {
	defer close(c.stopped)
	for {
		c.hold(ctx, l)
		if ctx.Err() != nil {
			return
		}
		c.logger.Warn("lease lost, all claims are given up", "member", string(l.member))
		c.revoke(ctx, l)
		if l = c.grantAgain(ctx); l == nil {
			return
		}
		c.logger.Info("new lease", "member", string(l.member))
		c.mu.Lock()
		c.mu.lease = l
		c.mu.Unlock()
	}
}

// grantAgain tries until there is a lease, or returns nil when ctx is done.
func (c *Cluster) grantAgain(ctx context.Context) *lease {
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		l, err := c.grant(ctx)
		if err == nil {
			return l
		}
		if !wait(ctx, backoff) {
			return nil
		}
		c.logger.Warn("no lease yet", "error", err, "next_try", min(2*backoff, maxBackoff))
	}
}

// revoke ends a lost lease at etcd too, if etcd still has it, so that others need not wait for its TTL. Trying once is enough.
func (c *Cluster) revoke(ctx context.Context, l *lease) {
	ctx, cancel := context.WithTimeout(ctx, c.ttl/4)
	defer cancel()
	left, err := c.client.TimeToLive(ctx, l.id)
	if err == nil && left.TTL <= 0 {
		return
	}
	if err == nil {
		_, err = c.client.Revoke(ctx, l.id)
	}
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		c.logger.Warn("lost lease could not be revoked", "member", string(l.member), "error", err)
	}
}

// hold returns when the lease is over, or when ctx is done, with the lease still good. Asking etcd is left to others, so that nothing that etcd
// does, or does not do, can delay the deadline.
func (c *Cluster) hold(ctx context.Context, l *lease) {
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan struct{}, 2) // one for each below
	var asking sync.WaitGroup
	asking.Go(func() {
		if c.renew(ctx, l) {
			gone <- struct{}{}
		}
	})
	asking.Go(func() {
		if c.watch(ctx, l) {
			gone <- struct{}{}
		}
	})
	defer asking.Wait()
	defer cancel()
	for {
		deadline := time.NewTimer(time.Until(l.until()))
		select {
		case <-ctx.Done():
			deadline.Stop()
			return
		case <-gone:
			deadline.Stop()
			l.end()
			return
		case <-deadline.C:
			if l.over() {
				l.end()
				return
			}
		}
	}
}

// renew renews the lease at a third of its life, and polls the member's key. It returns true when etcd says that the lease is gone, false when
// ctx is done.
func (c *Cluster) renew(ctx context.Context, l *lease) (gone bool) {
	pause := c.ttl / 3
	for wait(ctx, pause) {
		err := c.renewOnce(ctx, l)
		switch {
		case err == nil:
			pause = c.ttl / 3
		case errors.Is(err, cluster.ErrLost):
			return true
		default:
			c.logger.Warn("lease not renewed", "member", string(l.member), "error", err, "left", time.Until(l.until()))
			pause = c.ttl / 20
		}
	}
	return false
}

func (c *Cluster) renewOnce(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithTimeout(ctx, c.ttl/4)
	defer cancel()
	sent := time.Now()
	resp, err := c.client.KeepAliveOnce(ctx, l.id)
	if err != nil {
		return unavailable("renew the lease", err)
	}
	key := memberKey(l.member)
	registered, err := c.client.Get(ctx, key)
	if err != nil {
		return unavailable("poll the member's key", err)
	}
	if len(registered.Kvs) == 0 {
		return fmt.Errorf("%w: %s is gone", cluster.ErrLost, key)
	}
	l.renewed(sent.Add(c.life(resp.TTL)))
	return nil
}

// watch returns true when the member's key was deleted, false when ctx is done. A watch that breaks is begun again; what it misses the poll finds.
func (c *Cluster) watch(ctx context.Context, l *lease) (gone bool) {
	for {
		for resp := range c.client.Watch(clientv3.WithRequireLeader(ctx), memberKey(l.member), clientv3.WithFilterPut()) {
			if len(resp.Events) > 0 {
				return true
			}
		}
		if !wait(ctx, c.ttl/20) {
			return false
		}
	}
}

// wait returns false if ctx was done before the time was over.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
