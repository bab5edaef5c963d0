// Package cluster is the contract of ownership: which sidecar may work on which shard, and for how long it may believe so.
//
// A member holds one lease. What it claims is its own until it releases it or its lease ends. A claim carries an epoch, greater than
// any epoch the same shard was claimed at before, which the engine enforces at commit: a claim alone never gives exclusion.
//
// All implementations pass clustertest. All methods are safe for concurrent use.
package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// MemberID names a sidecar for the life of its lease.
type MemberID string

// Claim is the ownership of a shard.
type Claim struct {
	Shard engine.ShardID
	Epoch engine.Epoch
}

// Cluster is one member's view.
type Cluster interface {
	// Self is this member. It changes when a lost lease was replaced.
	Self() MemberID

	// Members are the members whose lease is alive, sorted, this one included.
	// Errors: ErrUnavailable.
	Members(ctx context.Context) ([]MemberID, error)

	// Claim takes the shards that nobody owns and returns the claims that this member now holds among those asked for,
	// those it had already included. A shard that another member owns is left out.
	// Errors: ErrUnavailable, ErrLost.
	Claim(ctx context.Context, shards []engine.ShardID) ([]Claim, error)

	// Release gives claims up. A claim that is no longer held is passed over.
	// Errors: ErrUnavailable.
	Release(ctx context.Context, claims []Claim) error

	// Owners tells who owns the shards of a topic's group. Shards that nobody owns are left out.
	// Errors: ErrUnavailable, ErrCorrupt for a value that fails its checksum.
	Owners(ctx context.Context, group string, topic engine.TopicID) (map[engine.ShardID]MemberID, error)

	// Deadline is the instant, on this process's monotonic clock, until which the lease holds whatever happens elsewhere. It is
	// counted from before the last successful renewal was sent. Work on a shard past it is forbidden.
	Deadline() time.Time

	// Lost is closed when the present lease is over: every claim is gone. A new channel replaces it once a new lease is held.
	Lost() <-chan struct{}

	// Close releases all claims and the lease, waiting until ctx is done at most.
	Close(ctx context.Context) error
}

var (
	// ErrUnavailable says that the coordinator could not be asked. Trying again later is right.
	ErrUnavailable = errors.New("cluster: coordinator unavailable")
	// ErrLost says that this member's lease is over.
	ErrLost = errors.New("cluster: lease lost")
	// ErrCorrupt says that a stored value failed its checksum.
	ErrCorrupt = errors.New("cluster: corrupt value")
)
