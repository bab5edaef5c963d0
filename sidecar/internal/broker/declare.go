package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/typedmq/typedmq/internal/filter"
	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/internal/topic/compat"
	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// topicState is a declared topic. It is replaced as a whole when it is declared with newer descriptors.
type topicState struct {
	id    engine.TopicID
	decl  *topic.Topic
	codec *schema.Codec
	set   *schema.Set
}

// subscriptionState is a group's interest in a topic, with its filter ready. It is replaced as a whole when the policy changes.
type subscriptionState struct {
	decl   *topic.Subscription
	set    *schema.Set   // that declares it
	codec  *schema.Codec // of the consumer's own descriptors
	filter *filter.Filter
	starts []int64 // first offset of each log, see group.startOf
	paused bool
}

// Declaration asks for topics, by the full names of their messages, and subscriptions, by their rpcs.
type Declaration struct {
	Hash          []byte
	Descriptors   *descriptorpb.FileDescriptorSet // nil: known by Hash
	Topics        []string
	Subscriptions []string
}

// Declared is what is in force now.
type Declared struct {
	NeedDescriptors bool
	Topics          []*topic.Topic
	Subscriptions   []*topic.Subscription
}

// Declare registers topics and subscriptions. Declaring what is declared changes nothing; another policy of a subscription takes its place.
// Nothing is registered if anything is refused.
func (b *Broker) Declare(ctx context.Context, d Declaration) (Declared, error) {
	set, known := b.catalogue.set(d.Hash)
	if d.Descriptors == nil && !known {
		if len(d.Hash) == 0 {
			return Declared{}, fail(DescriptorsMissing, "descriptors", "a declaration needs descriptors or the hash of known ones")
		}
		return Declared{NeedDescriptors: true}, nil
	}
	if d.Descriptors != nil {
		var err error
		if set, err = b.parse(d.Descriptors); err != nil {
			return Declared{}, Refusal(err)
		}
	}
	declared, err := b.register(ctx, set, d)
	for _, s := range declared.Subscriptions { // so that what is declared can be consumed at once
		if g, refused := b.group(s.Group, s.Topic.Name); refused == nil {
			g.await(ctx)
		}
	}
	return declared, err
}

// register makes a declaration durable and lets it take effect.
func (b *Broker) register(ctx context.Context, set *schema.Set, d Declaration) (Declared, error) {
	c := b.catalogue
	c.mu.Lock()
	defer c.mu.Unlock()
	again, err := c.freshLocked(ctx)
	if err == nil && again {
		err = b.takeEffectLocked(c.allLocked())
	}
	if err != nil {
		return Declared{}, Refusal(err)
	}
	plan := declaring{broker: b, set: set, topics: make(map[string]*storagev1.Topic), renamed: make(map[string]string)}
	for _, message := range d.Topics {
		if err := plan.topic(message); err != nil {
			return Declared{}, err
		}
	}
	for _, rpc := range d.Subscriptions {
		if err := plan.subscription(ctx, rpc); err != nil {
			return Declared{}, err
		}
	}
	if err := plan.commit(ctx); err != nil {
		return Declared{}, Refusal(err)
	}
	return plan.declared, nil
}

// declaring gathers what one declaration changes. The catalogue is locked.
type declaring struct {
	broker   *Broker
	set      *schema.Set
	declared Declared

	topics        map[string]*storagev1.Topic // new or newer, by name
	renamed       map[string]string           // the names that topics have until now, by their new ones
	subscriptions []*storagev1.Subscription
}

// topic adds a topic that its publisher declares.
func (p *declaring) topic(message string) error {
	t, ok := p.set.Topic(message)
	if !ok {
		return fail(MessageUnknown, "topics", "the descriptors have no topic of message %q", clip(message)).with("message", clip(message))
	}
	_, err := p.add(t, true)
	return err
}

