package topic

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Source is who says what a setting is.
type Source uint8

const (
	FromDefault Source = iota // nobody: it is built in
	FromService               // the defaults of the consumer service
	FromRPC                   // the rpc itself
)

func (s Source) String() string {
	switch s {
	case FromRPC:
		return "rpc"
	case FromService:
		return "service"
	}
	return "default"
}

// Setting is one setting of a subscription's policy.
type Setting struct {
	// Name is its path in mq.v1.SubscribeOptions: "retry.max_attempts".
	Name string
	// Value is what is in force, as text; empty if there is none, as without a filter.
	Value string
	From  Source
	// Place is where it is said, without a position if the descriptors carry none. Its Message and Reason are empty. It is the zero Fault of a default.
	Place Fault
}

// levels are what an rpc and its service say about a subscription.
type levels struct{ own, defaults policy }

// setting tells how to find and how to show one setting.
type setting struct {
	name string
	path []protoreflect.FieldNumber
	show func(*Subscription) string
}

// settings are all, in the order of SubscribeOptions.
var settings = []setting{
	{"filter", path(subscribeFilter), func(s *Subscription) string { return s.Filter }},
	{"retry.max_attempts", path(subscribeRetry, 1), func(s *Subscription) string { return fmt.Sprint(s.Retry.MaxAttempts) }},
	{"retry.initial_interval", path(subscribeRetry, 2), func(s *Subscription) string { return readable(s.Retry.InitialInterval) }},
	{"retry.max_interval", path(subscribeRetry, 3), func(s *Subscription) string { return readable(s.Retry.MaxInterval) }},
	{"retry.backoff_coefficient", path(subscribeRetry, 4), func(s *Subscription) string { return fmt.Sprint(s.Retry.Coefficient) }},
	{"retry.jitter", path(subscribeRetry, 5), func(s *Subscription) string { return fmt.Sprint(s.Retry.Jitter) }},
	{"dead_letter.disabled", path(subscribeDeadLetter, 1), func(s *Subscription) string { return fmt.Sprint(s.DeadLetter.Disabled) }},
	{"dead_letter.hold_key", path(subscribeDeadLetter, 2), func(s *Subscription) string { return fmt.Sprint(s.DeadLetter.HoldKey) }},
	{"dead_letter.retention", path(subscribeDeadLetter, 3), func(s *Subscription) string { return forEver(s.DeadLetter.Retention) }},
	{"max_in_flight", path(subscribeMaxInFlight), func(s *Subscription) string { return fmt.Sprint(s.MaxInFlight) }},
	{"processing_timeout", path(subscribeTimeout), func(s *Subscription) string { return readable(s.ProcessingTimeout) }},
	{"lease", path(subscribeLease), func(s *Subscription) string { return readable(s.Lease) }},
	{"batch.max_messages", path(subscribeBatch, 1), batch(func(b *Batch) string { return fmt.Sprint(b.MaxMessages) })},
	{"batch.max_wait", path(subscribeBatch, 2), batch(func(b *Batch) string { return readable(b.MaxWait) })},
	{"batch.max_bytes", path(subscribeBatch, 3), batch(func(b *Batch) string { return fmt.Sprint(b.MaxBytes) })},
	{"start_from", path(8), func(s *Subscription) string { return s.StartFrom.String() }},
	{"handler", path(subscribeHandler), func(s *Subscription) string {
		if s.Batch != nil {
			return "batch"
		}
		return s.Handler.String()
	}},
	{"dead_letter_expired", path(10), func(s *Subscription) string { return fmt.Sprint(s.DeadLetterExpired) }},
}

func path(numbers ...protoreflect.FieldNumber) []protoreflect.FieldNumber { return numbers }

func batch(show func(*Batch) string) func(*Subscription) string {
	return func(s *Subscription) string {
		if s.Batch == nil {
			return ""
		}
		return show(s.Batch)
	}
}

func forEver(d time.Duration) string {
	if d == 0 {
		return "for ever"
	}
	return readable(d)
}

// Settings tells the policy of a subscription of the set, setting by setting in the order of SubscribeOptions, and where each comes from.
func (s *Set) Settings(sub *Subscription) []Setting {
	said := s.policies[sub.RPC]
	out := make([]Setting, 0, len(settings))
	for _, w := range settings {
		v := Setting{Name: w.name, Value: w.show(sub)}
		by := w.path
		if by[0] == subscribeHandler && sub.Batch != nil {
			by = path(subscribeBatch) // a batch is what makes it a handler of batches
		}
		switch {
		case said.own.sets(by):
			v.From, v.Place = FromRPC, said.own.place.at(by...).fault("", "")
		case said.defaults.sets(by):
			v.From, v.Place = FromService, said.defaults.place.at(by...).fault("", "")
		}
		out = append(out, v)
	}
	return out
}

// sets tells whether the policy says something about a setting. As in overlay, an enum that is unspecified says nothing.
func (p policy) sets(path []protoreflect.FieldNumber) bool {
	m := p.options.ProtoReflect()
	for i, n := range path {
		f := m.Descriptor().Fields().ByNumber(n)
		if !m.IsValid() || !m.Has(f) {
			return false
		}
		if i < len(path)-1 {
			m = m.Get(f).Message()
			continue
		}
		return f.Enum() == nil || m.Get(f).Enum() != 0
	}
	return false
}
