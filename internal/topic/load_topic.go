package topic

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// Field numbers of TopicOptions and FieldOptions, for places.
const (
	topicName            = 1
	topicPartitions      = 2
	topicOrdering        = 4
	topicRetention       = 5
	topicKey             = 6
	topicDedupe          = 7
	topicPriorityLevels  = 8
	topicMaxMessageBytes = 9
	topicAliases         = 10
	topicTTL             = 12
	topicRetentionBytes  = 13

	fieldKey       = 1
	fieldDedupeID  = 2
	fieldPriority  = 3
	fieldDeliverAt = 4
	fieldHeader    = 5
)

func optionOf(d protoreflect.Descriptor, options int32, n protoreflect.FieldNumber) place {
	return place{d, []int32{options, int32(n)}}
}

func topicPlace(m protoreflect.MessageDescriptor) place {
	return optionOf(m, messageOptions, mqv1.E_Topic.TypeDescriptor().Number())
}

func fieldPlace(f protoreflect.FieldDescriptor) place {
	return optionOf(f, fieldOptions, mqv1.E_Field.TypeDescriptor().Number())
}

// topicOf returns the topic that m declares, nil if it declares none. A topic with faults has defaults where they are.
func (l *loader) topicOf(m protoreflect.MessageDescriptor) *Topic {
	if d, known := l.topics[m.FullName()]; known {
		if d == nil {
			return nil
		}
		return d.topic
	}
	l.topics[m.FullName()] = nil
	if !l.annotated(m.ParentFile()) {
		return nil
	}
	p := topicPlace(m)
	o, err := l.options.topic(m)
	if err != nil {
		l.add(p, BadOptions, "(mq.v1.topic) of %s: %v; use the typedmq that the file was written for", m.FullName(), err)
	}
	if o == nil {
		return nil
	}
	d := &declared{l.readTopic(p, m, o), p}
	l.topics[m.FullName()] = d
	l.order = append(l.order, d)
	return d.topic
}

func (l *loader) readTopic(p place, m protoreflect.MessageDescriptor, o *mqv1.TopicOptions) *Topic {
	t := &Topic{
		Name:            string(m.FullName()),
		Message:         m,
		Partitions:      l.number(p.at(topicPartitions), "partitions", o.Partitions, DefaultPartitions, 1, MaxPartitions, BadBound),
		PriorityLevels:  l.number(p.at(topicPriorityLevels), "priority_levels", o.PriorityLevels, DefaultPriorityLevels, 1, MaxPriorityLevels, BadBound),
		MaxMessageBytes: l.number(p.at(topicMaxMessageBytes), "max_message_bytes", o.MaxMessageBytes, DefaultMaxMessageBytes, 1, MaxMessageBytes, BadBound),
		TTL:             l.duration(p.at(topicTTL), "ttl", o.Ttl, 0, limits{MinTTL, MaxTTL, BadTTL}),
		Aliases:         o.Aliases,
		Labels:          o.Labels,
	}
	if o.Name != nil {
		t.Name = o.GetName()
	}
	if err := CheckName(t.Name); err != nil {
		l.add(p.at(topicName), BadName, "topic %v; set another name", err)
		t.Name = ""
	}
	l.aliases(p.at(topicAliases), t)
	retention := l.duration(p.at(topicRetention), "retention", o.Retention, DefaultRetention, limits{0, MaxAge, BadBound})
	if o.GetDelivery() == mqv1.Delivery_DELIVERY_QUEUE {
		t.Delivery = Queue
		l.queueKeeps(p, o)
	} else {
		t.Retention, t.RetentionBytes = retention, o.GetRetentionBytes()
	}
	if o.Key != nil {
		t.Key = l.keyPath(p.at(topicKey), m, o.GetKey())
	}
	hasKey := o.Key != nil
	dedupes := o.Dedupe != nil
	l.roles(t, func(f protoreflect.FieldDescriptor, r *mqv1.FieldOptions) {
		hasKey = hasKey || r.GetKey()
		dedupes = dedupes || r.GetDedupeId()
	}, o)
	if dedupes {
		t.Dedupe.Window = l.duration(p.at(topicDedupe, 1), "dedupe window", o.GetDedupe().GetWindow(), DefaultDedupeWindow,
			limits{MinDedupeWindow, MaxDedupeWindow, BadBound})
	}
	l.ordering(p, t, o, hasKey)
	if t.Priority != nil && (o.PriorityLevels == nil || o.GetPriorityLevels() == 1) {
		l.add(fieldPlace(t.Priority).at(fieldPriority), BadField, "field %s is the priority of a topic without priorities; set priority_levels "+
			"in (mq.v1.topic) to 2 or more", t.Priority.Name())
	}
	return t
}

func (l *loader) aliases(p place, t *Topic) {
	seen := map[string]bool{}
	for _, alias := range t.Aliases {
		if err := CheckName(alias); err != nil {
			l.add(p, BadName, "alias %v; remove it", err)
		}
		if seen[alias] || alias == t.Name {
			l.add(p, BadName, "alias %q is a name of the topic already; remove it", alias)
		}
		seen[alias] = true
	}
}

