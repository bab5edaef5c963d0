package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// claims asks the cluster for ownership, gathering what many shards ask for at the same time into one call.
type claims struct {
	cluster cluster.Cluster
	turn    func(who fmt.Stringer)

	mu struct {
		sync.Mutex
		waiting map[engine.ShardID][]chan claimed
		asking  bool
		held    map[engine.ShardID]cluster.Claim
	}
}

// claimed is the answer to one request. lost is closed when the lease that the claim hangs on is over.
type claimed struct {
	claim cluster.Claim
	lost  <-chan struct{}
	err   error
}

func newClaims(c cluster.Cluster, turn func(who fmt.Stringer)) *claims {
	cl := &claims{cluster: c, turn: turn}
	cl.mu.waiting = make(map[engine.ShardID][]chan claimed)
	cl.mu.held = make(map[engine.ShardID]cluster.Claim)
	return cl
}

// acquire returns a claim at an epoch that this process has not worked at before: one that is still held is given up first.
// Errors: cluster.ErrUnavailable, cluster.ErrLost, errOwned.
func (c *claims) acquire(ctx context.Context, shard engine.ShardID) (claimed, error) {
	if err := c.release(ctx, shard); err != nil {
		return claimed{}, err
	}
	ch := make(chan claimed, 1)
	c.mu.Lock()
	c.mu.waiting[shard] = append(c.mu.waiting[shard], ch)
	if !c.mu.asking {
		c.mu.asking = true
		go c.ask(context.WithoutCancel(ctx))
	}
	c.mu.Unlock()
	select {
	case got := <-ch:
		return got, got.err
	case <-ctx.Done():
		return claimed{}, ctx.Err()
	}
}

// ask claims what is waited for until nothing is. Cluster calls are bounded by the cluster itself.
func (c *claims) ask(ctx context.Context) {
	for {
		c.turn(c)
		c.mu.Lock()
		waiting := c.mu.waiting
		if len(waiting) == 0 {
			c.mu.asking = false
			c.mu.Unlock()
			return
		}
		c.mu.waiting = make(map[engine.ShardID][]chan claimed)
		c.mu.Unlock()

		shards := slices.SortedFunc(maps.Keys(waiting), compareShards)
		lost := c.cluster.Lost() // before claiming: a loss in between is then seen
		got, err := c.cluster.Claim(ctx, shards)
		c.mu.Lock()
		for _, claim := range got {
			c.mu.held[claim.Shard] = claim
		}
		for _, shard := range shards {
			answer := claimed{lost: lost, err: err}
			if err == nil {
				var ok bool
				if answer.claim, ok = c.mu.held[shard]; !ok {
					answer.err = errOwned
				}
			}
			for _, ch := range waiting[shard] {
				ch <- answer
			}
		}
		c.mu.Unlock()
	}
}

// String names the goroutine that asks.
func (*claims) String() string { return "claims" }

// release gives a claim up, if it is held.
func (c *claims) release(ctx context.Context, shard engine.ShardID) error {
	c.mu.Lock()
	claim, ok := c.mu.held[shard]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	if err := c.cluster.Release(ctx, []cluster.Claim{claim}); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.mu.held, shard)
	c.mu.Unlock()
	return nil
}

// releaseAll gives every claim up.
func (c *claims) releaseAll(ctx context.Context) error {
	c.mu.Lock()
	var all []cluster.Claim
	for _, shard := range slices.SortedFunc(maps.Keys(c.mu.held), compareShards) {
		all = append(all, c.mu.held[shard])
	}
	clear(c.mu.held)
	c.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	return c.cluster.Release(ctx, all)
}

// compareShards is the order in which shards are claimed and released, so that the same run does the same.
func compareShards(a, b engine.ShardID) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}
