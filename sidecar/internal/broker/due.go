package broker

import "time"

// Bounds of a message's times.
const (
	// MaxAhead is how far ahead a message may be scheduled: ten years, with their leap days.
	MaxAhead = 3653 * 24 * time.Hour
	// MaxTTL bounds how long a message may say that it may wait.
	MaxTTL = 3653 * 24 * time.Hour

	maxTTLMS = uint64(MaxTTL / time.Millisecond)
)

// due is the instant, in milliseconds since 1970, at which a record that was published now is to enter its topic. One that is not after now is now.
func (r Record) due(now time.Time) (int64, *Error) {
	nowMS := ceilMS(now)
	switch {
	case r.DelayMS != 0 && r.DeliverAtMS != 0:
		return 0, badDelay("delay_ms", "delay of %d ms and deliver_at of %d ms: set one of them", r.DelayMS, r.DeliverAtMS)
	case r.DelayMS > uint64(MaxAhead.Milliseconds()):
		return 0, badDelay("delay_ms", "delay of %d ms: must be 0 to %d", r.DelayMS, MaxAhead.Milliseconds())
	case r.DeliverAtMS < 0:
		return 0, badDelay("deliver_at_ms", "deliver_at of %d ms since 1970: must not be negative", r.DeliverAtMS)
	case r.DeliverAtMS > nowMS+MaxAhead.Milliseconds():
		return 0, badDelay("deliver_at_ms", "deliver_at of %d ms since 1970: must be at most %v ahead", r.DeliverAtMS, MaxAhead)
	case r.DelayMS != 0:
		return nowMS + int64(r.DelayMS), nil
	}
	return r.DeliverAtMS, nil
}

func badDelay(field, format string, args ...any) *Error {
	return fail(BadDelay, field, format, args...).with("bound", MaxAhead)
}

func badTTL(d time.Duration) *Error {
	return fail(BadTTL, "ttl", "ttl %v: must be 0s to %v", d, MaxTTL).with("bound", MaxTTL)
}

func badPriority(t *topicState, priority uint64) *Error {
	return fail(BadPriority, "priority", "priority %d: topic %q has the priorities 1 to %d", priority, t.decl.Name, t.decl.PriorityLevels).
		with("bound", t.decl.PriorityLevels)
}
