package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/etcdcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

// The directories in a data directory.
const (
	storeDir = "store"
	etcdDir  = "etcd"
)

// Finding is one thing that a check found wrong.
type Finding struct {
	// Place is the file, the log or the shard; At is where in it, an offset or a key, empty for all of it.
	Place, At string
	// What is wrong, and what to Do about it.
	What, Do string
}

// String is the finding on one line.
func (f Finding) String() string {
	return engine.Finding{Place: f.Place, At: f.At, What: f.What, Do: f.Do}.String()
}

// CheckSummary is what a check looked at.
type CheckSummary struct {
	Logs, Records, Shards, Values int64
	Bytes                         int64 // of records
	EtcdValues                    int64
	Commit                        uint64 // the last one of the store
	Findings                      int
	Took                          time.Duration
}

// CheckProgress is how far a check is.
type CheckProgress struct {
	Read, Of int64 // bytes; Of is an estimate
}

// Check verifies the data directory of a sidecar that does not run: every checksum, chain, count, index and reference of the store, and etcd's files.
// It writes nothing. What it finds wrong it reports, and goes on.
// Errors: ErrDataDir when the directory cannot be looked at, such as one that is in use; that of ctx.
func Check(ctx context.Context, dir string, report func(Finding), progress func(CheckProgress)) (sum CheckSummary, err error) {
	began := time.Now()
	defer func() { sum.Took = time.Since(began) }()
	var names map[engine.TopicID]string
	found := func(f engine.Finding) {
		sum.Findings++
		if name := names[f.Topic]; name != "" {
			f.Place += " (" + name + ")"
		}
		report(Finding{f.Place, f.At, f.What, f.Do})
	}
	if _, err := os.Stat(filepath.Join(dir, storeDir)); errors.Is(err, fs.ErrNotExist) {
		return sum, fmt.Errorf("%w: %s has no directory %s; name the directory that mq serve has as --data-dir", ErrDataDir, dir, storeDir)
	}
	store, err := pebbleengine.OpenOffline(filepath.Join(dir, storeDir), pebbleengine.Options{})
	var damage *pebbleengine.UnsoundError
	switch {
	case errors.As(err, &damage):
		found(engine.Finding{Place: storeDir, What: damage.Error(), Do: "restore a backup: the sidecar does not start on it"})
	case err != nil:
		return sum, checkError(ctx, err)
	default:
		defer func() { err = errors.Join(err, store.Close()) }()
	}
	// etcd's own lock comes second, as it does when a sidecar starts.
	claims, err := etcdcluster.Check(ctx, filepath.Join(dir, etcdDir), found)
	sum.EtcdValues = claims.Values
	if err != nil {
		return sum, checkError(ctx, err)
	}
	if store == nil {
		return sum, nil
	}
	// First what the broker keeps: then the names of topics are known.
	if names, err = broker.Check(ctx, store, found); err != nil {
		return sum, checkError(ctx, err)
	}
	read, of := int64(0), 2*store.Bytes()
	tally, err := store.Check(ctx, found, func(n int64) {
		read += n
		progress(CheckProgress{read, max(read, of)})
	})
	sum.Logs, sum.Records, sum.Shards, sum.Values, sum.Bytes, sum.Commit = tally.Logs, tally.Records, tally.Shards, tally.Values, tally.Bytes, tally.Commit
	if claims.Epoch > 0 && tally.HighestEpoch > claims.Epoch+epochSlack {
		found(engine.Finding{
			Place: etcdDir, What: fmt.Sprintf("its claims have epochs about %d, and the store has seen %d: it refuses them", claims.Epoch, tally.HighestEpoch),
			Do: "move the directory etcd aside and start the sidecar: it makes a new one above what the store has seen",
		})
	}
	return sum, checkError(ctx, err)
}

// epochSlack is more than how many changes etcd may have in its log alone.
const epochSlack = 1_000_000

func checkError(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, pebbleengine.ErrLocked), errors.Is(err, etcdcluster.ErrLocked):
		return fmt.Errorf("%w: %w; stop the sidecar, or check a backup: mq backup makes one while it runs", ErrDataDir, err)
	case errors.Is(err, pebbleengine.ErrNotAStore):
		return fmt.Errorf("%w: %w; name the directory that mq serve has as --data-dir", ErrDataDir, err)
	}
	return dataDirError(err)
}
