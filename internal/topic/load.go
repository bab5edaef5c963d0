package topic

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/typedmq/typedmq/internal/filter"
)

// Load reads the annotations of files. Messages of other files that an rpc refers to are read where they are declared. The faults
// are all that there are, in order. With faults the set is what could be read: good for finding more of them, and for nothing
// else.
func Load(files []protoreflect.FileDescriptor) (*Set, Faults) {
	l := &loader{
		options: newOptionReader(),
		files:   map[string]bool{},
		topics:  map[protoreflect.FullName]*declared{},
	}
	for _, f := range files {
		if l.annotated(f) {
			l.messages(f.Messages())
			l.extensions(f.Extensions())
		}
	}
	for _, f := range files {
		if l.annotated(f) {
			l.services(f.Services())
		}
	}
	l.namesAreUnique()
	l.subscriptionsAreUnique()
	set := &Set{Topics: l.own, Publications: l.publications, byMessage: map[protoreflect.FullName]*Topic{}, policies: map[string]levels{}}
	for _, d := range l.order {
		set.byMessage[d.topic.Message.FullName()] = d.topic
	}
	for _, s := range l.subscriptions {
		set.Subscriptions = append(set.Subscriptions, s.subscription)
		set.policies[s.subscription.RPC] = s.levels
	}
	return set, l.faults.Sorted()
}

// loader gathers what files declare.
type loader struct {
	options optionReader
	filters filter.Compiler
	faults  Faults
	files   map[string]bool // whether the file of this path is annotated

	topics        map[protoreflect.FullName]*declared // nil value: no topic
	order         []*declared                         // the topics in the order they were met
	own           []*Topic                            // those of the files themselves
	publications  []*Publication
	subscriptions []subscribed
}

// declared is a topic and the place of its annotation.
type declared struct {
	topic *Topic
	place place
}

// subscribed is a subscription, its rpc, and what is said about it.
type subscribed struct {
	subscription *Subscription
	method       protoreflect.MethodDescriptor
	levels       levels
}

func (l *loader) add(p place, reason, format string, args ...any) {
	l.faults = append(l.faults, p.fault(reason, format, args...))
}

func (l *loader) annotated(f protoreflect.FileDescriptor) bool {
	is, known := l.files[f.Path()]
	if !known {
		is = annotated(f)
		l.files[f.Path()] = is
	}
	return is
}

func (l *loader) messages(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		m := messages.Get(i)
		if m.IsMapEntry() {
			continue
		}
		if t := l.topicOf(m); t != nil {
			l.own = append(l.own, t)
		} else {
			l.refuseRoles(m)
		}
		l.messages(m.Messages())
		l.extensions(m.Extensions())
	}
}

// extensions finds roles on extensions, which are no fields of a topic's message and where roles would do nothing.
func (l *loader) extensions(extensions protoreflect.ExtensionDescriptors) {
	for i := range extensions.Len() {
		x := extensions.Get(i)
		if hasRole(l.fieldOptions(x)) {
			l.add(fieldPlace(x), BadField, "extension %s has a role; give roles to fields that the topic's message declares itself, and remove "+
				"(mq.v1.field)", x.Name())
		}
	}
}

// namesAreUnique finds topics of one name, or with an alias that another topic goes by.
func (l *loader) namesAreUnique() {
	const name, aliases = 1, 10
	owner := map[string]*declared{}
	for _, d := range l.order {
		if d.topic.Name == "" {
			continue // its fault is told already
		}
		if first, ok := owner[d.topic.Name]; ok {
			l.add(d.place.at(name), DuplicateTopic, "topic %q is declared by message %s already; give %s another name",
				d.topic.Name, first.topic.Message.FullName(), d.topic.Message.FullName())
			continue
		}
		owner[d.topic.Name] = d
	}
	for _, d := range l.order {
		for _, alias := range d.topic.Aliases {
			first, ok := owner[alias]
			if ok && first != d {
				l.add(d.place.at(aliases), DuplicateTopic, "alias %q is a name of message %s already; remove it",
					alias, first.topic.Message.FullName())
				continue
			}
			owner[alias] = d
		}
	}
}

// subscriptionsAreUnique finds a group with two subscriptions to a topic and a queue with two groups.
func (l *loader) subscriptionsAreUnique() {
	type pair struct{ group, topic string }
	pairs := map[pair]*Subscription{}
	groups := map[string]*Subscription{}
	for _, s := range l.subscriptions {
		sub, at := s.subscription, place{element: s.method}
		if sub.Group == "" || sub.Topic.Name == "" {
			continue
		}
		if first, ok := pairs[pair{sub.Group, sub.Topic.Name}]; ok {
			l.add(at, DuplicateSubscription, "group %q is subscribed to topic %q by %s already; remove one of the two or give its service "+
				"another group", sub.Group, sub.Topic.Name, first.RPC)
			continue
		}
		pairs[pair{sub.Group, sub.Topic.Name}] = sub
		if sub.Topic.Delivery != Queue {
			continue
		}
		if first, ok := groups[sub.Topic.Name]; ok {
			l.add(at, QueueHasGroup, "queue %q has the group %q already, by %s; a queue has one group: remove this rpc, or make the topic "+
				"DELIVERY_PUBSUB", sub.Topic.Name, first.Group, first.RPC)
			continue
		}
		groups[sub.Topic.Name] = sub
	}
}

// limits are the bounds of a duration and the reason of a fault.
type limits struct {
	min, max time.Duration
	reason   string
}

// duration returns what d says, or otherwise if it is not set or not good.
func (l *loader) duration(p place, name string, d *durationpb.Duration, otherwise time.Duration, b limits) time.Duration {
	if d == nil {
		return otherwise
	}
	if err := d.CheckValid(); err != nil {
		l.add(p, b.reason, "%s is no valid duration; write seconds and nanos of the same sign, nanos below 1e9", name)
		return otherwise
	}
	if v := d.AsDuration(); v >= b.min && v <= b.max {
		return v
	}
	l.add(p, b.reason, "%s %s: must be %s to %s", name, readable(d.AsDuration()), readable(b.min), readable(b.max))
	return otherwise
}

// number returns what v says, or otherwise if it is not set or not good.
func (l *loader) number(p place, name string, v *uint32, otherwise, least, most uint32, reason string) uint32 {
	switch {
	case v == nil:
		return otherwise
	case *v < least || *v > most:
		l.add(p, reason, "%s %d: must be %d to %d", name, *v, least, most)
		return otherwise
	}
	return *v
}

// readable writes a duration without trailing zeros: "5m" for 5m0s, and days where they are whole.
func readable(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "1 day"
	case d > day && d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
