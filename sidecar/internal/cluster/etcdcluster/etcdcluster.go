// Package etcdcluster is the cluster on etcd: one lease per member, one leased key per claim, whose revision is the epoch. Open runs an etcd
// of its own in this process; Connect uses one that is there. Everything but the start is the same.
//
// It stores nothing in etcd that cannot be rebuilt, and trusts no value without its checksum. docs/formats/etcd.md describes the keys.
//
// A member believes in its lease until a deadline on its own monotonic clock, counted from before the last renewal was sent. At the
// deadline it gives the lease up whether etcd has answered or not; a watch and a poll only let it learn of a loss earlier.
package etcdcluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// perTxn is how many shards share a transaction: a comparison and an operation each, which stays under 128.
const perTxn = 60

// Options of Open and Connect. Every zero value means the default.
type Options struct {
	// Dir is where Open keeps etcd's files. Required by Open, not used by Connect.
	Dir string
	// Logger receives what the member, and etcd from warnings on, have to say. Default: nothing is logged.
	Logger *slog.Logger
	// TTL is the life of a lease without renewal, in whole seconds. A stalled disk must not use it up. Default: 10 s.
	TTL time.Duration
	// Above is an epoch that all of this etcd's are above, if this member is the first that it has: of claims that were made under an earlier one. Default: 0.
	Above engine.Epoch
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.TTL = o.TTL.Truncate(time.Second)
	if o.TTL <= 0 {
		o.TTL = 10 * time.Second
	}
	return o
}

// Cluster implements cluster.Cluster.
type Cluster struct {
	client *clientv3.Client
	logger *slog.Logger
	ttl    time.Duration
	base   uint64 // epoch = base + revision

	stop    context.CancelFunc // ends the loop that holds leases
	stopped chan struct{}      // closed when it has ended
	after   func() error       // what Close does at last

	mu struct {
		sync.Mutex
		lease  *lease // the present one, or the last while there is none
		closed bool
		// The highest epoch ever claimed for a shard. One that does not grow would be fenced off by the engine, or worse.
		epochs map[engine.ShardID]engine.Epoch
	}
}

// Connect joins a cluster through a client, which stays the caller's, and returns once this member holds a lease.
//
// Errors: cluster.ErrUnavailable when ctx was done before etcd gave a lease, cluster.ErrCorrupt.
func Connect(ctx context.Context, client *clientv3.Client, options Options) (*Cluster, error) {
	options = options.withDefaults()
	c := &Cluster{client: client, logger: options.Logger, ttl: options.TTL, stopped: make(chan struct{}), after: func() error { return nil }}
	c.mu.epochs = make(map[engine.ShardID]engine.Epoch)
	var err error
	if c.base, err = c.epochBase(ctx, options.Above); err != nil {
		return nil, err
	}
	first, err := c.grant(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.lease = first
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	go c.keepLeases(running, first)
	return c, nil
}

// epochBase reads the number that epochs of this etcd start from, and writes it if this is its first member. It is the time of that moment in
// milliseconds, so that an etcd that was set up anew after its data were lost gives greater epochs than the one before, as long as that had fewer
// than a thousand changes a second.
func (c *Cluster) epochBase(ctx context.Context, above engine.Epoch) (uint64, error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	value := seal(epochBaseKey, fmt.Sprint(max(uint64(time.Now().UnixMilli()), uint64(above))))
	resp, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(epochBaseKey), "=", 0)).
		Then(clientv3.OpPut(epochBaseKey, value)).
		Else(clientv3.OpGet(epochBaseKey)).
		Commit()
	if err != nil {
		return 0, unavailable("read epoch base", err)
	}
	if !resp.Succeeded {
		value = string(resp.Responses[0].GetResponseRange().Kvs[0].Value)
	}
	text, err := unseal(epochBaseKey, []byte(value))
	if err != nil {
		return 0, err
	}
	var base uint64
	if _, err := fmt.Sscan(text, &base); err != nil {
		return 0, fmt.Errorf("%w: %s holds %q", cluster.ErrCorrupt, epochBaseKey, text)
	}
	return base, nil
}

