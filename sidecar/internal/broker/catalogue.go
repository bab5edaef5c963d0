package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// catalogueShard is where the catalogue is kept: a shard like any other, of a group that no user can name.
var catalogueShard = engine.ShardID{Group: "__catalogue"}

// Prefixes of the catalogue's keys.
const (
	keyTopic        = "t/" // + name
	keySubscription = "s/" // + group, "/", topic
	keyDescriptors  = "d/" // + SHA-256
	keySecret       = "secret"
)

type hash = [sha256.Size]byte

// catalogue is the durable list of topics, subscriptions and the descriptors that give them their meaning. Calls are serialised by its
// lock: declaring is rare.
type catalogue struct {
	engine engine.Engine
	claims *claims
	clock  Clock

	mu struct {
		sync.Mutex
		shard         engine.Shard
		lost          <-chan struct{}
		topics        map[string]*storagev1.Topic
		subscriptions map[groupKey]*storagev1.Subscription
		sets          map[hash]*schema.Set
		secret        [16]byte
	}
}

type groupKey struct{ group, topic string }

func newCatalogue(e engine.Engine, c *claims, clock Clock) *catalogue {
	return &catalogue{engine: e, claims: c, clock: clock}
}

// contents is a copy of what the catalogue lists.
type contents struct {
	topics        []*storagev1.Topic
	subscriptions []*storagev1.Subscription
}

// open claims the catalogue and reads it.
func (c *catalogue) open(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.openLocked(ctx)
}

func (c *catalogue) openLocked(ctx context.Context) error {
	got, err := c.claims.acquire(ctx, catalogueShard)
	if err != nil {
		return err
	}
	shard, err := c.engine.Fence(ctx, catalogueShard, got.claim.Epoch)
	if err != nil {
		return err
	}
	c.mu.shard, c.mu.lost = shard, got.lost
	c.mu.topics = make(map[string]*storagev1.Topic)
	c.mu.subscriptions = make(map[groupKey]*storagev1.Subscription)
	c.mu.sets = make(map[hash]*schema.Set)
	for pair, err := range shard.Scan(ctx, []byte(keyDescriptors), nil) {
		if err != nil {
			return err
		}
		var d storagev1.Descriptors
		if err := proto.Unmarshal(pair.Value, &d); err != nil {
			return fmt.Errorf("descriptors %x: %w", pair.Key, err)
		}
		set, err := schema.Parse(d.GetFiles())
		if err != nil {
			return fmt.Errorf("descriptors %x: %w", pair.Key, err)
		}
		c.mu.sets[hash(pair.Key[len(keyDescriptors):])] = set
	}
	for pair, err := range shard.Scan(ctx, []byte(keyTopic), nil) {
		if err != nil {
			return err
		}
		t := new(storagev1.Topic)
		if err := proto.Unmarshal(pair.Value, t); err != nil {
			return fmt.Errorf("topic %s: %w", pair.Key, err)
		}
		c.mu.topics[t.GetName()] = t
	}
	for pair, err := range shard.Scan(ctx, []byte(keySubscription), nil) {
		if err != nil {
			return err
		}
		s := new(storagev1.Subscription)
		if err := proto.Unmarshal(pair.Value, s); err != nil {
			return fmt.Errorf("subscription %s: %w", pair.Key, err)
		}
		c.mu.subscriptions[groupKey{s.GetGroup(), s.GetTopic()}] = s
	}
	return c.loadSecretLocked(ctx)
}

// loadSecretLocked reads the secret of lease tokens, drawing one for a new store.
func (c *catalogue) loadSecretLocked(ctx context.Context) error {
	v, err := c.mu.shard.Get(ctx, []byte(keySecret))
	switch {
	case errors.Is(err, engine.ErrNotFound):
		rand.Read(c.mu.secret[:])
		_, err = c.mu.shard.Commit(ctx, engine.Batch{Writes: []engine.Write{{Key: []byte(keySecret), Value: c.mu.secret[:]}}})
		return err
	case err != nil:
		return err
	}
	copy(c.mu.secret[:], v)
	return nil
}

// commitLocked saves a change, claiming the catalogue anew first if ownership was lost.
func (c *catalogue) commitLocked(ctx context.Context, writes []engine.Write) error {
	select {
	case <-c.mu.lost:
		if err := c.openLocked(ctx); err != nil {
			return err
		}
	default:
	}
	_, err := c.mu.shard.Commit(ctx, engine.Batch{Writes: writes})
	return err
}

// all lists the catalogue.
func (c *catalogue) all() contents {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out contents
	for _, t := range c.mu.topics {
		out.topics = append(out.topics, t)
	}
	for _, s := range c.mu.subscriptions {
		out.subscriptions = append(out.subscriptions, s)
	}
	return out
}

// set returns descriptors by their hash.
func (c *catalogue) set(h []byte) (*schema.Set, bool) {
	if len(h) != len(hash{}) {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.mu.sets[hash(h)]
	return s, ok
}

func writeProto(key string, m proto.Message) (engine.Write, error) {
	v, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return engine.Write{Key: []byte(key), Value: v}, err
}
