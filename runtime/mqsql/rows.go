package mqsql

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// row is one message of the outbox that is to be sent.
type row struct {
	seq      int64
	topic    string
	message  string // full name
	key      []byte // nil if it has none
	record   []byte
	attempts int // that were refused
}

// maxPageBytes bounds the records that a relay holds at a time, but for one that is larger by itself.
const maxPageBytes = 8 << 20

// page returns the oldest rows that may be sent now, in the order of their keys. A row that waits for another attempt, or is parked, holds all later ones of its
// key back. Nothing is locked: two calls may return the same.
func (o *Outbox) page(ctx context.Context, limit int) ([]row, error) {
	// The clock is read once: a row that is not due yet when it is looked at must not be due when those behind it are.
	const text = `WITH clock AS MATERIALIZED (SELECT {NOW} AS now)
SELECT o.seq, o.topic, o.message, o.key, o.record, o.attempts FROM clock CROSS JOIN {outbox} o{USE outbox_waiting}
WHERE o.state < 2 AND o.retry_at <= clock.now AND NOT EXISTS (
  SELECT 1 FROM {outbox} h{USE outbox_held}
  WHERE h.topic = o.topic AND h.key = o.key AND h.seq < o.seq AND h.state > 0 AND h.state < 3 AND (h.state = 2 OR h.retry_at > clock.now))
ORDER BY o.seq LIMIT ?`
	rows, err := o.db.QueryContext(ctx, o.options.statement(text), limit)
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	defer rows.Close()
	var all []row
	bytes := 0
	for bytes < maxPageBytes && rows.Next() {
		var r row
		if err := rows.Scan(&r.seq, &r.topic, &r.message, &r.key, &r.record, &r.attempts); err != nil {
			return nil, fmt.Errorf("read the outbox: %w", err)
		}
		bytes += len(r.record)
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return all, nil
}

// lines parts rows into those that have to be sent one after the other: rows of one key of a topic, in order, and each row without a key alone.
func lines(rows []row) [][]row {
	type key struct{ topic, key string }
	places := make(map[key]int)
	var all [][]row
	for _, r := range rows {
		if r.key == nil {
			all = append(all, []row{r})
			continue
		}
		k := key{r.topic, string(r.key)}
		i, ok := places[k]
		if !ok {
			i = len(all)
			places[k] = i
			all = append(all, nil)
		}
		all[i] = append(all[i], r)
	}
	return all
}

// failure is a row that the sidecar refused.
type failure struct {
	seq   int64
	state int // retrying or parked
	wait  time.Duration
	err   error
}

// note writes down what became of rows, all of it or nothing. To note it again changes nothing but the attempts of those that failed.
func (o *Outbox) note(ctx context.Context, done []int64, failed []failure) error {
	if len(done) == 0 && len(failed) == 0 {
		return nil
	}
	err := o.inTx(ctx, func(tx *sql.Tx) error {
		if len(done) > 0 {
			text := `UPDATE {outbox} SET state = 3, error = NULL, done_at = {NOW} WHERE state <> 3 AND seq IN (` + list(len(done), "?") + `)`
			if o.options.retention == 0 {
				text = `DELETE FROM {outbox} WHERE seq IN (` + list(len(done), "?") + `)`
			}
			parameters := make([]any, len(done))
			for i, seq := range done {
				parameters[i] = seq
			}
			if _, err := tx.ExecContext(ctx, o.options.statement(text), parameters...); err != nil {
				return err
			}
		}
		for _, f := range failed {
			const text = `UPDATE {outbox} SET state = ?, error = ?, attempts = attempts + 1, retry_at = {NOW} + ? WHERE state < 2 AND seq = ?`
			_, err := tx.ExecContext(ctx, o.options.statement(text), f.state, f.err.Error(), f.wait.Milliseconds(), f.seq)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note what was sent: %w", err)
	}
	return nil
}

func (o *Outbox) inTx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := o.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// clean deletes rows that were sent longer than the retention ago, at most limit, and returns how many.
func (o *Outbox) clean(ctx context.Context, retention time.Duration, limit int) (int64, error) {
	const text = `DELETE FROM {outbox} WHERE seq IN (SELECT seq FROM {outbox} WHERE state = 3 AND done_at <= {NOW} - ? ORDER BY done_at LIMIT ?)`
	result, err := o.db.ExecContext(ctx, o.options.statement(text), retention.Milliseconds(), limit)
	if err != nil {
		return 0, fmt.Errorf("delete what was sent: %w", err)
	}
	return result.RowsAffected()
}

// Stats are the rows of an outbox.
type Stats struct {
	Waiting  int64         // to be sent, those that wait for another attempt included
	Retrying int64         // refused, to be tried again
	Parked   int64         // refused for good, until somebody retries or discards them
	Sent     int64         // and not deleted yet
	Oldest   time.Duration // age of the oldest that waits; 0 if none does
}

// Stats counts the rows of the outbox. It reads all of them that were not sent.
func (o *Outbox) Stats(ctx context.Context) (Stats, error) {
	const text = `SELECT (SELECT count(*) FROM {outbox} WHERE state < 2), (SELECT count(*) FROM {outbox} WHERE state > 0 AND state < 3 AND state = 1),
  (SELECT count(*) FROM {outbox} WHERE state > 0 AND state < 3 AND state = 2), (SELECT count(*) FROM {outbox} WHERE state = 3),
  (SELECT coalesce({NOW} - min(created_at), 0) FROM {outbox} WHERE state < 2)`
	var s Stats
	var oldest int64
	err := o.db.QueryRowContext(ctx, o.options.statement(text)).Scan(&s.Waiting, &s.Retrying, &s.Parked, &s.Sent, &oldest)
	if err != nil {
		return Stats{}, fmt.Errorf("mqsql: count the outbox: %w", err)
	}
	s.Oldest = max(time.Duration(oldest)*time.Millisecond, 0)
	return s, nil
}

// Parked is a message that the sidecar refused for good. It and all later ones of its key wait for [Outbox.Retry] or [Outbox.Discard].
type Parked struct {
	Seq      int64  // its row
	ID       string // of the message
	Topic    string
	Key      []byte // nil if it has none
	Attempts int
	Error    string
	Created  time.Time // by the database's clock
}

// Parked returns messages that are parked, the oldest first, at most limit, from behind the row with that number, which is 0 at first.
func (o *Outbox) Parked(ctx context.Context, after int64, limit int) ([]Parked, error) {
	const text = `SELECT seq, id, topic, key, attempts, error, created_at FROM {outbox} WHERE state > 0 AND state < 3 AND state = 2 AND seq > ? ORDER BY seq LIMIT ?`
	rows, err := o.db.QueryContext(ctx, o.options.statement(text), after, limit)
	if err != nil {
		return nil, fmt.Errorf("mqsql: list what is parked: %w", err)
	}
	defer rows.Close()
	var all []Parked
	for rows.Next() {
		var p Parked
		var created int64
		if err := rows.Scan(&p.Seq, &p.ID, &p.Topic, &p.Key, &p.Attempts, &p.Error, &created); err != nil {
			return nil, fmt.Errorf("mqsql: list what is parked: %w", err)
		}
		p.Created = time.UnixMilli(created)
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("mqsql: list what is parked: %w", err)
	}
	return all, nil
}

// Retry has parked messages sent again, in their places in the order. It returns how many it found; without numbers these are all.
func (o *Outbox) Retry(ctx context.Context, seqs ...int64) (int64, error) {
	n, err := o.settleParked(ctx, `UPDATE {outbox} SET state = 0, attempts = 0, retry_at = 0 WHERE state > 0 AND state < 3 AND state = 2`, seqs)
	o.Nudge()
	return n, err
}

// Discard deletes parked messages, which are never sent. It returns how many it found.
func (o *Outbox) Discard(ctx context.Context, seqs ...int64) (int64, error) {
	if len(seqs) == 0 {
		return 0, nil
	}
	n, err := o.settleParked(ctx, `DELETE FROM {outbox} WHERE state > 0 AND state < 3 AND state = 2`, seqs)
	o.Nudge()
	return n, err
}

// settleParked runs a statement for the rows with these numbers, or for all.
func (o *Outbox) settleParked(ctx context.Context, text string, seqs []int64) (int64, error) {
	var parameters []any
	if len(seqs) > 0 {
		text += ` AND seq IN (` + list(len(seqs), "?") + `)`
		for _, seq := range seqs {
			parameters = append(parameters, seq)
		}
	}
	result, err := o.db.ExecContext(ctx, o.options.statement(text), parameters...)
	if err != nil {
		return 0, fmt.Errorf("mqsql: change what is parked: %w", err)
	}
	return result.RowsAffected()
}
