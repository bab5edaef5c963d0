// Package mutant holds the seeded bugs that a simulation has to catch before it is trusted. Without the build tag "mutants" On is a
// constant false, and the compiler leaves out what depends on it.
package mutant

// Mutant is one bug. At its place in the code stands `if mutant.On(…)`.
type Mutant string

// The bugs, named for what is wrong.
const (
	AckBeforeCommit         Mutant = "ack-before-commit"
	NoSyncOnPublish         Mutant = "no-sync-on-publish"
	NoSyncOnAck             Mutant = "no-sync-on-ack"
	EpochUnchecked          Mutant = "epoch-unchecked"
	LeaseOnWallClock        Mutant = "lease-on-wall-clock"
	ExtendAfterExpiry       Mutant = "extend-after-expiry"
	DeadLetterInTwo         Mutant = "dead-letter-in-two-commits"
	DeadLetterErrorLost     Mutant = "dead-letter-error-ignored"
	AttemptsInMemory        Mutant = "attempts-in-memory"
	PositionPastFiltered    Mutant = "position-past-filtered"
	OffsetZeroOnError       Mutant = "offset-zero-on-error"
	RequeueAtTail           Mutant = "requeue-at-tail"
	WatchOnlyLoss           Mutant = "watch-only-lease-loss"
	CachedAfterLoss         Mutant = "cached-after-loss"
	BufferReused            Mutant = "buffer-reused"
	LastBlockSkipped        Mutant = "last-wal-block-skipped"
	OrphanCleanUp           Mutant = "orphan-clean-up"
	TimerLeak               Mutant = "timer-leak"
	OldWALFormat            Mutant = "old-wal-format"
	CounterDrift            Mutant = "counter-drift"
	CreditDrift             Mutant = "credit-drift"
	LostWakeup              Mutant = "lost-wakeup"
	DelayOnWallClock        Mutant = "delay-on-wall-clock"
	DelayLostOnCrash        Mutant = "delay-lost-on-crash"
	TransactionVisibleEarly Mutant = "transaction-visible-early"
	TransactionTwice        Mutant = "transaction-applied-twice"
	DedupeForgotten         Mutant = "dedupe-forgotten-on-restart"
)

// All are the bugs.
var All = []Mutant{
	AckBeforeCommit, NoSyncOnPublish, NoSyncOnAck, EpochUnchecked, LeaseOnWallClock, ExtendAfterExpiry, DeadLetterInTwo, DeadLetterErrorLost,
	AttemptsInMemory, PositionPastFiltered, OffsetZeroOnError, RequeueAtTail, WatchOnlyLoss, CachedAfterLoss, BufferReused, LastBlockSkipped,
	OrphanCleanUp, TimerLeak, OldWALFormat, CounterDrift, CreditDrift, LostWakeup, DelayOnWallClock, DelayLostOnCrash,
	TransactionVisibleEarly, TransactionTwice, DedupeForgotten,
}