// queueKeeps finds bounds of what a queue keeps: it has none.
func (l *loader) queueKeeps(p place, o *mqv1.TopicOptions) {
	const why = "%s contradicts delivery DELIVERY_QUEUE, which keeps a message until it is settled; remove it (ttl bounds how long a message waits)"
	if o.Retention != nil {
		l.add(p.at(topicRetention), Contradiction, why, "retention")
	}
	if o.GetRetentionBytes() > 0 {
		l.add(p.at(topicRetentionBytes), Contradiction, why, "retention_bytes")
	}
}

// ordering checks what waits for what. hasKey tells that a key was asked for, even if it is faulty.
func (l *loader) ordering(p place, t *Topic, o *mqv1.TopicOptions, hasKey bool) {
	switch o.GetOrdering() {
	case mqv1.Ordering_ORDERING_PER_KEY:
		t.Ordering = PerKey
		if !hasKey {
			l.add(p.at(topicOrdering), Contradiction, "ordering ORDERING_PER_KEY needs a key; mark a field with (mq.v1.field).key = true, or "+
				"set another ordering")
		}
	case mqv1.Ordering_ORDERING_PER_PARTITION:
		t.Ordering = PerPartition
	case mqv1.Ordering_ORDERING_NONE:
		t.Ordering = Unordered
	default:
		if hasKey {
			t.Ordering = PerKey
		}
	}
	if t.PriorityLevels > 1 && t.Ordering != Unordered {
		l.add(p.at(topicPriorityLevels), Contradiction, "priority_levels %d contradicts ordering %s, which puts messages in the order of their "+
			"publishing; set ordering: ORDERING_NONE or remove priority_levels", t.PriorityLevels, t.Ordering)
	}
}

// keyPath resolves the path of a key, nil if it is faulty.
func (l *loader) keyPath(p place, m protoreflect.MessageDescriptor, path string) Path {
	var key Path
	names := strings.Split(path, ".")
	for i, name := range names {
		f := m.Fields().ByName(protoreflect.Name(name))
		if f == nil {
			l.add(p, BadKey, "key %q: message %s has no field %q; %s", path, m.FullName(), name, fieldsOf(m))
			return nil
		}
		key = append(key, f)
		if i == len(names)-1 {
			break
		}
		if why := notPlain(f); why != "" {
			l.add(p, BadKey, "key %q: field %s is %s; lead the path through single messages", path, f.FullName(), why)
			return nil
		}
		if m = f.Message(); m == nil {
			l.add(p, BadKey, "key %q: field %s is no message; end the path there", path, f.FullName())
			return nil
		}
	}
	if why := notKey(key[len(key)-1]); why != "" {
		l.add(p, BadKey, "key %q: field %s is %s; choose a string, bytes or integer field", path, key[len(key)-1].FullName(), why)
		return nil
	}
	return key
}

func fieldsOf(m protoreflect.MessageDescriptor) string {
	const most = 12
	var names []string
	for i := range min(m.Fields().Len(), most) {
		names = append(names, string(m.Fields().Get(i).Name()))
	}
	switch {
	case len(names) == 0:
		return "it has no fields at all"
	case m.Fields().Len() > most:
		names = append(names, "…")
	}
	return "write one of " + strings.Join(names, ", ")
}

// roles reads the annotations of a topic's fields. each is called for every annotated field.
func (l *loader) roles(t *Topic, each func(protoreflect.FieldDescriptor, *mqv1.FieldOptions), o *mqv1.TopicOptions) {
	var key, id, priority, deliverAt protoreflect.FieldDescriptor
	headers := map[string]protoreflect.FieldDescriptor{}
	fields := t.Message.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		p := fieldPlace(f)
		r := l.fieldOptions(f)
		if r == nil {
			continue
		}
		each(f, r)
		if r.GetKey() {
			at := p.at(fieldKey)
			switch {
			case o.Key != nil:
				l.add(at, BadKey, "field %s is a second key beside key %q of (mq.v1.topic); keep one", f.Name(), o.GetKey())
			case l.only(at, BadKey, "key", &key, f) && l.plain(at, BadKey, "the key", f, notKey, "a string, bytes or integer"):
				t.Key = Path{f}
			}
		}
		if r.GetDedupeId() {
			at := p.at(fieldDedupeID)
			if l.only(at, BadField, "dedupe_id", &id, f) && l.plain(at, BadField, "the dedupe_id", f, notKey, "a string, bytes or integer") {
				t.Dedupe.ID = f
			}
		}
		if r.GetPriority() {
			at := p.at(fieldPriority)
			if l.only(at, BadField, "priority", &priority, f) && l.plain(at, BadField, "the priority", f, notInteger, "an integer") {
				t.Priority = f
			}
		}
		if r.GetDeliverAt() {
			at := p.at(fieldDeliverAt)
			if l.only(at, BadField, "deliver_at", &deliverAt, f) &&
				l.plain(at, BadField, "the deliver_at", f, notTimestamp, "a google.protobuf.Timestamp") {
				t.DeliverAt = f
			}
		}
		if r.Header != nil {
			l.header(p.at(fieldHeader), t, f, r.GetHeader(), headers)
		}
	}
	if len(t.Headers) > MaxHeaders {
		l.add(fieldPlace(t.Headers[MaxHeaders].Field).at(fieldHeader), BadField, "message %s has %d headers; at most %d are allowed: remove some",
			t.Message.FullName(), len(t.Headers), MaxHeaders)
	}
}

