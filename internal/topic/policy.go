package topic

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/typedmq/typedmq/internal/filter"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// policy is what one level, an rpc or the defaults of its service, says about a subscription.
type policy struct {
	place   place
	options *mqv1.SubscribeOptions // may be nil
}

// checkPolicy finds numbers and durations out of bounds.
func (l *loader) checkPolicy(p policy) {
	o := p.options
	if o == nil {
		return
	}
	l.number(p.place.at(subscribeMaxInFlight), "max_in_flight", o.MaxInFlight, 0, 1, MaxMaxInFlight, BadBound)
	l.duration(p.place.at(subscribeTimeout), "processing_timeout", o.GetProcessingTimeout(), 0,
		limits{MinProcessingTimeout, MaxProcessingTimeout, BadBound})
	l.duration(p.place.at(subscribeLease), "lease", o.GetLease(), 0, limits{MinLease, MaxLease, BadBound})

	if r := o.GetRetry(); r != nil {
		at := func(n protoreflect.FieldNumber) place { return p.place.at(subscribeRetry, n) }
		l.number(at(1), "max_attempts", r.MaxAttempts, 0, 1, MaxMaxAttempts, BadRetry)
		l.duration(at(2), "initial_interval", r.InitialInterval, 0, limits{MinInitialInterval, MaxInitialInterval, BadRetry})
		l.duration(at(3), "max_interval", r.MaxInterval, 0, limits{MinInitialInterval, MaxMaxInterval, BadRetry})
		l.factor(at(4), "backoff_coefficient", r.BackoffCoefficient, 1, MaxCoefficient)
		l.factor(at(5), "jitter", r.Jitter, 0, 1)
	}
	if d := o.GetDeadLetter(); d != nil {
		l.duration(p.place.at(subscribeDeadLetter, 3), "dead_letter retention", d.Retention, 0, limits{0, MaxAge, BadBound})
		if d.GetDisabled() && d.GetHoldKey() {
			l.add(p.place.at(subscribeDeadLetter), Contradiction, "dead_letter is disabled and holds its key; remove one of disabled and hold_key")
		}
		if d.GetDisabled() && d.Retention != nil {
			l.add(p.place.at(subscribeDeadLetter, 3), Contradiction, "dead_letter is disabled and has a retention; remove one of disabled and retention")
		}
	}
	if b := o.GetBatch(); b != nil {
		at := func(n protoreflect.FieldNumber) place { return p.place.at(subscribeBatch, n) }
		l.number(at(1), "batch max_messages", b.MaxMessages, 0, 1, MaxBatchMessages, BadBound)
		l.duration(at(2), "batch max_wait", b.MaxWait, 0, limits{0, MaxBatchWait, BadBound})
		l.number(at(3), "batch max_bytes", b.MaxBytes, 0, 1, MaxBatchBytes, BadBound)
		if h := o.GetHandler(); h != mqv1.HandlerStyle_HANDLER_STYLE_UNSPECIFIED {
			l.add(p.place.at(subscribeHandler), Contradiction, "batch contradicts handler %s, which takes one message at a time; remove one of the two", h)
		}
	}
}

func (l *loader) factor(p place, name string, v *float64, least, most float64) {
	if v != nil && !(*v >= least && *v <= most) { // not a number is neither
		l.add(p, BadRetry, "%s %g: must be %g to %g", name, *v, least, most)
	}
}

// checkRetry finds a longest wait below the first one, with the defaults for what r does not set.
func (l *loader) checkRetry(p place, r *mqv1.Retry) {
	initial, longest := DefaultInitialInterval, DefaultMaxInterval
	ofInitial, ofLongest := ", the default", ", the default"
	if r.GetInitialInterval() != nil {
		initial, ofInitial = r.GetInitialInterval().AsDuration(), ""
	}
	if r.GetMaxInterval() != nil {
		longest, ofLongest = r.GetMaxInterval().AsDuration(), ""
	}
	// A wait out of bounds has its own fault.
	if longest < initial && longest >= MinInitialInterval && initial <= MaxInitialInterval {
		l.add(p.at(subscribeRetry), BadRetry, "max_interval %s%s: must be at least initial_interval %s%s; set both", readable(longest), ofLongest,
			readable(initial), ofInitial)
	}
}

