package mqtest

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/typedmq/typedmq/runtime/mq"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// Message is a published message.
type Message[T proto.Message] struct {
	Value   T
	ID      string
	Key     []byte
	Headers map[string]string
	// Partition, Priority (0 in a topic without priorities) and Offset are its place.
	Partition uint32
	Priority  uint32
	Offset    int64
	// Published is when it entered the topic, by the sidecar's clock.
	Published time.Time
}

// TopicOf is the name of the topic of T's messages.
func TopicOf[T proto.Message]() string {
	var zero T
	d := zero.ProtoReflect().Descriptor()
	options, _ := proto.GetExtension(d.Options(), mqv1.E_Topic).(*mqv1.TopicOptions)
	return cmp.Or(options.GetName(), string(d.FullName()))
}

// Published returns the messages of T's topic in the order in which they were stored, those included that retention has deleted. A message that is scheduled is
// there once it is due. A topic that nobody has declared yet has none; a T that is no topic ends the test.
func Published[T proto.Message](s *Sidecar) []Message[T] {
	s.t.Helper()
	checkTopic[T](s)
	b := s.must()
	id, err := b.TopicID(TopicOf[T]())
	if err != nil {
		return nil
	}
	var out []Message[T]
	for _, e := range s.journal.of(id) {
		slice := broker.Slice{Partition: e.log.Partition, Records: e.records}
		for i, raw := range slice.Each() {
			r, err := broker.ParseRecord(raw)
			if err != nil {
				s.t.Fatalf("mqtest: topic %q: %v", TopicOf[T](), err)
			}
			m := newMessage[T](s, r)
			m.Partition, m.Priority, m.Offset = e.log.Partition, uint32(r.Priority), int64(e.first)+int64(i)
			m.ID = broker.MessageID(r, e.log.Partition, e.log.Lane, m.Offset)
			m.Published = time.UnixMilli(e.timeMS)
			out = append(out, m)
		}
	}
	return out
}

// Values are the messages alone.
func Values[T proto.Message](messages []Message[T]) []T {
	out := make([]T, len(messages))
	for i, m := range messages {
		out[i] = m.Value
	}
	return out
}

func newMessage[T proto.Message](s *Sidecar, r broker.Record) Message[T] {
	s.t.Helper()
	var zero T
	value := zero.ProtoReflect().New().Interface().(T)
	if err := proto.Unmarshal(r.Payload, value); err != nil {
		s.t.Fatalf("mqtest: a payload is no %T: %v", zero, err)
	}
	return Message[T]{Value: value, Key: slices.Clone(r.Key), Headers: r.HeaderMap()}
}

// DeadLetter is a message that a group gave up on.
type DeadLetter[T proto.Message] struct {
	Message[T]
	// Reason is one of attempts_spent, permanent, undecodable, expired, consumers_lost.
	Reason                string
	Attempts              uint32
	FirstError, LastError string
	Died                  time.Time
}

// DeadLetters returns the messages of T's topic that a group gave up on, the earliest death first. A topic that nobody has declared yet has none. A T that is no
// topic, or a group that does not consume the topic, ends the test: the name is wrong, or the test has no worker for it.
func DeadLetters[T proto.Message](s *Sidecar, group string) []DeadLetter[T] {
	s.t.Helper()
	checkTopic[T](s)
	var out []DeadLetter[T]
	for _, d := range s.deadLetters(group, TopicOf[T]()) {
		m := newMessage[T](s, d.Record)
		m.ID, m.Partition, m.Priority, m.Offset, m.Published = d.ID, d.Partition, d.Priority, d.Offset, d.Published
		out = append(out, DeadLetter[T]{m, d.Reason, d.Attempts, d.FirstError, d.LastError, d.Died})
	}
	return out
}

func (s *Sidecar) deadLetters(group, topic string) []broker.DeadLetter {
	s.t.Helper()
	var all []broker.DeadLetter
	for page, first := "", true; first || page != ""; first = false {
		list, next, err := s.must().DeadLetters(s.t.Context(), group, topic, "", 1000, page)
		if s.unknown(err, group, topic) {
			return nil
		}
		if err != nil {
			s.t.Fatalf("mqtest: dead letters of %v: %v", subscription{group, topic}, err)
		}
		all, page = append(all, list...), next
	}
	slices.SortStableFunc(all, func(a, b broker.DeadLetter) int { return a.Died.Compare(b.Died) })
	return all
}

// checkTopic ends the test if T is no topic.
func checkTopic[T proto.Message](s *Sidecar) {
	s.t.Helper()
	var zero T
	if d := zero.ProtoReflect().Descriptor(); !proto.HasExtension(d.Options(), mqv1.E_Topic) {
		s.t.Fatalf("mqtest: message %s is no topic: it has no (mq.v1.topic)", d.FullName())
	}
}

// unknown tells whether the broker's error means that nobody has declared the topic yet, or that a worker will declare the group's subscription when it runs. A group that
// will not consume the topic ends the test.
func (s *Sidecar) unknown(err error, group, topic string) bool {
	s.t.Helper()
	var refused *broker.Error
	if !errors.As(err, &refused) || refused.Reason != broker.TopicUnknown && refused.Reason != broker.GroupUnknown {
		return false
	}
	if _, err := s.must().TopicID(topic); err != nil {
		return true
	}
	s.mu.Lock()
	workers := s.mu.workers
	s.mu.Unlock()
	for _, w := range workers {
		if slices.ContainsFunc(w.Subscriptions(), func(sub mq.Subscription) bool { return sub.Group == group && sub.Topic == topic }) {
			return true
		}
	}
	var groups []string
	all, err := s.must().Groups(s.t.Context(), "", topic)
	if err != nil {
		s.t.Fatalf("mqtest: groups of topic %q: %v", topic, err)
	}
	for _, g := range all {
		groups = append(groups, g.Group)
	}
	s.t.Fatalf("mqtest: group %q does not consume topic %q; those that do: %q", group, topic, groups)
	return false
}

// Redrive gives dead letters of T's topic back to their group, those of the ids or, without ids, all. It returns how many. An id that no dead letter has fails the test.
func Redrive[T proto.Message](s *Sidecar, group string, ids ...string) int {
	s.t.Helper()
	checkTopic[T](s)
	n, unknown, _, err := s.must().Redrive(s.t.Context(), group, TopicOf[T](), broker.Selection{IDs: ids, All: len(ids) == 0})
	if s.unknown(err, group, TopicOf[T]()) {
		unknown, err = ids, nil
	}
	if err == nil && len(unknown) > 0 {
		s.t.Fatalf("mqtest: redrive for %v: no dead letter has the ids %q", subscription{group, TopicOf[T]()}, unknown)
	}
	if err != nil {
		s.t.Fatalf("mqtest: redrive for %v: %v", subscription{group, TopicOf[T]()}, err)
	}
	return n
}