// Self implements cluster.Cluster.
func (c *Cluster) Self() cluster.MemberID { return c.present().member }

// Deadline implements cluster.Cluster.
func (c *Cluster) Deadline() time.Time { return c.present().until() }

// Lost implements cluster.Cluster.
func (c *Cluster) Lost() <-chan struct{} { return c.present().lost }

func (c *Cluster) present() *lease {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.lease
}

// limit keeps a call from waiting for etcd longer than a lease lives.
func (c *Cluster) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.ttl)
}

// unavailable is the error for a call that etcd did not answer.
func unavailable(doing string, err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("%w: %s", cluster.ErrLost, doing)
	}
	return fmt.Errorf("%w: %s: %w", cluster.ErrUnavailable, doing, err)
}

// Members implements cluster.Cluster. A damaged value gives cluster.ErrCorrupt.
func (c *Cluster) Members(ctx context.Context) ([]cluster.MemberID, error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	resp, err := c.client.Get(ctx, memberPrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, unavailable("list members", err)
	}
	members := make([]cluster.MemberID, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		member, err := unseal(string(kv.Key), kv.Value)
		if err != nil {
			return nil, err
		}
		members = append(members, cluster.MemberID(member))
	}
	slices.Sort(members)
	return members, nil
}

// Owners implements cluster.Cluster.
func (c *Cluster) Owners(ctx context.Context, group string, topic engine.TopicID) (map[engine.ShardID]cluster.MemberID, error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	prefix := ownerPrefix(group, topic)
	resp, err := c.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, unavailable("list owners", err)
	}
	owners := make(map[engine.ShardID]cluster.MemberID, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		member, err := unseal(string(kv.Key), kv.Value)
		if err != nil {
			return nil, err
		}
		partition, err := partitionOf(prefix, string(kv.Key))
		if err != nil {
			return nil, err
		}
		owners[engine.ShardID{Group: group, Topic: topic, Partition: partition}] = cluster.MemberID(member)
	}
	return owners, nil
}

// Claim implements cluster.Cluster. Claims that are made before an error are not lost: the next Claim returns them.
func (c *Cluster) Claim(ctx context.Context, shards []engine.ShardID) ([]cluster.Claim, error) {
	l := c.present()
	if l.over() {
		return nil, cluster.ErrLost
	}
	ctx, cancel := c.limit(ctx)
	defer cancel()
	wanted := slices.Compact(slices.SortedFunc(slices.Values(shards), byKey))
	var held []cluster.Claim
	for part := range slices.Chunk(wanted, perTxn) {
		claims, err := c.claim(ctx, l, part)
		if err != nil {
			return nil, err
		}
		held = append(held, claims...)
	}
	if l.over() {
		return nil, cluster.ErrLost
	}
	if err := c.checkEpochs(held); err != nil {
		return nil, err
	}
	return held, nil
}

func byKey(a, b engine.ShardID) int { return cmp.Compare(ownerKey(a), ownerKey(b)) }

// claim takes what is free of a few shards. If one is not, the transaction tells all owners instead, and those that are free are tried again:
// each round ends, or somebody else has won a shard.
func (c *Cluster) claim(ctx context.Context, l *lease, shards []engine.ShardID) ([]cluster.Claim, error) {
	var held []cluster.Claim
	for len(shards) > 0 {
		resp, err := c.client.Txn(ctx).If(allFree(shards)...).Then(putAll(shards, l)...).Else(getAll(shards)...).Commit()
		if err != nil {
			return nil, unavailable("claim", err)
		}
		if resp.Succeeded {
			for _, shard := range shards {
				held = append(held, cluster.Claim{Shard: shard, Epoch: c.epoch(resp.Header.Revision)})
			}
			return held, nil
		}
		var free []engine.ShardID
		for i, shard := range shards {
			kvs := resp.Responses[i].GetResponseRange().Kvs
			switch {
			case len(kvs) == 0:
				free = append(free, shard)
			case clientv3.LeaseID(kvs[0].Lease) != l.id:
				// Another's. Whether its value is sound does not matter here.
			case c.isOurs(kvs[0], l):
				held = append(held, cluster.Claim{Shard: shard, Epoch: c.epoch(kvs[0].ModRevision)})
			default:
				if err := c.drop(ctx, kvs[0]); err != nil {
					return nil, err
				}
				free = append(free, shard)
			}
		}
		shards = free
	}
	return held, nil
}

