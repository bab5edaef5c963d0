package rules

import (
	"fmt"
	"slices"
	"time"

	"buf.build/go/bufplugin/check"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
)

// advice is a lint rule about what is legal but unwise. Each says why in its message.
type advice struct {
	id, purpose string
	// Either of them may be nil. They return what to do about it, "" for nothing, and the field of the annotation that it is about.
	topic        func(*topic.Topic) (string, []protoreflect.FieldNumber)
	subscription func(*topic.Subscription) (string, []protoreflect.FieldNumber)
	field        func(protoreflect.FieldDescriptor, *topic.Topic) (string, []protoreflect.FieldNumber)
}

func lints() []advice {
	return []advice{
		{id: "MQ_TOPIC_NAME_SET", purpose: "Checks that a topic has a name of its own and does not take that of its message.",
			topic: func(t *topic.Topic) (string, []protoreflect.FieldNumber) {
				if t.Name != string(t.Message.FullName()) {
					return "", nil
				}
				return fmt.Sprintf("topic %q takes the name of its message, so that moving the message renames the topic; set name in (mq.v1.topic)", t.Name), nil
			}},
		{id: "MQ_TTL_RETENTION", purpose: "Checks that messages expire before they are deleted.",
			topic: func(t *topic.Topic) (string, []protoreflect.FieldNumber) {
				if t.TTL == 0 || t.Retention == 0 || t.TTL < t.Retention {
					return "", nil
				}
				return fmt.Sprintf("topic %q deletes messages after its retention of %v, so none reaches its ttl of %v; lower the ttl, raise the retention or remove "+
					"the ttl", t.Name, t.Retention, t.TTL), []protoreflect.FieldNumber{12}
			}},
		{id: "MQ_SENSITIVE_COPIED", purpose: "Checks that no sensitive field is copied out of the message into a key, id or header.",
			field: func(f protoreflect.FieldDescriptor, t *topic.Topic) (string, []protoreflect.FieldNumber) {
				if role := roleOf(f, t); role != "" && topic.Sensitive(f) {
					return fmt.Sprintf("field %s is sensitive and the %s of topic %q, which tools print; give the role to another field, or hash the value", f.Name(), role,
						t.Name), []protoreflect.FieldNumber{6}
				}
				return "", nil
			}},
		{id: "MQ_RETRY_RETENTION", purpose: "Checks that a message is kept for as long as its attempts may take.",
			subscription: func(s *topic.Subscription) (string, []protoreflect.FieldNumber) {
				longest := chain(s)
				if s.Topic.Delivery == topic.Queue || s.Topic.Retention == 0 || longest <= s.Topic.Retention {
					return "", nil
				}
				return fmt.Sprintf("group %q may take %v for all attempts, but topic %q deletes messages after %v: one that fails can be lost before it becomes a dead "+
					"letter; lower max_attempts, max_interval or processing_timeout, or raise the retention", s.Group, longest.Round(time.Second), s.Topic.Name,
					s.Topic.Retention), []protoreflect.FieldNumber{2}
			}},
		{id: "MQ_QUEUE_DEAD_LETTER", purpose: "Checks that a queue keeps what its group gave up.",
			subscription: func(s *topic.Subscription) (string, []protoreflect.FieldNumber) {
				if s.Topic.Delivery != topic.Queue || !s.DeadLetter.Disabled {
					return "", nil
				}
				return fmt.Sprintf("group %q drops what it gives up, and queue %q deletes what is settled: nothing is left of such a message; remove "+
					"dead_letter.disabled, or set dead_letter.retention", s.Group, s.Topic.Name), []protoreflect.FieldNumber{3, 1}
			}},
		{id: "MQ_PARTITION_ORDER_IN_FLIGHT", purpose: "Checks that max_in_flight can be reached with ordering per partition.",
			subscription: func(s *topic.Subscription) (string, []protoreflect.FieldNumber) {
				if s.Topic.Ordering != topic.PerPartition || s.MaxInFlight == topic.DefaultMaxInFlight || s.MaxInFlight <= s.Topic.Partitions {
					return "", nil
				}
				return fmt.Sprintf("group %q asks for %d messages at a time, but topic %q is ordered per partition and has %d: no more are ever in flight; lower "+
					"max_in_flight, or order per key", s.Group, s.MaxInFlight, s.Topic.Name, s.Topic.Partitions), []protoreflect.FieldNumber{4}
			}},
		{id: "MQ_FILTER_HEADER", purpose: "Checks that a filter reads headers that some field of the message becomes.",
			subscription: func(s *topic.Subscription) (string, []protoreflect.FieldNumber) {
				var has, unknown []string
				for _, h := range s.Topic.Headers {
					has = append(has, h.Name)
				}
				for _, name := range s.FilterHeaders {
					if !slices.Contains(has, name) && !slices.Contains(traceHeaders, name) {
						unknown = append(unknown, name)
					}
				}
				if len(unknown) == 0 {
					return "", nil
				}
				known := "has none"
				if len(has) > 0 {
					known = fmt.Sprintf("has %q", has)
				}
				return fmt.Sprintf("the filter of group %q reads the headers %q, and topic %q %s by its annotations: where a header is missing the filter is false; correct the name, "+
					"or annotate the field with (mq.v1.field).header", s.Group, unknown, s.Topic.Name, known), []protoreflect.FieldNumber{1}
			}},
	}
}

