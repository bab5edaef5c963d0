package broker

import (
	"slices"

	"github.com/typedmq/typedmq/internal/topic"
	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// A topic is known by its id; its name may change. A declaration under a new name, with the present name among its aliases, takes the topic over: log, groups,
// positions, dead letters and what is scheduled stay where they are, since all of these are kept under the id. Who declares the topic by a former name later on
// (a process of an older release) finds it, and changes nothing.

// holder returns the topic that a declaration is about, nil for a new one: the one that goes by its name, or by one of its aliases.
func (p *declaring) holder(t *topic.Topic) (*storagev1.Topic, error) {
	var found *storagev1.Topic
	for _, name := range append([]string{t.Name}, t.Aliases...) {
		h := p.named(name)
		switch {
		case h == nil || h == found:
		case found == nil:
			found = h
		default:
			return nil, fail(TopicIncompatible, "topics", "topic %q is declared with the alias %q, which is another topic already: two topics cannot become one",
				t.Name, name).with("topic", t.Name).with("difference", "aliases").with("old", h.GetName()).with("new", t.Name)
		}
	}
	return found, nil
}

// named returns the topic of a name or alias, as this declaration leaves it.
func (p *declaring) named(name string) *storagev1.Topic {
	if t := p.topics[name]; t != nil {
		return t
	}
	p.broker.mu.RLock()
	state := p.broker.mu.topics[name]
	p.broker.mu.RUnlock()
	if state == nil {
		return nil
	}
	for to, from := range p.renamed {
		if from == state.decl.Name {
			return p.topics[to]
		}
	}
	if t := p.topics[state.decl.Name]; t != nil {
		return t
	}
	return p.broker.catalogue.mu.topics[state.decl.Name]
}

// subscribed returns a group's subscription to a topic, which may be listed under the name that the topic has until now.
func (p *declaring) subscribed(group, topicName string) *storagev1.Subscription {
	c := p.broker.catalogue
	if s := c.mu.subscriptions[groupKey{group, topicName}]; s != nil {
		return s
	}
	if from, ok := p.renamed[topicName]; ok {
		return c.mu.subscriptions[groupKey{group, from}]
	}
	return nil
}

// moves are the subscriptions that a renamed topic takes along, but for those that this declaration writes anyway, and the writes that remove what is listed
// under the old name.
func (p *declaring) moves() (moved []*storagev1.Subscription, writes []engine.Write) {
	c := p.broker.catalogue
	for to, from := range p.renamed {
		writes = append(writes, engine.Write{Key: []byte(keyTopic + from), Delete: true})
		for key, s := range c.mu.subscriptions {
			if key.topic != from {
				continue
			}
			writes = append(writes, engine.Write{Key: []byte(keySubscription + key.group + "/" + from), Delete: true})
			if slices.ContainsFunc(p.subscriptions, func(own *storagev1.Subscription) bool { return own.GetGroup() == key.group && own.GetTopic() == to }) {
				continue
			}
			moved = append(moved, &storagev1.Subscription{
				Group: s.GetGroup(), Topic: to, Rpc: s.GetRpc(), DescriptorsHash: s.GetDescriptorsHash(), CreatedMs: s.GetCreatedMs(),
				StartOffsets: s.GetStartOffsets(), Paused: s.GetPaused(),
			})
		}
	}
	return moved, writes
}

// forgetLocked takes what is listed under old names out of the catalogue's memory, after moves is durable.
func (p *declaring) forgetLocked() {
	c := p.broker.catalogue
	for _, from := range p.renamed {
		delete(c.mu.topics, from)
		for key := range c.mu.subscriptions {
			if key.topic == from {
				delete(c.mu.subscriptions, key)
			}
		}
	}
}

// nameTopic lets a topic be found by its names, and its groups by its present one.
func (b *Broker) nameTopic(t *topicState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := append([]string{t.decl.Name}, t.decl.Aliases...)
	for _, name := range names {
		was := b.mu.topics[name]
		if was == nil || was.id != t.id {
			continue
		}
		for _, former := range append([]string{was.decl.Name}, was.decl.Aliases...) {
			delete(b.mu.topics, former)
		}
		if was.decl.Name == t.decl.Name {
			break
		}
		for key, g := range b.mu.groups {
			if key.topic == was.decl.Name {
				delete(b.mu.groups, key)
				b.mu.groups[groupKey{key.group, t.decl.Name}] = g
			}
		}
		break
	}
	for _, name := range names {
		b.mu.topics[name] = t
	}
}

// underName is a subscription as declared, of a topic that may go by another name today.
func underName(s *topic.Subscription, name string) *topic.Subscription {
	if s.Topic.Name == name {
		return s
	}
	renamed, subscription := *s.Topic, *s
	renamed.Name = name
	subscription.Topic = &renamed
	return &subscription
}