// add registers a topic unless it is there, and returns the name that it goes by. The declaration of a publisher wins over an older one; that of a consumer only
// fills the gap. One under a new name renames the topic, whoever declares it.
func (p *declaring) add(t *topic.Topic, publisher bool) (name string, err error) {
	have, err := p.holder(t)
	if err != nil {
		return "", err
	}
	p.declared.Topics = append(p.declared.Topics, t)
	if have == nil {
		p.topics[t.Name] = &storagev1.Topic{
			Name: t.Name, Message: string(t.Message.FullName()), DescriptorsHash: p.set.Hash[:], CreatedMs: p.broker.wall().UnixMilli(),
		}
		return t.Name, nil
	}
	set := p.set
	if string(have.GetDescriptorsHash()) != string(p.set.Hash[:]) {
		set = p.broker.catalogue.mu.sets[hash(have.GetDescriptorsHash())]
	}
	old, err := resolveTopic(have, set)
	if err != nil {
		return "", err
	}
	if diffs := compat.Fixed(old.decl, t); len(diffs) > 0 {
		diff := diffs[0]
		return "", fail(TopicIncompatible, "topics", "topic %q is declared otherwise already: %v", t.Name, diff).
			with("topic", t.Name).with("difference", diff.What).with("old", diff.Old).with("new", diff.New)
	}
	rename := have.GetName() != t.Name
	switch {
	case rename && !slices.Contains(t.Aliases, have.GetName()):
		if slices.Contains(old.decl.Aliases, t.Name) {
			return have.GetName(), nil // by a former name: an older declaration
		}
		return "", fail(TopicIncompatible, "topics", "topic %q has an alias of topic %q, but not its name: add the alias %q, or remove the other", t.Name,
			have.GetName(), have.GetName()).with("topic", t.Name).with("difference", "aliases").with("old", have.GetName()).with("new", t.Name)
	case rename && have.GetId() != 0:
		p.renamed[t.Name] = have.GetName()
	case !publisher || string(have.GetDescriptorsHash()) == string(p.set.Hash[:]):
		return have.GetName(), nil
	}
	p.topics[t.Name] = &storagev1.Topic{
		Id: have.GetId(), Name: t.Name, Message: have.GetMessage(), DescriptorsHash: p.set.Hash[:], CreatedMs: have.GetCreatedMs(),
	}
	return t.Name, nil
}

// subscription adds a group's interest in a topic.
func (p *declaring) subscription(ctx context.Context, rpc string) error {
	s, ok := p.set.Subscription(rpc)
	if !ok {
		return fail(RPCUnknown, "subscriptions", "the descriptors have no consumer rpc %q", clip(rpc)).with("rpc", clip(rpc))
	}
	name, err := p.add(s.Topic, false)
	if err != nil {
		return err
	}
	c := p.broker.catalogue
	if s.Topic.Delivery == topic.Queue {
		for k := range c.mu.subscriptions {
			if (k.topic == name || k.topic == p.renamed[name]) && k.group != s.Group {
				return fail(QueueHasGroup, "subscriptions", "topic %q is a queue and belongs to group %q", k.topic, k.group).
					with("topic", k.topic).with("group", k.group)
			}
		}
	}
	p.declared.Subscriptions = append(p.declared.Subscriptions, s)
	have := p.subscribed(s.Group, name)
	if have != nil && have.GetTopic() == name && have.GetRpc() == rpc && string(have.GetDescriptorsHash()) == string(p.set.Hash[:]) {
		return nil
	}
	entry := &storagev1.Subscription{Group: s.Group, Topic: name, Rpc: rpc, DescriptorsHash: p.set.Hash[:]}
	if have != nil {
		entry.CreatedMs, entry.StartOffsets, entry.Paused = have.GetCreatedMs(), have.GetStartOffsets(), have.GetPaused()
	} else {
		entry.CreatedMs, entry.Paused = p.broker.wall().UnixMilli(), c.mu.paused[s.Group]
		if entry.StartOffsets, err = p.starts(ctx, s, name); err != nil {
			return Refusal(err)
		}
	}
	p.subscriptions = append(p.subscriptions, entry)
	return nil
}

// starts is where a new group begins in each log of the topic, as group.startOf reads it.
func (p *declaring) starts(ctx context.Context, s *topic.Subscription, name string) ([]int64, error) {
	t := &topicState{decl: s.Topic}
	have := p.named(name)
	if have.GetId() == 0 { // new with this declaration
		have = nil
	}
	if have != nil {
		t.id = engine.TopicID(have.GetId())
	}
	starts := make([]int64, len(t.logs()))
	if have == nil {
		return starts, nil
	}
	for i, log := range t.logs() {
		bounds, err := p.broker.engine.Bounds(ctx, log)
		if err != nil {
			return nil, err
		}
		starts[i] = int64(bounds.Begin)
		if s.StartFrom == topic.Latest {
			starts[i] = int64(bounds.End)
		}
	}
	return starts, nil
}