// checkAgainstTopic finds a policy that does not suit its topic. The fault is told at the level that says so.
func (l *loader) checkAgainstTopic(s *Subscription, m protoreflect.MethodDescriptor, own, defaults policy) {
	if s.DeadLetter.HoldKey && s.Topic.Ordering != PerKey {
		from := defaults
		if own.options.GetDeadLetter().GetHoldKey() {
			from = own
		}
		l.add(from.place.at(subscribeDeadLetter, 2), Contradiction, "dead_letter.hold_key of rpc %s needs order by key, and topic %q has ordering %s; "+
			"remove hold_key", m.Name(), s.Topic.Name, s.Topic.Ordering)
	}
	if s.DeadLetter.HoldKey && s.DeadLetter.Disabled && own.options.GetDeadLetter() != nil &&
		own.options.GetDeadLetter().GetHoldKey() != own.options.GetDeadLetter().GetDisabled() {
		l.add(own.place.at(subscribeDeadLetter), Contradiction, "dead_letter of rpc %s is disabled and holds its key, together with the defaults of "+
			"the service; set disabled or hold_key to false", m.Name())
	}
	// An rpc may disable dead letters over a retention of the defaults: there is then nothing to keep.
	if d := own.options.GetDeadLetter(); d.GetRetention() != nil && s.DeadLetter.Disabled && !d.GetDisabled() {
		l.add(own.place.at(subscribeDeadLetter, 3), Contradiction, "dead_letter of rpc %s has a retention and is disabled by the defaults of the service; "+
			"set disabled to false or remove retention", m.Name())
	}
	if s.DeadLetterExpired && s.DeadLetter.Disabled {
		from := defaults
		if own.options.GetDeadLetterExpired() || own.options.GetDeadLetter().GetDisabled() {
			from = own
		}
		l.add(from.place.at(subscribeDeadLetterExpired), Contradiction, "rpc %s keeps expired messages as dead letters, and its dead letters are disabled; "+
			"remove dead_letter_expired or dead_letter.disabled", m.Name())
	}
	if s.Batch != nil {
		l.checkBatch(s, m, own, defaults)
	}
	if s.Reply != nil && (s.Batch != nil || s.Handler == HandlerDelivery) {
		l.add(place{element: m}, Contradiction, "rpc %s returns %s, so its handler answers one call at a time; remove batch and handler", m.Name(), s.Reply.FullName())
	}
	if s.Filter == "" {
		return
	}
	if s.Reply != nil {
		l.add(place{element: m}, Contradiction, "rpc %s returns %s, so each call is answered, and one that a filter refuses never would be; remove filter", m.Name(), s.Reply.FullName())
	}
	from := defaults
	if own.options != nil && own.options.Filter != nil {
		from = own
	}
	compiled, err := l.filters.Compile(s.Filter, s.Topic.Message)
	if err == nil {
		s.FilterHeaders = compiled.HeaderNames()
	}
	var e *filter.Error
	if errors.As(err, &e) {
		where := ""
		if e.Line > 0 {
			where = fmt.Sprintf("%d:%d: ", e.Line, e.Column)
		}
		l.add(from.place.at(subscribeFilter), e.Reason, "filter of rpc %s: %s%s; write a CEL expression of type bool over msg (%s), key and headers",
			m.Name(), where, e.Detail, s.Topic.Message.FullName())
	}
}

