package sim

import (
	"testing"
	"time"
)

// story is a history written by hand: one group of one topic, ordered by key.
type story struct {
	events []Event
	op     int
}

func (s *story) add(at time.Duration, e Event) {
	e.At, e.Step = at, len(s.events)
	if e.Topic == "" {
		e.Topic = "t"
	}
	s.events = append(s.events, e)
}

// published tells of a publish that was confirmed at an offset.
func (s *story) published(at time.Duration, uid uint64, key string, offset int64) {
	s.op++
	s.add(at, Event{Kind: Publish, Op: s.op, UID: uid, Key: key, Offset: noOffset})
	s.add(at, Event{Kind: Published, Op: s.op, UID: uid, Key: key, Offset: offset})
}

func (s *story) join(at time.Duration, session int) {
	s.add(at, Event{Kind: Join, Group: "g", Session: session, After: 10 * time.Second})
}

func (s *story) receive(at time.Duration, session int, uid uint64, key string, offset int64, lease, attempt uint32) {
	s.add(at, Event{Kind: Receive, Group: "g", Session: session, UID: uid, Key: key, Offset: offset, Epoch: 1, Lease: lease, Attempt: attempt})
}

func (s *story) settle(at time.Duration, uid uint64, key string, offset int64, lease uint32, o Outcome, after time.Duration, r Result) {
	s.op++
	e := Event{Kind: Settle, Op: s.op, Group: "g", UID: uid, Key: key, Offset: offset, Epoch: 1, Lease: lease, Outcome: o, After: after}
	s.add(at, e)
	e.Kind, e.Result = Settled, r
	s.add(at, e)
}

// finish tells that everything was looked at, with the given messages in the log.
func (s *story) finish(at time.Duration, end int64, logged ...Event) {
	s.add(at, Event{Kind: Heal})
	for _, e := range logged {
		e.Kind = InLog
		s.add(at, e)
	}
	s.add(at, Event{Kind: InShard, Group: "g", Offset: end, Epoch: uint64(end)})
}

func (s *story) verdict(filter Filter) Verdict {
	return Check(&History{Events: s.events, Plan: Plan{
		Topics: []Topic{{Name: "t", Ordering: PerKey, Partitions: 1}},
		Groups: []Group{{Name: "g", Topic: "t", MaxAttempts: 3, Initial: time.Second, Max: 4 * time.Second, Lease: 10 * time.Second, Filter: filter}},
	}})
}

const sec = time.Second