// traceHeaders are set by tracing, not by annotations.
var traceHeaders = []string{"traceparent", "tracestate"}

// lint reports what one rule advises against. Topics of imports are their owners' concern.
func lint(req check.Request, w check.ResponseWriter, a advice) error {
	files, _ := split(req.FileDescriptors())
	set, _ := topic.Load(files) // faults are MQ_VALID's
	add := func(d protoreflect.Descriptor, message string, fields []protoreflect.FieldNumber) {
		if message != "" {
			w.AddAnnotation(check.WithMessage(message), check.WithFileNameAndSourcePath(d.ParentFile().Path(), topic.SourceOf(d, fields...)))
		}
	}
	for _, t := range set.Topics {
		if a.topic != nil {
			message, fields := a.topic(t)
			add(t.Message, message, fields)
		}
		if a.field != nil {
			for i := range t.Message.Fields().Len() {
				f := t.Message.Fields().Get(i)
				message, fields := a.field(f, t)
				add(f, message, fields)
			}
		}
	}
	for _, s := range set.Subscriptions {
		if a.subscription != nil {
			message, fields := a.subscription(s)
			add(rpcOf(files, s), message, fields)
		}
	}
	return nil
}

// rpcOf is the rpc of a subscription of files.
func rpcOf(files []protoreflect.FileDescriptor, s *topic.Subscription) protoreflect.Descriptor {
	for _, f := range files {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				if m := service.Methods().Get(j); string(service.FullName())+"/"+string(m.Name()) == s.RPC {
					return m
				}
			}
		}
	}
	panic("rules: rpc " + s.RPC + " was read from the files and is not in them")
}

// chain is the longest time from the first delivery of a message to its end: each attempt takes its whole timeout, each wait all of its jitter.
func chain(s *topic.Subscription) time.Duration {
	wait, sum := float64(s.Retry.InitialInterval), float64(s.Retry.MaxAttempts)*float64(s.ProcessingTimeout)
	for range s.Retry.MaxAttempts - 1 {
		sum += min(wait, float64(s.Retry.MaxInterval)) * (1 + s.Retry.Jitter)
		wait = min(wait*s.Retry.Coefficient, float64(s.Retry.MaxInterval))
	}
	return time.Duration(min(sum, float64(topic.MaxAge)))
}

// roleOf is what a field is copied into, "" for nothing.
func roleOf(f protoreflect.FieldDescriptor, t *topic.Topic) string {
	if len(t.Key) == 1 && t.Key[0] == f {
		return "key"
	}
	if t.Dedupe.ID == f {
		return "dedupe_id"
	}
	for _, h := range t.Headers {
		if h.Field == f {
			return "header " + h.Name
		}
	}
	return ""
}
