package compat

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
)

// Change is one change that breaks somebody, and where it is.
type Change struct {
	Rule Rule
	// Message is one line: what changed; what to do instead.
	Message string
	// Element is what was changed: a message, a service or an rpc, nil if it is gone. Fields lead to the setting in its annotation.
	Element protoreflect.Descriptor
	Fields  []protoreflect.FieldNumber
	// Was is the element as it was.
	Was protoreflect.Descriptor
}

// Compare returns all changes from old to new that break somebody, in the order of old's declarations. The sets were read from oldFiles and newFiles, or from
// some of them.
func Compare(old, new *topic.Set, oldFiles, newFiles []protoreflect.FileDescriptor) []Change {
	c := comparing{old: old, new: new, newFiles: newFiles, oldRPCs: methods(oldFiles), newRPCs: methods(newFiles), owner: map[string]*topic.Topic{}}
	for _, t := range new.Topics {
		for _, alias := range t.Aliases {
			c.owner[alias] = t
		}
	}
	for _, t := range new.Topics {
		c.owner[t.Name] = t
	}
	for _, t := range old.Topics {
		c.topic(t)
	}
	for _, s := range old.Subscriptions {
		c.subscription(s)
	}
	return c.changes
}

type comparing struct {
	old, new         *topic.Set
	newFiles         []protoreflect.FileDescriptor
	oldRPCs, newRPCs map[string]protoreflect.MethodDescriptor
	owner            map[string]*topic.Topic // of new, by names and aliases
	changes          []Change
}

func (c *comparing) topic(old *topic.Topic) {
	same := slices.IndexFunc(c.new.Topics, func(t *topic.Topic) bool { return t.Message.FullName() == old.Message.FullName() })
	holder := c.owner[old.Name]
	switch {
	case holder != nil && holder.Message.FullName() != old.Message.FullName():
		c.changes = append(c.changes, Change{TopicMessage, fmt.Sprintf("topic %q: message: %s became %s; %s", old.Name, old.Message.FullName(),
			holder.Message.FullName(), anotherTopic), holder.Message, []protoreflect.FieldNumber{1}, old.Message})
		return
	case same < 0:
		c.changes = append(c.changes, Change{TopicRemoved, fmt.Sprintf("topic %q (message %s) is gone; its publishers and groups would be left alone: keep "+
			"the message with its annotation until nobody uses it", old.Name, old.Message.FullName()), c.message(old.Message.FullName()), nil, old.Message})
		return
	}
	now := c.new.Topics[same]
	if now.Name != old.Name && !slices.Contains(now.Aliases, old.Name) {
		c.changes = append(c.changes, Change{TopicName, fmt.Sprintf("topic %q: name: %s became %s; add aliases: %q, so that its messages and groups stay "+
			"with it", old.Name, old.Name, now.Name, old.Name), now.Message, []protoreflect.FieldNumber{1}, old.Message})
	}
	for _, alias := range old.Aliases {
		if now.Name != alias && !slices.Contains(now.Aliases, alias) {
			c.changes = append(c.changes, Change{TopicName, fmt.Sprintf("topic %q: alias %q is gone; keep it until nobody uses that name", old.Name, alias),
				now.Message, []protoreflect.FieldNumber{10}, old.Message})
		}
	}
	for _, r := range slices.Concat(fixed, promises) {
		if d := r.compare(old, now); d != nil {
			c.changes = append(c.changes, Change{r.rule, fmt.Sprintf("topic %q: %v; %s", old.Name, d, r.instead), now.Message, r.fields, old.Message})
		}
	}
	for _, d := range headers(old, now) {
		c.changes = append(c.changes, Change{TopicHeader, fmt.Sprintf("topic %q: %v; filters look at it: keep it, or add another header beside it", old.Name, d),
			now.Message, nil, old.Message})
	}
}

