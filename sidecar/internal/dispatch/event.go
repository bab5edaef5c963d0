package dispatch

import (
	"errors"
	"time"
)

// Event is something that happened to a partition: one of the types of this file.
type Event interface{ event() }

// Grown says that the log is durable up to End.
type Grown struct{ End Offset }

// Fetched hands over messages of the log, in order, in answer to Want: all that exist from the offset asked for to Next.
type Fetched struct {
	Messages []Message
	Next     Offset
}

// Join says that a consumer is there. Its leases end at Until unless a Heartbeat moves that. Joining again replaces both values.
type Join struct {
	Session SessionID
	Until   Instant
	// Once says that the session gets no further Grant and is forgotten with its last lease.
	Once bool
}

// Leave says that a consumer is gone. What it had leased is ready again, and no attempt is counted. With Crashed it vanished: a loss is
// counted, since a message that kills its consumer cannot be told from one that did not.
type Leave struct {
	Session SessionID
	Crashed bool
}

// Heartbeat moves the end of a session's leases. It ends nothing that is due: the caller hands over all heartbeats first, then other events.
type Heartbeat struct {
	Session SessionID
	Until   Instant
}

// Grant lets the machine lease up to Messages messages to a session now, of up to Bytes together. The fields below Oversize tell what it did.
type Grant struct {
	Session  SessionID
	Messages int
	Bytes    int64 // 0 for no bound
	// Suspect lets one of the messages be one that several sessions vanished with. The caller sets it for one Grant at a time in all of the
	// session's partitions, so that the next loss tells which message it is.
	Suspect bool
	// Oversize lets the first message exceed Bytes, so that a session that has nothing can get a large one too.
	Oversize  bool
	Used      int
	UsedBytes int64
	// UsedSuspect says that such a message was leased.
	UsedSuspect bool
	// Full says that a message was left behind because it did not fit.
	Full bool
}

// Ack settles messages. Settled counts those that it did; Refused lists the tokens that no lease goes with. The others were settled by the same
// lease before.
type Ack struct {
	Tokens  []Token
	Settled int
	Refused []Token
}

// Nack says that an attempt came to nothing. It is counted.
type Nack struct {
	Token Token
	Error string
	// After replaces the wait of the retry policy if it is not negative.
	After time.Duration
}

// Reject says that no further attempt is of use.
type Reject struct {
	Token  Token
	Error  string
	Reason Reason
}

// Snooze asks for the message again after a while. No attempt is counted.
type Snooze struct {
	Token Token
	Delay time.Duration
}

// Release gives a message back unprocessed. No attempt is counted.
type Release struct{ Token Token }

// Extend moves the end of one lease, independent of its session from then on.
type Extend struct {
	Token Token
	Until Instant
}

// Redrive gives dead letters back to the group, as never attempted. One that holds its key goes before all that waits for it.
type Redrive struct{ Messages []Message }

// Discard says that dead letters are gone, so that they hold no key any longer.
type Discard struct{ Offsets []Offset }

// Seek moves the position. All leases end, nothing is known of any attempt, and messages from To on are delivered, again or for the first time.
// Redriven messages below To stay on their way.
type Seek struct{ To Offset }

// Trimmed says that the log has no message below Begin any more. Those that are not leased are settled; Lost counts them. It does not count
// offsets that were never fetched.
type Trimmed struct {
	Begin Offset
	Lost  int64
}

// Tick says that time has passed.
type Tick struct{}

func (Grown) event()     {}
func (*Fetched) event()  {}
func (Join) event()      {}
func (Leave) event()     {}
func (Heartbeat) event() {}
func (*Grant) event()    {}
func (*Ack) event()      {}
func (Nack) event()      {}
func (Reject) event()    {}
func (Snooze) event()    {}
func (Release) event()   {}
func (Extend) event()    {}
func (Redrive) event()   {}
func (Discard) event()   {}
func (Seek) event()      {}
func (*Trimmed) event()  {}
func (Tick) event()      {}

// Token is the proof of a lease.
type Token struct {
	Epoch  uint64
	Offset Offset
	// Lease counts the leases of the message under this owner, from 1. It differs from the attempt number, which
	// does not grow when a message is released.
	Lease uint32
}

var (
	// ErrLeaseLost says that the token's lease is over: it expired, was settled, or belongs to another owner.
	ErrLeaseLost = errors.New("dispatch: lease lost")
	// ErrUnknownSession says that the session is not there, or no longer.
	ErrUnknownSession = errors.New("dispatch: unknown session")
)
