package mqsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// lease is the right of one relay to send what is in the outbox, as long as it renews it: a row of its own table. It is what keeps keys in order
// where several processes run relays. Nothing depends on it being exclusive to the instant: a relay that was paused while it sent a message, and goes on
// when another one has taken over, sends what the other has sent before it, so that no message comes before an earlier one of its key for the first time.
type lease struct {
	outbox *Outbox
	owner  string
	epoch  int64
	length time.Duration
	ends   time.Time // by this process's monotonic clock, from before it was asked for
}

const leaseName = "outbox"

// claim returns the lease, or nil if another relay has it.
func (o *Outbox) claim(ctx context.Context, owner string, length time.Duration) (*lease, error) {
	asked := time.Now()
	// Who waits should not write: in SQLite there is one writer at a time.
	const look = `SELECT owner, expires_at - {NOW} FROM {relay} WHERE name = ?`
	var other string
	var left int64
	err := o.db.QueryRowContext(ctx, o.options.statement(look), leaseName).Scan(&other, &left)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return nil, fmt.Errorf("look for another relay: %w", err)
	case other != owner && left > 0:
		return nil, nil
	}
	const take = `INSERT INTO {relay} AS r (name, owner, epoch, expires_at) VALUES (?, ?, 1, {NOW} + ?)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = r.epoch + 1, expires_at = excluded.expires_at
WHERE r.owner = excluded.owner OR r.expires_at <= {NOW} RETURNING epoch`
	l := &lease{outbox: o, owner: owner, length: length, ends: asked.Add(length)}
	err = o.db.QueryRowContext(ctx, o.options.statement(take), leaseName, owner, length.Milliseconds()).Scan(&l.epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("become the relay: %w", err)
	}
	return l, nil
}

var errDeposed = errors.New("another relay has taken over")

// keep renews the lease until ctx ends, and calls lose when it could not be.
func (l *lease) keep(ctx context.Context, lose context.CancelCauseFunc) {
	end := time.AfterFunc(time.Until(l.ends), func() { lose(errors.New("the lease could not be renewed in time")) })
	defer end.Stop()
	for pause := l.length / 3; ; {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		asked := time.Now()
		kept, err := l.set(ctx, l.length)
		switch {
		case err != nil:
			pause = l.length / 10 // there is still time
		case !kept:
			lose(errDeposed)
			return
		default:
			pause = l.length / 3
			end.Reset(time.Until(asked.Add(l.length)))
		}
	}
}

// release lets others have the lease at once.
func (l *lease) release(ctx context.Context) error {
	_, err := l.set(ctx, 0)
	return err
}

// set sets what is left of the lease, if it is still this one.
func (l *lease) set(ctx context.Context, left time.Duration) (bool, error) {
	const text = `UPDATE {relay} SET expires_at = {NOW} + ? WHERE name = ? AND owner = ? AND epoch = ?`
	result, err := l.outbox.db.ExecContext(ctx, l.outbox.options.statement(text), left.Milliseconds(), leaseName, l.owner, l.epoch)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}
