package broker

import (
	"context"
	"errors"
	"sort"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TopicStatus is a topic as it stands.
type TopicStatus struct {
	Declared *topic.Topic
	Groups   []string
	Bounds   []PartitionStatus
}

// PartitionStatus is what a partition holds, or why it does not serve. In a topic with priorities Begin and End are sums over its levels.
type PartitionStatus struct {
	Begin, End int64
	// Bytes is what the records weigh that are kept.
	Bytes int64
	Fault error
}

func (b *Broker) allTopics() []*topicState {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var all []*topicState
	for name, t := range b.mu.topics {
		if name == t.decl.Name { // not an alias
			all = append(all, t)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].decl.Name < all[j].decl.Name })
	return all
}

// Topics lists the topics by name.
func (b *Broker) Topics(ctx context.Context) []TopicStatus {
	var out []TopicStatus
	for _, t := range b.allTopics() {
		out = append(out, b.topicStatus(ctx, t))
	}
	return out
}

func (b *Broker) topicStatus(ctx context.Context, t *topicState) TopicStatus {
	st := TopicStatus{Declared: t.decl}
	for _, g := range b.groupsBy("", t.decl.Name) {
		st.Groups = append(st.Groups, g.name)
	}
	for p := range t.decl.Partitions {
		var sum PartitionStatus
		for lane := range t.levels() {
			bounds, err := b.engine.Bounds(ctx, engine.LogID{Topic: t.id, Partition: p, Lane: uint8(lane)})
			sum.Begin += int64(bounds.Begin)
			sum.End += int64(bounds.End)
			sum.Bytes += bounds.Bytes
			sum.Fault = errors.Join(sum.Fault, err)
		}
		st.Bounds = append(st.Bounds, sum)
	}
	return st
}

// groupsBy lists groups by name and topic; an empty argument means any.
func (b *Broker) groupsBy(name, topicName string) []*group {
	var out []*group
	for _, g := range b.allGroups() {
		if (name == "" || g.name == name) && (topicName == "" || g.topicName() == topicName) {
			out = append(out, g)
		}
	}
	return out
}

// TopicDescription is a topic with the text of its schema and the policies of its groups.
type TopicDescription struct {
	TopicStatus
	ProtoText     string
	Subscriptions []*topic.Subscription
	// Settings are those of each subscription, and who says so.
	Settings [][]topic.Setting
}

// Describe tells all about one topic.
func (b *Broker) Describe(ctx context.Context, name string) (TopicDescription, error) {
	t, refused := b.topic(name)
	if refused != nil {
		return TopicDescription{}, refused
	}
	text, err := t.codec.ProtoText()
	if err != nil {
		return TopicDescription{}, Refusal(err)
	}
	d := TopicDescription{TopicStatus: b.topicStatus(ctx, t), ProtoText: text}
	for _, g := range b.groupsBy("", t.decl.Name) {
		policy := g.policy.Load()
		d.Subscriptions = append(d.Subscriptions, policy.decl)
		d.Settings = append(d.Settings, policy.set.Declared.Settings(policy.decl))
	}
	return d, nil
}

// JSON shows a payload of a topic.
func (b *Broker) JSON(topicName string, payload []byte) (*structpb.Struct, error) {
	t, refused := b.topic(topicName)
	if refused != nil {
		return nil, refused
	}
	return t.codec.ToJSON(payload)
}

// GroupStatus is where a group stands in a topic.
type GroupStatus struct {
	Group, Topic string
	Consumers    int
	// Paused says that nothing is leased.
	Paused     bool
	Partitions []ShardStatus
}

// ShardStatus is where a group stands in a partition. In a topic with priorities, Position, End, Lag and Stats are sums over its levels.
// Of a group that rests, Stats has Waiting and Held only: the rest is 0 or cannot be known, like Parked.
type ShardStatus struct {
	Partition     uint32
	Position, End int64
	Lag           int64
	Stats         dispatch.Stats
	DeadLetters   int64
	Counters      Counters
	Epoch         uint64
	Fault         error
}

// Groups tells where groups stand. An empty argument means any.
func (b *Broker) Groups(ctx context.Context, name, topicName string) ([]GroupStatus, error) {
	if topicName != "" {
		t, refused := b.topic(topicName)
		if refused != nil {
			return nil, refused
		}
		topicName = t.decl.Name
	}
	var out []GroupStatus
	for _, g := range b.groupsBy(name, topicName) {
		st := GroupStatus{Group: g.name, Topic: g.topicName(), Consumers: len(g.allSessions()), Paused: g.policy.Load().paused,
			Partitions: make([]ShardStatus, len(g.shards))}
		if g.resting() {
			for p, sh := range g.shards {
				st.Partitions[p] = sh.restingStatus(ctx)
			}
			out = append(out, st)
			continue
		}
		g.await(ctx)
		for p, sh := range g.shards {
			st.Partitions[p] = ShardStatus{Partition: uint32(p), Fault: Refusal(errors.Join(errNotServing, sh.why()))}
		}
		seen := make([]ShardStatus, len(g.shards))
		errs, err := g.onEach(ctx, func(sv *serving) { seen[sv.partition] = sv.status() })
		if err != nil {
			return nil, Refusal(err)
		}
		for p, err := range errs {
			if err == nil { // otherwise what was seen may not be durable
				st.Partitions[p] = seen[p]
			}
		}
		out = append(out, st)
	}
	if name != "" && len(out) == 0 {
		return nil, fail(GroupUnknown, "group", "group %q is unknown", clip(name)).with("group", clip(name))
	}
	return out, nil
}

func (sv *serving) status() ShardStatus {
	sv.grow(sv.broker.now())
	st := ShardStatus{Partition: sv.partition, DeadLetters: sv.dead, Counters: sv.past(), Epoch: uint64(sv.claim.claim.Epoch)}
	st.Counters.add(sv.counters())
	for _, l := range sv.lanes {
		st.Position += int64(l.machine.Position())
		st.End += l.end.Load()
		st.Lag += l.machine.Lag()
		st.addStats(l.machine.Stats())
	}
	return st
}

func (st *ShardStatus) addStats(s dispatch.Stats) {
	st.Stats.Ready += s.Ready
	st.Stats.Leased += s.Leased
	st.Stats.Waiting += s.Waiting
	st.Stats.Parked += s.Parked
	st.Stats.SettledAbove += s.SettledAbove
	st.Stats.Held += s.Held
}