// commit saves the changes, then lets them take effect.
func (p *declaring) commit(ctx context.Context) error {
	if len(p.topics)+len(p.subscriptions) == 0 {
		return nil
	}
	c := p.broker.catalogue
	var writes []engine.Write
	add := func(key string, w engine.Write, err error) error {
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		writes = append(writes, w)
		return nil
	}
	if c.mu.sets[p.set.Hash] == nil {
		key := keyDescriptors + string(p.set.Hash[:])
		w, err := writeProto(key, &storagev1.Descriptors{Files: p.set.Proto})
		if err := add("descriptors", w, err); err != nil {
			return err
		}
	}
	next := uint32(0)
	for _, t := range c.mu.topics {
		next = max(next, t.GetId())
	}
	moved, forgotten := p.moves()
	p.subscriptions = append(p.subscriptions, moved...)
	writes = append(writes, forgotten...)
	names := slices.Sorted(maps.Keys(p.topics))
	for _, name := range names {
		t := p.topics[name]
		if t.GetId() == 0 {
			next++
			t.Id = next
		}
		w, err := writeProto(keyTopic+name, t)
		if err := add(name, w, err); err != nil {
			return err
		}
	}
	for _, s := range p.subscriptions {
		w, err := writeProto(keySubscription+s.GetGroup()+"/"+s.GetTopic(), s)
		if err := add(s.GetRpc(), w, err); err != nil {
			return err
		}
	}
	if err := c.commitLocked(ctx, writes); err != nil {
		return err
	}
	c.mu.sets[p.set.Hash] = p.set
	p.forgetLocked()
	var news contents
	for _, name := range names {
		t := p.topics[name]
		c.mu.topics[name] = t
		news.topics = append(news.topics, t)
	}
	for _, s := range p.subscriptions {
		c.mu.subscriptions[groupKey{s.GetGroup(), s.GetTopic()}] = s
		news.subscriptions = append(news.subscriptions, s)
	}
	return p.broker.takeEffectLocked(news)
}

// adopt makes what the catalogue lists take effect, at start.
func (b *Broker) adopt(all contents) error {
	b.catalogue.mu.Lock()
	defer b.catalogue.mu.Unlock()
	return b.takeEffectLocked(all)
}

// takeEffectLocked brings topics and groups up to the catalogue. The catalogue is locked.
func (b *Broker) takeEffectLocked(news contents) error {
	for _, entry := range news.topics {
		t, err := b.resolveLocked(entry)
		if err != nil {
			return err
		}
		b.nameTopic(t)
	}
	select {
	case b.declared <- struct{}{}:
	default:
	}
	for _, entry := range news.subscriptions {
		s, err := b.resolveSubscriptionLocked(entry)
		if err != nil {
			return err
		}
		b.mu.Lock()
		key := groupKey{s.decl.Group, s.decl.Topic.Name}
		g := b.mu.groups[key]
		if g == nil && !b.mu.closed {
			g = newGroup(b, b.mu.topics[s.decl.Topic.Name], s)
			b.mu.groups[key] = g
		}
		b.mu.Unlock()
		if g != nil {
			g.replacePolicy(s)
			if g.restless() {
				g.wakeUp()
			}
		}
	}
	return nil
}

// resolveLocked gives a listed topic its meaning.
func (b *Broker) resolveLocked(entry *storagev1.Topic) (*topicState, error) {
	return resolveTopic(entry, b.catalogue.mu.sets[hash(entry.GetDescriptorsHash())])
}

func resolveTopic(entry *storagev1.Topic, set *schema.Set) (*topicState, error) {
	if set == nil {
		return nil, fmt.Errorf("topic %q: its descriptors are not in the catalogue", entry.GetName())
	}
	t, ok := set.Topic(entry.GetMessage())
	if !ok {
		return nil, fmt.Errorf("topic %q: its descriptors do not declare it", entry.GetName())
	}
	return &topicState{id: engine.TopicID(entry.GetId()), decl: t, codec: set.Codec(t), set: set}, nil
}

func (b *Broker) resolveSubscriptionLocked(entry *storagev1.Subscription) (*subscriptionState, error) {
	return resolveSubscription(entry, b.catalogue.mu.sets[hash(entry.GetDescriptorsHash())])
}

func resolveSubscription(entry *storagev1.Subscription, set *schema.Set) (*subscriptionState, error) {
	if set == nil {
		return nil, fmt.Errorf("subscription %q: its descriptors are not in the catalogue", entry.GetRpc())
	}
	s, ok := set.Subscription(entry.GetRpc())
	if !ok {
		return nil, fmt.Errorf("subscription %q: its descriptors do not declare it", entry.GetRpc())
	}
	s = underName(s, entry.GetTopic())
	state := &subscriptionState{decl: s, set: set, codec: set.Codec(s.Topic), starts: entry.GetStartOffsets(), paused: entry.GetPaused()}
	if s.Filter != "" {
		f, err := filter.Compile(s.Filter, s.Topic.Message)
		if err != nil {
			return nil, err
		}
		state.filter = f
	}
	if len(state.starts) != int(s.Topic.Partitions)*(&topicState{decl: s.Topic}).levels() {
		return nil, errors.New("subscription " + entry.GetRpc() + ": the catalogue has another number of partitions or priority levels")
	}
	return state, nil
}
