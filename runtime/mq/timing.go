package mq

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Bounds of when and for how long a message may be delivered, and of its priority.
const (
	// MaxScheduleAhead bounds the delay of a message, and how far ahead its instant of delivery may lie: 10 years, with their leap days.
	MaxScheduleAhead = 3653 * 24 * time.Hour
	// MaxTTL bounds how long a message may wait to be delivered: 10 years, with their leap days.
	MaxTTL = 3653 * 24 * time.Hour
	// MaxPriority bounds the priority of a message, whatever the topic's levels.
	MaxPriority = 10

	minTTL = time.Millisecond
)

// timing is when a message that does not enter its topic at once enters it. Records have a pointer to one: most messages have none, and a record
// is made for each.
type timing struct {
	delay    time.Duration
	at       time.Time
	hasDelay bool
	hasAt    bool
	fault    error // of the annotated field
}

// SetPriority sets the priority: 1 is the lowest, the topic's number of levels the highest, 0 stands for the lowest. Publish refuses
// others. Generated code calls it with the field that is annotated as the priority.
func (r *Record) SetPriority(n int64) { r.priority, r.priorityChosen = n, false }

// SetDeliverAt sets the instant at which the message enters the topic; nil is at once. Generated code calls it with the field that is
// annotated as deliver_at. Bounds are those of [WithDeliverAt].
func (r *Record) SetDeliverAt(at *timestamppb.Timestamp) {
	if at == nil {
		r.timing = nil
	} else if err := at.CheckValid(); err != nil {
		r.timing = &timing{fault: invalid(reasonBadDelay, "deliver_at", err.Error(), 0)}
	} else {
		r.timing = &timing{at: at.AsTime(), hasAt: true}
	}
}

// mayWait returns the record's timing, to be changed.
func (r *Record) mayWait() *timing {
	if r.timing == nil {
		r.timing = new(timing)
	}
	return r.timing
}

// resolve checks priority, timing and ttl, and turns them into what is sent, in whole milliseconds: upwards, so that nothing is delivered
// early or expires early. A message that is kept back and has no id gets one, by which it can be cancelled. Levels are the topic's, 0 if they are
// not known.
func (r *Record) resolve(levels int64) error {
	least := int64(0)
	if r.priorityChosen {
		least = 1
	}
	switch {
	case levels > 0 && (r.priority < least || r.priority > levels):
		return priorityUnknown(r.priority, levels)
	case r.priority < least || r.priority > MaxPriority:
		return invalid(reasonBadPriority, "priority", fmt.Sprintf("priority %d: must be %d to %d", r.priority, least, MaxPriority), MaxPriority)
	}
	if r.hasTTL {
		if r.ttl < minTTL || r.ttl > MaxTTL {
			return outside(reasonBadTTL, "ttl", fmt.Sprintf("ttl %v: must be %v to %v", r.ttl, minTTL, MaxTTL), MaxTTL)
		}
		r.ttlMS = ceilMS(r.ttl)
	}
	t := r.timing
	switch {
	case t == nil:
		return nil
	case t.fault != nil:
		return t.fault
	case t.hasDelay && t.hasAt:
		return invalid(reasonBadDelay, "delay", "a message has either a delay or an instant of delivery, not both", 0)
	case t.hasDelay:
		if t.delay < 0 || t.delay > MaxScheduleAhead {
			return outside(reasonBadDelay, "delay", fmt.Sprintf("delay %v: must be 0s to %v", t.delay, MaxScheduleAhead), MaxScheduleAhead)
		}
		r.delayMS = ceilMS(t.delay)
	case t.hasAt:
		if t.at.Before(time.Unix(0, 0)) || t.at.After(time.Now().Add(MaxScheduleAhead)) {
			return outside(reasonBadDelay, "deliver_at", fmt.Sprintf("instant of delivery %s: must not lie before 1970 nor more than %v ahead",
				t.at.UTC().Format(time.RFC3339Nano), MaxScheduleAhead), MaxScheduleAhead)
		}
		r.deliverAtMS = t.at.UnixMilli()
		if t.at.Nanosecond()%int(time.Millisecond) > 0 {
			r.deliverAtMS++
		}
	}
	if r.ID == "" && (r.delayMS > 0 || r.deliverAtMS > 0) {
		r.ID = randomID()
	}
	return nil
}

// outside is the refusal of a duration or instant beyond the bound.
func outside(reason, field, message string, bound time.Duration) *Error {
	e := invalid(reason, field, message, 0)
	e.Metadata = map[string]string{"bound": bound.String()}
	return e
}

// priorityUnknown refuses a priority that the topic does not have.
func priorityUnknown(priority, levels int64) *Error {
	if levels == 1 {
		return invalid(reasonBadPriority, "priority", fmt.Sprintf("priority %d: the topic has no priorities", priority), 1)
	}
	return invalid(reasonBadPriority, "priority", fmt.Sprintf("priority %d: must be 1 to %d in this topic", priority, levels), int(levels))
}

func ceilMS(d time.Duration) uint64 { return uint64((d + time.Millisecond - 1) / time.Millisecond) }

// randomID is 128 random bits in hexadecimal.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}