func (l *loader) header(p place, t *Topic, f protoreflect.FieldDescriptor, name string, taken map[string]protoreflect.FieldDescriptor) {
	if err := CheckHeaderName(name); err != nil {
		l.add(p, BadName, "header %v; set another name", err)
		return
	}
	if first, ok := taken[name]; ok {
		l.add(p, BadName, "header %q is set by field %s already; give field %s another header", name, first.Name(), f.Name())
		return
	}
	taken[name] = f
	if l.plain(p, BadField, "a header", f, notHeader, "a string, integer, bool or enum") {
		t.Headers = append(t.Headers, Header{name, f})
	}
}

// only notes f as the field of a role and finds a second one.
func (l *loader) only(p place, reason, role string, first *protoreflect.FieldDescriptor, f protoreflect.FieldDescriptor) bool {
	if *first != nil {
		l.add(p, reason, "field %s is a second %s beside field %s; keep one", f.Name(), role, (*first).Name())
		return false
	}
	*first = f
	return true
}

// plain finds a field whose kind does not fit its role.
func (l *loader) plain(p place, reason, role string, f protoreflect.FieldDescriptor, wrong func(protoreflect.FieldDescriptor) string, fit string) bool {
	why := wrong(f)
	if why == "" {
		return true
	}
	l.add(p, reason, "field %s cannot be %s: it is %s; choose %s field", f.Name(), role, why, fit)
	return false
}

// refuseRoles finds roles on fields of a message that is no topic, where they would do nothing.
func (l *loader) refuseRoles(m protoreflect.MessageDescriptor) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if hasRole(l.fieldOptions(f)) {
			l.add(fieldPlace(f), BadField, "field %s has a role, but message %s is no topic; add option (mq.v1.topic) = {} to the message or "+
				"remove (mq.v1.field)", f.Name(), m.FullName())
		}
	}
}

func hasRole(r *mqv1.FieldOptions) bool {
	return r.GetKey() || r.GetDedupeId() || r.GetPriority() || r.GetDeliverAt() || r.GetHeader() != ""
}

func (l *loader) fieldOptions(f protoreflect.FieldDescriptor) *mqv1.FieldOptions {
	r, err := l.options.field(f)
	if err != nil {
		l.add(fieldPlace(f), BadOptions, "(mq.v1.field) of %s: %v; use the typedmq that the file was written for", f.Name(), err)
		return nil
	}
	return r
}

// notPlain says why a field has not exactly one value, "" if it has.
func notPlain(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return "a map"
	case f.IsList():
		return "repeated"
	case f.ContainingOneof() != nil && !f.ContainingOneof().IsSynthetic():
		return fmt.Sprintf("a member of oneof %s", f.ContainingOneof().Name())
	}
	return ""
}

func notKey(f protoreflect.FieldDescriptor) string {
	if why := notPlain(f); why != "" {
		return why
	}
	if f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind || isInteger(f.Kind()) {
		return ""
	}
	return kindOf(f)
}

func notInteger(f protoreflect.FieldDescriptor) string {
	if why := notPlain(f); why != "" {
		return why
	}
	if isInteger(f.Kind()) {
		return ""
	}
	return kindOf(f)
}

func notTimestamp(f protoreflect.FieldDescriptor) string {
	if why := notPlain(f); why != "" {
		return why
	}
	if f.Message() != nil && f.Message().FullName() == "google.protobuf.Timestamp" {
		return ""
	}
	return kindOf(f)
}

// notHeader allows a member of a oneof: its header has the default while another member is set.
func notHeader(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return "a map"
	case f.IsList():
		return "repeated"
	}
	switch f.Kind() {
	case protoreflect.StringKind, protoreflect.BoolKind, protoreflect.EnumKind:
		return ""
	}
	if isInteger(f.Kind()) {
		return ""
	}
	return kindOf(f)
}

func isInteger(k protoreflect.Kind) bool {
	switch k {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind, protoreflect.Uint32Kind, protoreflect.Fixed32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return true
	}
	return false
}

func kindOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Enum() != nil:
		return "an enum"
	case f.Message() != nil:
		return "of type " + string(f.Message().FullName())
	}
	return "of type " + f.Kind().String()
}