func (c *Cluster) isOurs(kv *mvccpb.KeyValue, l *lease) bool {
	member, err := unseal(string(kv.Key), kv.Value)
	if err != nil {
		c.logger.Error("an ownership under this member's lease is damaged and is claimed anew", "key", string(kv.Key), "error", err)
	}
	return err == nil && cluster.MemberID(member) == l.member
}

// drop deletes a key if it has not changed.
func (c *Cluster) drop(ctx context.Context, kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	_, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return unavailable("drop a damaged claim", err)
	}
	return nil
}

func (c *Cluster) epoch(revision int64) engine.Epoch { return engine.Epoch(c.base + uint64(revision)) }

// checkEpochs refuses epochs below those that this process has seen: an etcd that went back in time would give the same epoch twice.
func (c *Cluster) checkEpochs(claims []cluster.Claim) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, claim := range claims {
		if seen := c.mu.epochs[claim.Shard]; claim.Epoch < seen {
			return fmt.Errorf("%w: epoch of %v went back from %d to %d", cluster.ErrCorrupt, claim.Shard, seen, claim.Epoch)
		}
		c.mu.epochs[claim.Shard] = claim.Epoch
	}
	return nil
}

func allFree(shards []engine.ShardID) []clientv3.Cmp {
	cmps := make([]clientv3.Cmp, len(shards))
	for i, shard := range shards {
		cmps[i] = clientv3.Compare(clientv3.CreateRevision(ownerKey(shard)), "=", 0)
	}
	return cmps
}

func putAll(shards []engine.ShardID, l *lease) []clientv3.Op {
	ops := make([]clientv3.Op, len(shards))
	for i, shard := range shards {
		key := ownerKey(shard)
		ops[i] = clientv3.OpPut(key, seal(key, string(l.member)), clientv3.WithLease(l.id))
	}
	return ops
}

func getAll(shards []engine.ShardID) []clientv3.Op {
	ops := make([]clientv3.Op, len(shards))
	for i, shard := range shards {
		ops[i] = clientv3.OpGet(ownerKey(shard))
	}
	return ops
}

// Release implements cluster.Cluster. Only this member's claims are released.
func (c *Cluster) Release(ctx context.Context, claims []cluster.Claim) error {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	self := string(c.Self())
	for part := range slices.Chunk(claims, perTxn) {
		ops := make([]clientv3.Op, len(part))
		for i, claim := range part {
			key := ownerKey(claim.Shard)
			still := []clientv3.Cmp{
				clientv3.Compare(clientv3.ModRevision(key), "=", int64(uint64(claim.Epoch)-c.base)),
				clientv3.Compare(clientv3.Value(key), "=", seal(key, self)),
			}
			ops[i] = clientv3.OpTxn(still, []clientv3.Op{clientv3.OpDelete(key)}, nil)
		}
		if _, err := c.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return unavailable("release", err)
		}
	}
	return nil
}

// Close implements cluster.Cluster. If etcd does not answer before ctx is done, the lease ends by itself after its TTL. Closing again does nothing.
func (c *Cluster) Close(ctx context.Context) error {
	c.mu.Lock()
	again := c.mu.closed
	c.mu.closed = true
	c.mu.Unlock()
	if again {
		return nil
	}
	c.stop()
	<-c.stopped
	l := c.present()
	l.end()
	var err error
	if _, revoke := c.client.Revoke(ctx, l.id); revoke != nil && !errors.Is(revoke, rpctypes.ErrLeaseNotFound) {
		err = unavailable("revoke the lease", revoke)
	}
	return errors.Join(err, c.after())
}
