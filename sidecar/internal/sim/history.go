package sim

import (
	"fmt"
	"hash/fnv"
	"io"
	"time"
)

// Kind is what an event of a history tells.
type Kind uint8

// The kinds. An operation has an event when it is invoked and one when it is completed, with the same Op; what a message is to have done
// to it has one such pair for each message.
const (
	Invalid Kind = iota

	Publish   // a record is about to be published: UID, Topic, Key
	Published // and what came of it: Result, Partition, Offset
	Join      // a consumer joined: Group, Topic, Session, After is the lease
	Beat      // its heartbeat arrived
	Leave     // it is about to leave, Detail says how: close, cut or pull
	Receive   // it got a message: Session, Group, Topic, Partition, Offset, UID, Key, Attempt, Epoch, Lease; Result Fail if the content is not what was published
	Settle    // it is about to settle: Session, Outcome, After and the message's place and lease
	Settled   // and what came of it: Result
	Redrive   // a dead letter is about to be given back: Group, Topic, UID
	Redriven
	Discard // a dead letter is about to be discarded
	Discarded
	Cancel // a scheduled message is about to be taken back: Topic, UID
	Canceled
	Fence    // a shard is about to be claimed in the store: Group, Topic, Partition, Epoch
	Fenced   // and was: Bound is the step at which it was begun
	Commit   // the store took a commit of a shard: Epoch, Bound is the step at which it was begun
	Position // a group was seen at Offset in a partition, and Count messages were not settled
	Start    // a sidecar began to serve: Client
	Down     // it was ended: Detail says how
	Expire   // the coordinator ended its lease; it may not know before After has passed
	Pause    // it stands still for After
	Clock    // the wall clock jumps by After
	Heal     // faults are over

	// What is found at the end.
	InLog      // a record in the topic's log: Topic, Partition, Offset, UID; Result Fail if its content is not what was published
	InDead     // a dead letter: Group, Topic, Partition, Offset, UID, Attempt, Detail is the reason
	InShard    // Group, Topic, Partition: Offset is the position, Count what is unsettled, Dead the dead letters counted, Epoch the end of the log
	Weight     // Count is a size in memory, Bound what it may be, Detail what it is
	Unservable // something that must work did not: Detail; Bound is the invariant if it is not 14
	Detected   // the store told of damage that was done to it: the world ends here
)

var kindNames = [...]string{
	"invalid", "publish", "published", "join", "beat", "leave", "receive", "settle", "settled", "redrive", "redriven", "discard", "discarded", "cancel", "canceled", "fence", "fenced",
	"commit", "position", "start", "down", "expire", "pause", "clock", "heal", "in-log", "in-dead", "in-shard", "weight", "unservable", "detected",
}

func (k Kind) String() string { return kindNames[k] }

// Result is how an operation ended as far as its client knows.
type Result uint8

// The results.
const (
	OK Result = iota
	Fail
	Unknown
)

func (r Result) String() string { return [...]string{"ok", "fail", "unknown"}[r] }

// Event is one line of a history.
type Event struct {
	Step int           // of the scheduler
	At   time.Duration // since the world began, on its monotonic clock
	Kind Kind
	Op   int // links an invocation with its completion
	Tx   int // the transaction that it is a part of

	Client       string
	Group, Topic string
	Partition    uint32
	Offset       int64
	UID          uint64
	Key          string
	Session      int
	Epoch        uint64
	Lease        uint32
	Attempt      uint32
	Outcome      Outcome
	After        time.Duration // a wait, a lease, a delay
	TTL          time.Duration
	Result       Result
	Detail       string
	Count, Bound int64
	Dead         int64
}

// Outcome is what a consumer makes of a message, in the words of the broker.
type Outcome uint8

// The outcomes, in the broker's order.
const (
	Acked Outcome = iota
	Skipped
	Retried
	Rejected
	Undecodable
	Snoozed
	Released
	Extended
)

func (o Outcome) String() string {
	return [...]string{"ack", "skip", "retry", "reject", "undecodable", "snooze", "release", "extend"}[o]
}

// noOffset is the offset of what has none.
const noOffset = -1

func (e Event) String() string {
	s := fmt.Sprintf("%6d %12v %-10s", e.Step, e.At, e.Kind)
	add := func(format string, args ...any) { s += fmt.Sprintf(" "+format, args...) }
	if e.Op != 0 {
		add("op=%d", e.Op)
	}
	if e.Tx != 0 {
		add("tx=%d", e.Tx)
	}
	if e.Client != "" {
		add("%s", e.Client)
	}
	if e.Session != 0 {
		add("session=%d", e.Session)
	}
	if e.Group != "" {
		add("%s", e.Group)
	}
	if e.Topic != "" {
		add("%s/%d@%d", e.Topic, e.Partition, e.Offset)
	}
	if e.UID != 0 {
		add("uid=%d key=%q", e.UID, e.Key)
	}
	if e.Epoch != 0 || e.Lease != 0 {
		add("epoch=%d lease=%d attempt=%d", e.Epoch, e.Lease, e.Attempt)
	}
	if e.Kind == Settle || e.Kind == Settled {
		add("%s", e.Outcome)
	}
	if e.After != 0 {
		add("after=%v", e.After)
	}
	if e.TTL != 0 {
		add("ttl=%v", e.TTL)
	}
	if e.Count != 0 || e.Bound != 0 || e.Dead != 0 {
		add("count=%d bound=%d dead=%d", e.Count, e.Bound, e.Dead)
	}
	switch e.Kind {
	case Published, Settled, Redriven, Discarded, Canceled, Receive, InLog:
		add("%s", e.Result)
	}
	if e.Detail != "" {
		add("%s", e.Detail)
	}
	return s
}

// History is what happened in a world, in order.
type History struct {
	Plan   Plan
	Events []Event
}

// Hash is of every line. Two runs of a seed have the same.
func (h *History) Hash() uint64 {
	f := fnv.New64a()
	for i := range h.Events {
		_, _ = io.WriteString(f, h.Events[i].String())
	}
	return f.Sum64()
}
