package broker

import (
	"context"
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

// PartitionStatus is what a log holds, or why it does not serve.
type PartitionStatus struct {
	Begin, End int64
	Fault      error
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
		bounds, err := b.engine.Bounds(ctx, engine.LogID{Topic: t.id, Partition: p})
		st.Bounds = append(st.Bounds, PartitionStatus{Begin: int64(bounds.Begin), End: int64(bounds.End), Fault: err})
	}
	return st
}

// groupsBy lists groups by name and topic; an empty argument means any.
func (b *Broker) groupsBy(name, topicName string) []*group {
	var out []*group
	for _, g := range b.allGroups() {
		if (name == "" || g.name == name) && (topicName == "" || g.topic.decl.Name == topicName) {
			out = append(out, g)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].name != out[j].name {
			return out[i].name < out[j].name
		}
		return out[i].topic.decl.Name < out[j].topic.decl.Name
	})
	return out
}

// TopicDescription is a topic with the text of its schema and the policies of its groups.
type TopicDescription struct {
	TopicStatus
	ProtoText     string
	Subscriptions []*topic.Subscription
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
		d.Subscriptions = append(d.Subscriptions, g.policy.Load().decl)
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
	Partitions   []ShardStatus
}

// ShardStatus is where a group stands in a partition.
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
		st := GroupStatus{Group: g.name, Topic: g.topic.decl.Name, Consumers: len(g.allSessions()), Partitions: make([]ShardStatus, len(g.shards))}
		for p := range st.Partitions {
			st.Partitions[p] = ShardStatus{Partition: uint32(p), Fault: errNotServing}
		}
		if _, err := g.onAll(ctx, func(sv *serving) { st.Partitions[sv.partition] = sv.status() }); ctx.Err() != nil {
			return nil, Refusal(err)
		}
		out = append(out, st)
	}
	if name != "" && len(out) == 0 {
		return nil, fail(GroupUnknown, "group", "group %q is unknown", clip(name)).with("group", clip(name))
	}
	return out, nil
}

func (sv *serving) status() ShardStatus {
	_ = sv.machine.Step(sv.broker.now(), dispatch.Grown{End: dispatch.Offset(sv.end.Load())})
	sv.counted.ExpiredLeases = sv.machine.Tally().LeasesExpired
	return ShardStatus{
		Partition: sv.partition, Position: int64(sv.machine.Position()), End: sv.end.Load(), Lag: sv.machine.Lag(),
		Stats: sv.machine.Stats(), DeadLetters: sv.dead, Counters: sv.counted, Epoch: uint64(sv.claim.claim.Epoch),
	}
}
