package compat

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
)

// Fixed returns the differences in what is fixed for a topic's life: a sidecar refuses a declaration that has one.
func Fixed(old, new *topic.Topic) []Difference {
	var all []Difference
	for _, r := range fixed {
		if d := r.compare(old, new); d != nil {
			all = append(all, *d)
		}
	}
	return all
}

// topicRule compares one setting of a topic.
type topicRule struct {
	rule    Rule
	fields  []protoreflect.FieldNumber // of the annotation
	compare func(old, new *topic.Topic) *Difference
	instead string // what to do about it
}

const anotherTopic = "a topic keeps it for life: declare another topic beside this one"

// fixed are the rules of sidecars and of buf alike, in the order in which a sidecar tells the first.
var fixed = []topicRule{
	{TopicMessage, nil, func(old, new *topic.Topic) *Difference {
		return differ("message", string(old.Message.FullName()), string(new.Message.FullName()))
	}, anotherTopic},
	{TopicKey, []protoreflect.FieldNumber{6}, func(old, new *topic.Topic) *Difference {
		return differPaths("key", old.Key, new.Key)
	}, anotherTopic},
	{TopicPartitions, []protoreflect.FieldNumber{2}, func(old, new *topic.Topic) *Difference {
		return differ("partitions", old.Partitions, new.Partitions)
	}, anotherTopic},
	{TopicOrdering, []protoreflect.FieldNumber{4}, func(old, new *topic.Topic) *Difference {
		return differ("ordering", old.Ordering, new.Ordering)
	}, anotherTopic},
	{TopicDelivery, []protoreflect.FieldNumber{3}, func(old, new *topic.Topic) *Difference {
		return differ("delivery", old.Delivery, new.Delivery)
	}, anotherTopic},
	{TopicPriorityLevels, []protoreflect.FieldNumber{8}, func(old, new *topic.Topic) *Difference {
		return differ("priority_levels", old.PriorityLevels, new.PriorityLevels)
	}, anotherTopic},
}

// promises are the rules of buf alone: a sidecar does as the newer declaration says, but somebody relied on the older one.
var promises = []topicRule{
	{TopicDedupe, []protoreflect.FieldNumber{7}, func(old, new *topic.Topic) *Difference {
		if d := differPaths("dedupe_id", one(old.Dedupe.ID), one(new.Dedupe.ID)); d != nil && old.Dedupe.ID != nil {
			return d
		}
		if new.Dedupe.Window >= old.Dedupe.Window {
			return nil
		}
		return differ("dedupe.window", window(old.Dedupe.Window), window(new.Dedupe.Window))
	}, "publishers rely on what is recognised as a repetition: keep it, or let the window only grow"},
	{TopicRetention, []protoreflect.FieldNumber{5}, func(old, new *topic.Topic) *Difference {
		if old.Delivery != new.Delivery || atLeast(new.Retention, old.Retention) {
			return nil
		}
		return differ("retention", limit(old.Retention), limit(new.Retention))
	}, "messages that a slow group has not seen would be deleted: keep it or raise it"},
	{TopicRetention, []protoreflect.FieldNumber{13}, func(old, new *topic.Topic) *Difference {
		if old.Delivery != new.Delivery || atLeast(new.RetentionBytes, old.RetentionBytes) {
			return nil
		}
		return differ("retention_bytes", limit(old.RetentionBytes), limit(new.RetentionBytes))
	}, "messages that a slow group has not seen would be deleted: keep it or raise it"},
	{TopicTTL, []protoreflect.FieldNumber{12}, func(old, new *topic.Topic) *Difference {
		if atLeast(new.TTL, old.TTL) {
			return nil
		}
		return differ("ttl", limit(old.TTL), limit(new.TTL))
	}, "messages that wait would expire earlier than their publishers were told: keep it or raise it"},
	{TopicMaxMessageBytes, []protoreflect.FieldNumber{9}, func(old, new *topic.Topic) *Difference {
		if new.MaxMessageBytes >= old.MaxMessageBytes {
			return nil
		}
		return differ("max_message_bytes", old.MaxMessageBytes, new.MaxMessageBytes)
	}, "publishers would be refused what they may publish today: keep it or raise it"},
}

// headers finds headers that are gone or come from another field. Filters that look at them become false without a word.
func headers(old, new *topic.Topic) []Difference {
	var all []Difference
	for _, was := range old.Headers {
		name, now := "header "+was.Name, topic.Path(nil)
		for _, h := range new.Headers {
			if h.Name == was.Name {
				now = topic.Path{h.Field}
			}
		}
		if d := differPaths(name, topic.Path{was.Field}, now); d != nil {
			all = append(all, *d)
		}
	}
	return all
}

func differ[V comparable](what string, old, new V) *Difference {
	if old == new {
		return nil
	}
	return &Difference{what, fmt.Sprint(old), fmt.Sprint(new)}
}

// differPaths compares fields as records have them: by number and by how their values are written. A field that only has another name is the same.
func differPaths(what string, old, new topic.Path) *Difference {
	if identity(old) == identity(new) {
		return nil
	}
	before, after := old.String(), new.String()
	if before == after {
		before, after = before+" ("+identity(old)+")", after+" ("+identity(new)+")"
	}
	return &Difference{what, before, after}
}

// identity is "field 3.1, text": what decides on the bytes of a key.
func identity(p topic.Path) string {
	if len(p) == 0 {
		return "none"
	}
	numbers := make([]string, len(p))
	for i, f := range p {
		numbers[i] = fmt.Sprint(f.Number())
	}
	return "field " + strings.Join(numbers, ".") + ", " + written(p[len(p)-1])
}

// written says how topic.KeyOf and topic.HeadersOf write a field: strings and bytes as they are, all integers in decimal, enums by name.
func written(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind:
		return "text"
	case protoreflect.BoolKind:
		return "boolean"
	case protoreflect.EnumKind:
		return "name"
	}
	return "decimal"
}

func one(f protoreflect.FieldDescriptor) topic.Path {
	if f == nil {
		return nil
	}
	return topic.Path{f}
}

// atLeast compares limits, of which 0 is none at all.
func atLeast[N time.Duration | uint64](new, old N) bool {
	return new == 0 || old != 0 && new >= old
}

func limit[N time.Duration | uint64](n N) string {
	if n == 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func window(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}
