package broker

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// group is a group's interest in one topic: its policy, its shards and the consumers that are there.
type group struct {
	broker *Broker
	name   string
	topic  *topicState // as first declared: what may change later is not asked of it
	policy atomic.Pointer[subscriptionState]
	tokens tokens
	shards []*shard
	faults filterFaults
	// consumers are the sessions that the partitions belong to. The list is replaced as a whole, with mu held.
	consumers atomic.Pointer[[]dispatch.SessionID]
	// present is all sessions, the longest there first. The list is replaced as a whole, with mu held.
	present atomic.Pointer[[]*Session]
	hungry  hungry

	mu struct {
		sync.Mutex
		sessions map[dispatch.SessionID]*Session
		term     *term            // nil until the group is needed for the first time
		used     dispatch.Instant // when it was needed last
	}
}

func newGroup(b *Broker, t *topicState, s *subscriptionState) *group {
	g := &group{broker: b, name: s.decl.Group, topic: t, tokens: newTokens(b.catalogue.mu.secret, s.decl.Group, t.decl.Name)}
	g.policy.Store(s)
	g.mu.sessions = make(map[dispatch.SessionID]*Session)
	for p := range t.decl.Partitions {
		g.shards = append(g.shards, newShard(g, p))
	}
	return g
}

// replacePolicy lets another policy take the place of the present one: for retries and dead letters at once, for the filter with the messages
// that are read from the log from then on.
func (g *group) replacePolicy(s *subscriptionState) {
	if g.policy.Swap(s) == s {
		return
	}
	for _, sh := range g.shards {
		sh.call(task{do: func(sv *serving) { sv.reconfigure(policyOf(s.decl)) }})
	}
}

// topicName is the name that the topic goes by today.
func (g *group) topicName() string { return g.policy.Load().decl.Topic.Name }

// allSessions are the group's consumers, the longest there first.
func (g *group) allSessions() []*Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]*Session, 0, len(g.mu.sessions))
	for _, id := range slices.Sorted(maps.Keys(g.mu.sessions)) {
		all = append(all, g.mu.sessions[id])
	}
	return all
}

// machineConfig is the policy as dispatch wants it.
func (g *group) machineConfig(epoch engine.Epoch, partition uint32, lane uint8) dispatch.Config {
	decl := g.policy.Load().decl
	return dispatch.Config{
		Epoch:        uint64(epoch),
		Ordering:     orderingOf(g.topic.decl.Ordering),
		Policy:       policyOf(decl),
		MaxLosses:    maxLosses,
		Lookahead:    g.broker.limits.Lookahead,
		MaxUnsettled: g.broker.limits.Unsettled,
		MaxParked:    g.broker.limits.Unsettled,
		JitterSeed:   uint64(epoch)<<32 | uint64(lane)<<24 | uint64(partition),
	}
}

// maxLosses is how many consumers may vanish with a message before it becomes a dead letter.
const maxLosses = 8

func policyOf(s *topic.Subscription) dispatch.Policy {
	return dispatch.Policy{
		Retry: dispatch.Retry{
			MaxAttempts: s.Retry.MaxAttempts, Initial: s.Retry.InitialInterval, Max: s.Retry.MaxInterval,
			Coefficient: s.Retry.Coefficient, Jitter: s.Retry.Jitter,
		},
		DropDead: s.DeadLetter.Disabled, HoldKey: s.DeadLetter.HoldKey, BuryExpired: s.DeadLetterExpired,
	}
}

func orderingOf(o topic.Ordering) dispatch.Ordering {
	switch o {
	case topic.PerKey:
		return dispatch.PerKey
	case topic.PerPartition:
		return dispatch.PerPartition
	}
	return dispatch.Unordered
}

// lease is how long a consumer of the group may be silent.
func (g *group) lease() time.Duration { return g.policy.Load().decl.Lease }