func (c *comparing) subscription(old *topic.Subscription) {
	message := old.Topic.Message.FullName()
	of := func(fits func(*topic.Subscription) bool) *topic.Subscription {
		i := slices.IndexFunc(c.new.Subscriptions, func(s *topic.Subscription) bool { return s.Topic.Message.FullName() == message && fits(s) })
		if i < 0 {
			return nil
		}
		return c.new.Subscriptions[i]
	}
	was := c.oldRPCs[old.RPC]
	if now := of(func(s *topic.Subscription) bool { return s.Group == old.Group }); now != nil {
		c.policy(old, now, was)
		return
	}
	if now := of(func(s *topic.Subscription) bool { return s.RPC == old.RPC }); now != nil {
		c.group(old, now, was)
		c.policy(old, now, was)
		return
	}
	change := Change{SubscriptionRemoved, fmt.Sprintf("group %q does not handle topic %q (message %s) any more; its messages would be left alone: keep rpc %s until "+
		"the group may be forgotten", old.Group, old.Topic.Name, message, old.RPC), nil, nil, was}
	if rpc, ok := c.newRPCs[old.RPC]; ok {
		change.Element = rpc
	}
	c.changes = append(c.changes, change)
}

// group reports another group, once for all rpcs of a service.
func (c *comparing) group(old, now *topic.Subscription, was protoreflect.MethodDescriptor) {
	change := Change{SubscriptionGroup, fmt.Sprintf("group %q became %q; a group begins anew and leaves its position and dead letters behind: keep the name", old.Group,
		now.Group), nil, []protoreflect.FieldNumber{1}, was.Parent()}
	change.Element = c.newRPCs[now.RPC].Parent()
	if !slices.ContainsFunc(c.changes, func(other Change) bool {
		return other.Rule == change.Rule && other.Message == change.Message && other.Element == change.Element
	}) {
		c.changes = append(c.changes, change)
	}
}

// policy compares what the rpc and the defaults of its service come to.
func (c *comparing) policy(old, now *topic.Subscription, was protoreflect.MethodDescriptor) {
	add := func(r Rule, d *Difference, instead string, fields ...protoreflect.FieldNumber) {
		if d != nil {
			c.changes = append(c.changes, Change{r, fmt.Sprintf("group %q, topic %q: %v; %s", old.Group, old.Topic.Name, d, instead), c.newRPCs[now.RPC], fields, was})
		}
	}
	if now.Retry.MaxAttempts < old.Retry.MaxAttempts {
		add(SubscriptionAttempts, differ("retry.max_attempts", old.Retry.MaxAttempts, now.Retry.MaxAttempts),
			"messages that wait for another attempt would be given up: keep it or raise it", 2, 1)
	}
	switch {
	case now.DeadLetter.Disabled && !old.DeadLetter.Disabled:
		add(SubscriptionDeadLetter, differ("dead_letter.disabled", false, true), "messages that fail would be dropped: keep the dead letters", 3, 1)
	case !now.DeadLetter.Disabled && !old.DeadLetter.Disabled && !atLeast(now.DeadLetter.Retention, old.DeadLetter.Retention):
		add(SubscriptionDeadLetter, differ("dead_letter.retention", limit(old.DeadLetter.Retention), limit(now.DeadLetter.Retention)),
			"dead letters that are there would be deleted: keep it or raise it", 3, 3)
	}
	add(SubscriptionFilter, differ("filter", quoted(old.Filter), quoted(now.Filter)), "other messages reach the group from the next deployment on; make sure that it is meant", 1)
}

func quoted(filter string) string {
	if filter == "" {
		return "none"
	}
	return fmt.Sprintf("%q", filter)
}

// message returns a message of the new files that is not nested, nil if there is none.
func (c *comparing) message(name protoreflect.FullName) protoreflect.Descriptor {
	for _, f := range c.newFiles {
		if m := f.Messages().ByName(name.Name()); m != nil && m.FullName() == name {
			return m
		}
	}
	return nil
}

// methods lists the rpcs of files as topic.Subscription names them.
func methods(files []protoreflect.FileDescriptor) map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	for _, f := range files {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all[string(s.FullName())+"/"+string(m.Name())] = m
			}
		}
	}
	return all
}
