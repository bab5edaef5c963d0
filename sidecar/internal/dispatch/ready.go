package dispatch

import "time"

// Ready is the work that Step calls made. Save must be durable before Deliver is sent and before any call that
// led to it is answered. Its slices are reused by the Partition: they are valid until the next Step.
type Ready struct {
	Save    Save
	Deliver []Delivery
}

// Save is a change of what is durable, to be written all or not at all.
type Save struct {
	// Needed says that there is anything to write.
	Needed bool
	// Reset says that the blocks and failures of earlier saves are void, before anything else of this one applies.
	Reset bool
	// Floor is the position now.
	Floor Offset
	// FloorMoved says that it is another than the last one told.
	FloorMoved bool
	// Blocks replace what was saved for the same index.
	Blocks []Block
	// DropBlocks are the indexes of saved blocks that are below the floor now.
	DropBlocks []int64
	// Failures replace what was saved for the same offset, the last one winning.
	Failures []Failure
	// DropFailures are the offsets of failures that are settled now, to be dropped after Failures was applied.
	DropFailures []Offset
	// DropRedriven are the offsets of redriven messages that are settled now.
	DropRedriven []Offset
	// Burials are messages that become dead letters.
	Burials []Burial
}

// Delivery is a lease that was given.
type Delivery struct {
	Session SessionID
	Offset  Offset
	Lease   uint32
	// Attempt is 1 more than the attempts that were counted.
	Attempt uint32
	// Redriven says that the message was a dead letter, so that its record may no longer be in the log.
	Redriven bool
}

// Reason says why a message became a dead letter.
type Reason uint8

// The reasons.
const (
	AttemptsSpent Reason = iota
	Permanent
	Undecodable
	Expired
	ConsumersLost
)

func (r Reason) String() string {
	return [...]string{"attempts_spent", "permanent", "undecodable", "expired", "consumers_lost"}[r]
}

// Burial is a message that becomes a dead letter.
type Burial struct {
	Offset     Offset
	Reason     Reason
	Attempts   uint32
	FirstError string
	LastError  string
	// Redriven says that it has been a dead letter before.
	Redriven bool
	// Held says that it holds its key: the snapshot has to list it in Held.
	Held bool
}

// Failure is what has to be known of an unsettled message across restarts.
type Failure struct {
	Offset   Offset
	Attempts uint32
	// Losses counts the sessions that vanished with the message.
	Losses     uint32
	FirstError string
	LastError  string
	// Due is when the message may be leased again, and Wait the time that it ends.
	Due  Instant
	Wait time.Duration
}

// Block is what is settled among the BlockSize offsets from Index × BlockSize on.
type Block struct {
	Index   int64
	Settled Bitmap
}

// Snapshot is the durable state of a partition: the sum of all saves.
type Snapshot struct {
	Floor    Offset
	Blocks   []Block
	Failures []Failure
	Redriven []Message
	// Held are the dead letters that hold their key.
	Held []Message
	// Begin is the log's: it has no message below.
	Begin Offset
}

// Ready returns the work since the last call. Changes that nobody waits for (filtered messages, chiefly) stay inside until there
// are others or flush is set.
func (p *Partition) Ready(flush bool) Ready {
	r := &p.pending
	if p.urgent || flush && p.dirty {
		p.settleBlocks()
		r.Save.Needed = true
		r.Save.Floor = p.floor
		r.Save.FloorMoved = p.moved
		p.dirty, p.urgent, p.moved = false, false, false
	}
	out := *r
	if out.Save.Needed {
		// What only a Save tells is handed out with one.
		r.Save = Save{
			Blocks: out.Save.Blocks[:0], DropBlocks: out.Save.DropBlocks[:0], Failures: out.Save.Failures[:0],
			DropFailures: out.Save.DropFailures[:0], DropRedriven: out.Save.DropRedriven[:0], Burials: out.Save.Burials[:0],
		}
	} else {
		out.Save = Save{Floor: p.floor}
	}
	r.Deliver = out.Deliver[:0]
	return out
}

// Dirty says that Ready(true) has something to save.
func (p *Partition) Dirty() bool { return p.dirty }

// changed notes that there is something to save; urgent if a caller or a delivery must wait for it.
func (p *Partition) changed(urgent bool) {
	p.dirty = true
	p.urgent = p.urgent || urgent
}
