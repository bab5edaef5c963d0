package broker

import (
	"sync"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

const (
	// MaxCredits bounds the messages that may be unsettled at one consumer.
	MaxCredits = 65_536
	// DefaultCreditBytes is how many bytes of records may be unsettled at a consumer that does not say.
	DefaultCreditBytes = 64 << 20
	// MaxCreditBytes bounds what a consumer may say.
	MaxCreditBytes = 1 << 30
)

// budget is what may be unsettled at a session, and what is. Shards lease under its lock, so that together they never lease more.
type budget struct {
	sync.Mutex
	messages, bytes       int64 // that may be unsettled
	outMessages, outBytes int64 // that are
	// suspect says that it has a message that several consumers vanished with. It gets one of those at a time, so that the next loss tells which
	// it was.
	suspect bool
	// freed counts how often there was more room than before.
	freed uint64
}

// checkCredits holds credits against their bounds.
func checkCredits(messages int, bytes int64) *Error {
	if messages < 0 || messages > MaxCredits {
		return fail(BadCredits, "credits", "%d credits: must be 0 to %d", messages, MaxCredits).with("bound", MaxCredits)
	}
	if bytes < 0 || bytes > MaxCreditBytes {
		return fail(BadCredits, "credit_bytes", "%d bytes of credit: must be 1 to %d, or 0 for the default", bytes, MaxCreditBytes).with("bound", MaxCreditBytes)
	}
	return nil
}

// SetCredits changes how many messages, and how many bytes of records, may be unsettled here. Bytes of 0 leave them. What is unsettled
// already stays so. Error: *Error of reason BadCredits.
func (s *Session) SetCredits(messages int, bytes int64) error {
	if err := checkCredits(messages, bytes); err != nil {
		return err
	}
	s.budget.Lock()
	s.budget.messages = int64(messages)
	if bytes > 0 {
		s.budget.bytes = bytes
	}
	s.budget.freed++
	s.budget.Unlock()
	s.group.creditsFree(s.room())
	return nil
}

// lease lets the machine lease up to most messages to a session, within its credits. A session that has nothing gets one message
// however large it is: it would wait for ever otherwise.
func (sv *serving) lease(now dispatch.Instant, j *joined, most int) (leased int) {
	j.budget.Lock()
	defer j.budget.Unlock()
	j.freed = j.budget.freed
	messages, bytes := j.budget.messages-j.budget.outMessages, j.budget.bytes-j.budget.outBytes
	if messages <= 0 || bytes <= 0 && j.budget.outMessages > 0 || j.unread() || j.over() {
		return 0
	}
	sv.grants = dispatch.Grant{
		Session: j.ID, Messages: min(most, int(messages)), Bytes: bytes, Oversize: j.budget.outMessages == 0, Suspect: !j.budget.suspect,
	}
	g := &sv.grants
	_ = sv.machine.Grant(now, g)
	j.leases += g.Used
	j.bytes += g.UsedBytes
	j.budget.outMessages += int64(g.Used)
	j.budget.outBytes += g.UsedBytes
	if g.UsedSuspect {
		j.suspect, j.budget.suspect = true, true
	}
	return g.Used
}

// over tells whether nothing more is leased to the session.
func (s *Session) over() bool {
	select {
	case <-s.gone:
		return true
	default:
		return s.group.broker.draining.Load()
	}
}

// roomSince tells whether the session got room after lease had looked at it.
func (j *joined) roomSince() bool {
	j.budget.Lock()
	defer j.budget.Unlock()
	return j.budget.freed != j.freed
}

// settled gives back what the budget counts for this partition beyond what is still leased.
func (j *joined) settled(leases int, bytes int64, suspect bool) {
	if leases == j.leases && bytes == j.bytes && suspect == j.suspect {
		return
	}
	j.budget.Lock()
	if mutant.On(mutant.CreditDrift) && j.leases-leases > 2 {
		j.budget.outMessages++
	}
	j.budget.outMessages -= int64(j.leases - leases)
	j.budget.outBytes -= j.bytes - bytes
	if j.suspect {
		j.budget.suspect = suspect
	}
	j.budget.freed++
	j.budget.Unlock()
	freed := j.leases - leases
	j.leases, j.bytes, j.suspect = leases, bytes, suspect
	j.group.creditsFree(max(1, freed))
}
