package broker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	keyPaused       = "p/" // + group
	keySecret       = "secret"
)

type hash = [sha256.Size]byte

// catalogue is the durable list of topics, subscriptions and the descriptors that give them their meaning. Calls are serialised by its
// lock: declaring is rare.
type catalogue struct {
	engine engine.Engine
	claims *claims
	clock  Clock
	random func() uint64

	mu struct {
		sync.Mutex
		shard         engine.Shard
		lost          <-chan struct{}
		stale         bool // a commit failed: what is durable is not known
		topics        map[string]*storagev1.Topic
		subscriptions map[groupKey]*storagev1.Subscription
		paused        map[string]bool // groups that were paused as a whole: what they declare is paused too
		sets          map[hash]*schema.Set
		secret        [16]byte
	}
}

type groupKey struct{ group, topic string }

func compareGroups(a, b groupKey) int {
	return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.topic, b.topic))
}

func newCatalogue(e engine.Engine, c *claims, clock Clock, random func() uint64) *catalogue {
	return &catalogue{engine: e, claims: c, clock: clock, random: random}
}

// contents is a copy of what the catalogue lists, in order of names.
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
	topics := make(map[string]*storagev1.Topic)
	subscriptions := make(map[groupKey]*storagev1.Subscription)
	sets := make(map[hash]*schema.Set)
	for pair, err := range shard.Scan(ctx, []byte(keyDescriptors), nil) {
		if err != nil {
			return err
		}
		var d storagev1.Descriptors
		if err := proto.Unmarshal(pair.Value, &d); err != nil {
			return fmt.Errorf("descriptors %x: %w", pair.Key, err)
		}
		set, err := schema.ParseStored(d.GetFiles())
		if err != nil {
			return fmt.Errorf("descriptors %x: %w", pair.Key, err)
		}
		sets[hash(pair.Key[len(keyDescriptors):])] = set
	}
	for pair, err := range shard.Scan(ctx, []byte(keyTopic), nil) {
		if err != nil {
			return err
		}
		t := new(storagev1.Topic)
		if err := proto.Unmarshal(pair.Value, t); err != nil {
			return fmt.Errorf("topic %s: %w", pair.Key, err)
		}
		topics[t.GetName()] = t
	}
	for pair, err := range shard.Scan(ctx, []byte(keySubscription), nil) {
		if err != nil {
			return err
		}
		s := new(storagev1.Subscription)
		if err := proto.Unmarshal(pair.Value, s); err != nil {
			return fmt.Errorf("subscription %s: %w", pair.Key, err)
		}
		subscriptions[groupKey{s.GetGroup(), s.GetTopic()}] = s
	}
	paused := make(map[string]bool)
	for pair, err := range shard.Scan(ctx, []byte(keyPaused), nil) {
		if err != nil {
			return err
		}
		paused[string(pair.Key[len(keyPaused):])] = true
	}
	secret, err := loadSecret(ctx, shard, c.random)
	if err != nil {
		return err
	}
	c.mu.shard, c.mu.lost, c.mu.stale = shard, got.lost, false
	c.mu.topics, c.mu.subscriptions, c.mu.paused, c.mu.sets, c.mu.secret = topics, subscriptions, paused, sets, secret
	return nil
}

// loadSecret reads the secret of lease tokens, drawing one for a new store.
func loadSecret(ctx context.Context, shard engine.Shard, random func() uint64) (secret [16]byte, err error) {
	v, err := shard.Get(ctx, []byte(keySecret))
	switch {
	case errors.Is(err, engine.ErrNotFound):
		binary.LittleEndian.PutUint64(secret[:], random())
		binary.LittleEndian.PutUint64(secret[8:], random())
		_, err = shard.Commit(ctx, engine.Batch{Writes: []engine.Write{{Key: []byte(keySecret), Value: secret[:]}}})
		return secret, err
	case err != nil:
		return secret, err
	}
	copy(secret[:], v)
	return secret, nil
}

// freshLocked reads the catalogue anew if it cannot be sure of what it knows: ownership was lost, or a commit failed. again says that it did.
func (c *catalogue) freshLocked(ctx context.Context) (again bool, err error) {
	select {
	case <-c.mu.lost:
	default:
		if !c.mu.stale {
			return false, nil
		}
	}
	return true, c.openLocked(ctx)
}

// commitLocked saves a change. After an error the catalogue reads itself anew before the next one.
func (c *catalogue) commitLocked(ctx context.Context, writes []engine.Write) error {
	_, err := c.mu.shard.Commit(ctx, engine.Batch{Writes: writes})
	c.mu.stale = err != nil
	return err
}

// all lists the catalogue.
func (c *catalogue) all() contents {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.allLocked()
}

func (c *catalogue) allLocked() contents {
	var out contents
	for _, name := range slices.Sorted(maps.Keys(c.mu.topics)) {
		out.topics = append(out.topics, c.mu.topics[name])
	}
	for _, key := range slices.SortedFunc(maps.Keys(c.mu.subscriptions), compareGroups) {
		out.subscriptions = append(out.subscriptions, c.mu.subscriptions[key])
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