// TestTheCheckerCatches: a bad history for each invariant. Every one differs from a good history in the thing that its name tells.
func TestTheCheckerCatches(t *testing.T) {
	inLog := Event{UID: 1, Key: "a", Offset: 0}
	for _, tc := range []struct {
		name      string
		invariant int // 0: the history is good
		filter    Filter
		tell      func(s *story)
	}{
		{"nothing in a good history", 0, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Retried, -1, OK)
			s.receive(3*sec, 1, 1, "a", 0, 2, 2)
			s.settle(3*sec, 1, "a", 0, 2, Acked, 0, OK)
			s.finish(9*sec, 1, inLog)
		}},
		{"a message that nobody got", 1, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.finish(9*sec, 1, inLog)
		}},
		{"a message that was never published", 2, Everything, func(s *story) {
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
		}},
		{"a message under another key", 2, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "b", 0, 1, 1)
		}},
		{"other content", 2, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.add(sec, Event{Kind: Receive, Group: "g", Session: 1, UID: 1, Key: "a", Epoch: 1, Lease: 1, Attempt: 1, Result: Fail})
		}},
		{"a message that was refused", 3, Everything, func(s *story) {
			s.add(1, Event{Kind: Publish, Op: 9, UID: 1, Key: "a", Offset: noOffset})
			s.add(1, Event{Kind: Published, Op: 9, UID: 1, Key: "a", Offset: noOffset, Result: Fail})
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
		}},
		{"a delivery after a confirmed acknowledgement", 4, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Acked, 0, OK)
			s.receive(2*sec, 1, 1, "a", 0, 2, 1)
		}},
		{"a key that is overtaken", 5, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.published(1, 2, "a", 1)
			s.join(1, 1)
			s.receive(sec, 1, 2, "a", 1, 1, 1)
		}},
		{"two of a key at once", 5, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.published(1, 2, "a", 1)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.receive(sec, 1, 2, "a", 1, 1, 1)
		}},
		{"two consumers with one message", 6, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.join(1, 2)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.receive(2*sec, 2, 1, "a", 0, 2, 1)
		}},
		{"no fault in a lease that may have run out", 0, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.join(1, 2)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.receive(11*sec, 2, 1, "a", 0, 2, 2)
		}},
		{"a stale token", 7, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.join(1, 2)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.receive(11*sec, 2, 1, "a", 0, 2, 2)
			s.settle(12*sec, 1, "a", 0, 1, Acked, 0, OK)
		}},
		{"a commit of an owner that was succeeded", 7, Everything, func(s *story) {
			s.add(1, Event{Kind: Fence, Group: "g", Epoch: 2, Client: "b"})
			s.add(1, Event{Kind: Fenced, Group: "g", Epoch: 2, Client: "b"})
			s.add(sec, Event{Kind: Commit, Group: "g", Epoch: 1, Bound: 2})
		}},
		{"a delivery long after the owner's lease was over", 7, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.add(1, Event{Kind: Fence, Group: "g", Epoch: 1, Client: "a"})
			s.add(1, Event{Kind: Fenced, Group: "g", Epoch: 1, Client: "a"})
			s.add(2, Event{Kind: Expire, Client: "a", Topic: "-", After: 5 * sec})
			s.join(1, 1)
			s.receive(20*sec, 1, 1, "a", 0, 1, 1)
		}},
		{"an attempt that was forgotten", 8, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Retried, 0, OK)
			s.receive(3*sec, 1, 1, "a", 0, 2, 1)
		}},
		{"an attempt too many", 8, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 4)
		}},
		{"a wait that was cut short", 8, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Retried, -1, OK)
			s.receive(sec+sec/2, 1, 1, "a", 0, 2, 2)
		}},
		{"a rejected message that is no dead letter", 9, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Rejected, 0, OK)
			s.finish(9*sec, 1, inLog)
		}},
		{"an acknowledged message that is a dead letter", 9, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Acked, 0, OK)
			s.add(8*sec, Event{Kind: InDead, Group: "g", UID: 1, Key: "a", Attempt: 1, Detail: "permanent"})
			s.finish(9*sec, 1, inLog)
		}},
		{"a message before it is due", 10, Everything, func(s *story) {
			s.add(1, Event{Kind: Publish, Op: 9, UID: 1, Key: "a", Offset: noOffset, After: 5 * sec})
			s.add(1, Event{Kind: Published, Op: 9, UID: 1, Key: "a", Offset: noOffset, After: 5 * sec})
			s.join(1, 1)
			s.receive(4*sec, 1, 1, "a", 0, 1, 1)
		}},
		{"a message that was canceled", 10, Everything, func(s *story) {
			s.add(1, Event{Kind: Publish, Op: 9, UID: 1, Key: "a", Offset: noOffset, After: 5 * sec})
			s.add(1, Event{Kind: Published, Op: 9, UID: 1, Key: "a", Offset: noOffset, After: 5 * sec})
			s.add(2, Event{Kind: Cancel, Op: 10, UID: 1})
			s.add(2, Event{Kind: Canceled, Op: 10, UID: 1})
			s.join(1, 1)
			s.receive(6*sec, 1, 1, "a", 0, 1, 1)
		}},
		{"what the filter does not want", 12, OddOnes, func(s *story) {
			s.published(1, 2, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 2, "a", 0, 1, 1)
		}},
		{"a partition that nobody serves", 14, Everything, func(s *story) {
			s.add(sec, Event{Kind: Heal})
		}},
		{"one offset for two messages", 15, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.published(1, 2, "b", 0)
		}},
		{"a position that goes back", 15, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.add(sec, Event{Kind: Position, Group: "g", Offset: 1})
			s.add(2*sec, Event{Kind: Position, Group: "g", Offset: 0})
		}},
		{"an error with an offset", 15, Everything, func(s *story) {
			s.add(1, Event{Kind: Publish, Op: 9, UID: 1, Key: "a", Offset: noOffset})
			s.add(1, Event{Kind: Published, Op: 9, UID: 1, Key: "a", Offset: 0, Result: Unknown})
		}},
		{"a counter that is off", 16, Everything, func(s *story) {
			s.add(8*sec, Event{Kind: Heal})
			s.add(9*sec, Event{Kind: InShard, Group: "g", Dead: 1})
		}},
		{"credits that are not given back", 16, Everything, func(s *story) {
			s.add(sec, Event{Kind: Weight, Group: "g", Count: 1, Detail: "credits taken by a session that holds nothing"})
		}},
		{"timers that nobody waits for", 17, Everything, func(s *story) {
			s.add(sec, Event{Kind: Weight, Group: "g", Count: 3, Bound: 2, Detail: "timers"})
		}},
		{"a confirmed message that is not in the log", 18, Everything, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Acked, 0, OK)
			s.finish(9*sec, 1)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := new(story)
			tc.tell(s)
			v := s.verdict(tc.filter)
			if tc.invariant == 0 {
				if len(v.Violations) > 0 {
					t.Fatalf("violations of a good history: %+v", v.Violations)
				}
				return
			}
			for _, x := range v.Violations {
				if x.Invariant == tc.invariant {
					return
				}
			}
			t.Errorf("not caught by invariant %d; found %+v", tc.invariant, v.Violations)
		})
	}
}