// checkBatch finds a batch that its handler cannot get. The fault is told at the level that says so.
func (l *loader) checkBatch(s *Subscription, m protoreflect.MethodDescriptor, own, defaults policy) {
	if s.Batch.MaxMessages > s.MaxInFlight && s.Batch.MaxMessages <= MaxBatchMessages {
		from := defaults
		if own.options.GetBatch().GetMaxMessages() != 0 || own.options.GetMaxInFlight() != 0 {
			from = own
		}
		l.add(from.place.at(subscribeBatch, 1), Contradiction, "batch max_messages %d of rpc %s exceeds max_in_flight %d, so that no batch is ever full; "+
			"set max_in_flight to at least %d, or a smaller max_messages", s.Batch.MaxMessages, m.Name(), s.MaxInFlight, s.Batch.MaxMessages)
	}
}

// merged is the policy of an rpc: what it says itself, over the defaults of its service. Handler and batch are one choice, the handler's signature:
// an rpc that sets one of them does not take the other from the defaults.
func merged(own, defaults policy) *mqv1.SubscribeOptions {
	m := &mqv1.SubscribeOptions{}
	overlay(m.ProtoReflect(), defaults.options.ProtoReflect())
	switch {
	case own.options.GetBatch() != nil:
		m.Handler = nil
	case own.options.GetHandler() != mqv1.HandlerStyle_HANDLER_STYLE_UNSPECIFIED:
		m.Batch = nil
	}
	overlay(m.ProtoReflect(), own.options.ProtoReflect())
	return m
}

// subscription fills in what a merged policy leaves open.
func subscription(o *mqv1.SubscribeOptions) *Subscription {
	r, d := o.GetRetry(), o.GetDeadLetter()
	s := &Subscription{
		Filter: o.GetFilter(),
		Retry: Retry{
			MaxAttempts:     or(r.GetMaxAttempts(), DefaultMaxAttempts),
			InitialInterval: durationOr(r.GetInitialInterval(), DefaultInitialInterval),
			MaxInterval:     durationOr(r.GetMaxInterval(), DefaultMaxInterval),
			Coefficient:     or(r.GetBackoffCoefficient(), DefaultCoefficient),
			Jitter:          DefaultJitter,
		},
		DeadLetter:        DeadLetter{Disabled: d.GetDisabled(), HoldKey: d.GetHoldKey(), Retention: d.GetRetention().AsDuration()},
		MaxInFlight:       or(o.GetMaxInFlight(), DefaultMaxInFlight),
		ProcessingTimeout: durationOr(o.GetProcessingTimeout(), DefaultProcessingTimeout),
		Lease:             durationOr(o.GetLease(), DefaultLease),
		DeadLetterExpired: o.GetDeadLetterExpired(),
	}
	if r != nil && r.Jitter != nil {
		s.Retry.Jitter = r.GetJitter()
	}
	if b := o.GetBatch(); b != nil {
		s.Batch = &Batch{
			MaxMessages: or(b.GetMaxMessages(), DefaultBatchMessages),
			MaxWait:     b.GetMaxWait().AsDuration(),
			MaxBytes:    or(b.GetMaxBytes(), DefaultBatchBytes),
		}
		// Where only one of the two is said, the other lets a batch be filled.
		switch {
		case o.MaxInFlight == nil:
			s.MaxInFlight = max(s.MaxInFlight, s.Batch.MaxMessages)
		case b.MaxMessages == nil:
			s.Batch.MaxMessages = min(s.Batch.MaxMessages, s.MaxInFlight)
		}
	}
	if o.GetStartFrom() == mqv1.StartFrom_START_FROM_LATEST {
		s.StartFrom = Latest
	}
	if o.GetHandler() == mqv1.HandlerStyle_HANDLER_STYLE_DELIVERY {
		s.Handler = HandlerDelivery
	}
	return s
}

// or is v, or otherwise for the zero that no valid annotation has.
func or[N uint32 | float64](v, otherwise N) N {
	if v == 0 {
		return otherwise
	}
	return v
}

func durationOr(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.AsDuration()
}
