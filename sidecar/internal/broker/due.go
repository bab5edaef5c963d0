package broker

import (
	"fmt"
	"math"
	"time"
)

// Bounds of a message's times.
const (
	// MaxAhead is how far ahead a message may be scheduled: ten years, with their leap days.
	MaxAhead = 3653 * 24 * time.Hour
	// MinTTL and MaxTTL bound how long a message may say that it may wait.
	MinTTL = time.Millisecond
	MaxTTL = 3653 * 24 * time.Hour

	maxTTLMS = uint64(MaxTTL / time.Millisecond)
)

// due is the instant, in milliseconds since 1970, at which a record that was published now is to enter its topic. One that is not after now is now.
func (r Record) due(now time.Time) (int64, *Error) {
	nowMS := ceilMS(now)
	switch {
	case r.DelayMS != 0 && r.DeliverAtMS != 0:
		return 0, badDelay("delay_ms", "delay %s and deliver_at %s: set one of them", millis(r.DelayMS), instant(r.DeliverAtMS))
	case r.DelayMS > uint64(MaxAhead.Milliseconds()):
		e := RefuseDelay(millis(r.DelayMS))
		e.Field = "delay_ms"
		return 0, e
	case r.DeliverAtMS < 0, r.DeliverAtMS > nowMS+MaxAhead.Milliseconds():
		e := RefuseDeliverAt(instant(r.DeliverAtMS))
		e.Field = "deliver_at_ms"
		return 0, e
	case r.DelayMS != 0:
		return nowMS + int64(r.DelayMS), nil
	}
	return r.DeliverAtMS, nil
}

// RefuseDelay is the refusal of a delay that is out of bounds, in the words in which it was given.
func RefuseDelay(given string) *Error {
	return badDelay("delay", "delay %s: must be 0s to %v (10 years)", given, MaxAhead)
}

// RefuseDeliverAt is the refusal of an instant of delivery that is out of bounds.
func RefuseDeliverAt(given string) *Error {
	return badDelay("deliver_at", "deliver_at %s: must not lie before 1970 nor more than %v (10 years) ahead", given, MaxAhead)
}

// RefuseTTL is the refusal of a ttl that is out of bounds.
func RefuseTTL(given string) *Error {
	return fail(BadTTL, "ttl", "ttl %s: must be %v to %v (10 years)", given, MinTTL, MaxTTL).with("bound", MaxTTL)
}

func badDelay(field, format string, args ...any) *Error {
	return fail(BadDelay, field, format, args...).with("bound", MaxAhead)
}

func badPriority(t *topicState, priority uint64) *Error {
	return fail(BadPriority, "priority", "priority %d: topic %q has the priorities 1 to %d", priority, t.decl.Name, t.decl.PriorityLevels).
		with("bound", t.decl.PriorityLevels)
}

// millis shows milliseconds as a duration, however long.
func millis(ms uint64) string {
	if ms <= math.MaxInt64/uint64(time.Millisecond) {
		return (time.Duration(ms) * time.Millisecond).String()
	}
	return fmt.Sprintf("%d.%03ds", ms/1000, ms%1000)
}

// instant shows milliseconds since 1970, in RFC 3339 as far as that goes: to the year 9999.
func instant(ms int64) string {
	if at := time.UnixMilli(ms).UTC(); at.Year() >= 1 && at.Year() <= 9999 {
		return at.Format(time.RFC3339Nano)
	}
	return fmt.Sprintf("%d ms since 1970", ms)
}
