package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/typedmq/typedmq/internal/filter"
	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// Reason is why something was refused: stable, for programs.
type Reason string

// The reasons of refusals. Descriptors are also refused for the reasons of package schema, filters for those of package filter.
const (
	BadName           Reason = "BAD_NAME"
	BadRequest        Reason = "BAD_REQUEST"
	BadToken          Reason = "BAD_TOKEN"
	BadHeader         Reason = "BAD_HEADER"
	BadKey            Reason = "BAD_KEY"
	BadDelay          Reason = "BAD_DELAY"
	BadPriority       Reason = "BAD_PRIORITY"
	BadTTL            Reason = "BAD_TTL"
	BadLease          Reason = "BAD_LEASE"
	BadCredits        Reason = "BAD_CREDITS"
	BadPageToken      Reason = "BAD_PAGE_TOKEN"
	BadPartition      Reason = "BAD_PARTITION"
	BadOffset         Reason = "BAD_OFFSET"
	BadTime           Reason = "BAD_TIME"
	BadAnnotation     Reason = "BAD_ANNOTATION"
	KeyMissing        Reason = "KEY_MISSING"
	SchemaMismatch    Reason = "SCHEMA_MISMATCH"
	TopicUnknown      Reason = "TOPIC_UNKNOWN"
	TopicIncompatible Reason = "TOPIC_INCOMPATIBLE"
	GroupUnknown      Reason = "GROUP_UNKNOWN"
	QueueHasGroup     Reason = "QUEUE_HAS_GROUP"
	SeekQueue         Reason = "SEEK_QUEUE"
	MessageUnknown    Reason = "MESSAGE_UNKNOWN"
	RPCUnknown        Reason = "RPC_UNKNOWN"
	MessageTooLarge   Reason = "MESSAGE_TOO_LARGE"
	KeyTooLarge       Reason = "KEY_TOO_LARGE"
	HeadersTooLarge   Reason = "HEADERS_TOO_LARGE"
	BatchTooLarge     Reason = "BATCH_TOO_LARGE"
	BatchEmpty        Reason = "BATCH_EMPTY"
	LeaseLost         Reason = "LEASE_LOST"
	// TransactionConflict says that a transaction's id was used for another one.
	TransactionConflict Reason = "TRANSACTION_CONFLICT"
	SessionLost         Reason = "SESSION_LOST"
	Draining            Reason = "DRAINING"
	DiskFull            Reason = "DISK_FULL"
	DataLoss            Reason = "DATA_LOSS"
	CoordinatorAway     Reason = "COORDINATOR_UNAVAILABLE"
	PartitionAway       Reason = "PARTITION_UNAVAILABLE"
	OutcomeUnknown      Reason = "OUTCOME_UNKNOWN"
	Internal            Reason = "INTERNAL"
	DeadlineExceeded    Reason = "DEADLINE_EXCEEDED"
	Canceled            Reason = "CANCELED"
	DescriptorsMissing  Reason = "DESCRIPTORS_MISSING"
	DedupeConflict      Reason = "DEDUPE_CONFLICT"
	DedupeFull          Reason = "DEDUPE_FULL"
	BackupRunning       Reason = "BACKUP_RUNNING"
	BackupUnsupported   Reason = "BACKUP_UNSUPPORTED"
)

// Error is a refusal: what was asked for did not happen.
type Error struct {
	Reason   Reason
	Field    string // path of the offending field in the request, or empty
	Message  string
	Metadata map[string]string
}

func (e *Error) Error() string { return e.Message }

func (e *Error) with(key string, value any) *Error {
	if e.Metadata == nil {
		e.Metadata = make(map[string]string)
	}
	e.Metadata[key] = fmt.Sprint(value)
	return e
}

func fail(r Reason, field, format string, args ...any) *Error {
	return &Error{Reason: r, Field: field, Message: fmt.Sprintf(format, args...)}
}

// Refusal is the one place that turns the errors of the parts that the broker stands on into refusals.
func Refusal(err error) *Error {
	var (
		own     *Error
		name    *topic.NameError
		faults  topic.Faults
		desc    *schema.Error
		expr    *filter.Error
		corrupt *engine.CorruptError
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &name):
		return fail(BadName, "", "%v", name).with("rule", name.Rule)
	case errors.As(err, &faults):
		first := faults[0]
		return fail(Reason(first.Reason), "descriptors", "%v", faults).with("file", first.File).with("line", first.Line).with("column", first.Column)
	case errors.As(err, &desc):
		return fail(Reason(desc.Reason), "descriptors", "%v", desc)
	case errors.As(err, &expr):
		return fail(Reason(expr.Reason), "filter", "%v", expr)
	case errors.As(err, &corrupt):
		return fail(DataLoss, "", "%v", corrupt).with("log", corrupt.Log).with("offset", corrupt.Offset)
	case errors.Is(err, engine.ErrFull):
		return fail(DiskFull, "", "the disk is full: free space and try again (%v)", err)
	case errors.Is(err, engine.ErrUnknownOutcome):
		return fail(OutcomeUnknown, "", "the write may or may not have happened: %v", err)
	case errors.Is(err, engine.ErrSnapshotOpen):
		return fail(BackupRunning, "", "another backup is being made: wait for its end and try again")
	case errors.Is(err, engine.ErrClosed):
		return fail(Draining, "", "the sidecar is shutting down")
	case errors.Is(err, cluster.ErrUnavailable), errors.Is(err, cluster.ErrLost):
		return fail(CoordinatorAway, "", "the coordinator cannot be asked: try again (%v)", err)
	case errors.Is(err, engine.ErrFenced), errors.Is(err, errNotServing), errors.Is(err, errOwned):
		return fail(PartitionAway, "", "the partition is changing its owner: try again")
	case errors.Is(err, context.DeadlineExceeded):
		return fail(DeadlineExceeded, "", "the deadline passed")
	case errors.Is(err, context.Canceled):
		return fail(Canceled, "", "the call was cancelled")
	}
	return fail(Internal, "", "%v", err)
}

var (
	// errNotServing says that a shard has no machine now.
	errNotServing = errors.New("broker: shard is not serving")
	// errOwned says that another sidecar owns the shard.
	errOwned = errors.New("broker: another sidecar owns the shard")
	// errLeaseOver says that this sidecar may no longer work as an owner.
	errLeaseOver = errors.New("broker: ownership lease is over")
)
