package mqsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
)

// Inbox makes the effect of a message in the service's own database happen once, however often the message is delivered: it notes the message in the transaction that the handler
// works in. It is safe for concurrent use.
//
// A message is known by its group, topic and id. One without an id of its own is known by its place, so if the data of a sidecar is thrown away and places begin anew,
// what was noted has to be thrown away with it ([Inbox.Forget]), or new messages are taken for old ones. What an [Outbox] sends has an id.
type Inbox struct {
	db      *sql.DB
	options *options

	counts struct{ handled, skipped, failed, deleted atomic.Uint64 }
}

// NewInbox returns the inbox in that database. It takes [WithPrefix], [WithWindow] and [WithLogger].
func NewInbox(db *sql.DB, d Dialect, opts ...Option) *Inbox {
	return &Inbox{db: db, options: newOptions(d, opts)}
}

// InboxCounts is what an inbox has done since it was made. As JSON it is fit for expvar.
type InboxCounts struct {
	Handled uint64 `json:"handled"` // messages whose transaction was committed
	Skipped uint64 `json:"skipped"` // messages that had been handled before
	Failed  uint64 `json:"failed"`  // messages whose transaction was rolled back
	Deleted uint64 `json:"deleted"` // rows that were older than the window
}

// Counts returns the counts. It is safe for concurrent use.
func (b *Inbox) Counts() InboxCounts {
	c := &b.counts
	return InboxCounts{Handled: c.handled.Load(), Skipped: c.skipped.Load(), Failed: c.failed.Load(), Deleted: c.deleted.Load()}
}

// TxFrom returns the transaction that the handler with this context works in: it is committed if the handler returns nil, or [mq.Skip], and rolled back otherwise. The
// handler must not end it, nor use it once it has returned. Elsewhere it is nil.
func TxFrom(ctx context.Context) *sql.Tx {
	tx, _ := ctx.Value(txKey{}).(*sql.Tx)
	return tx
}

type txKey struct{}

// Do runs f in a transaction, once for each message: within a handler of single messages it is what [Inbox.Interceptor] does for the handlers of a whole worker. If the
// message was handled before, f is not called and Do returns nil. The handler should return what Do does.
//
//	func (r *rebooking) OnDeparted(ctx context.Context, msg *flightsv1.FlightDeparted) error {
//		return r.inbox.Do(ctx, func(ctx context.Context, tx *sql.Tx) error { … })
//	}
func (b *Inbox) Do(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	meta := mq.MetaFrom(ctx)
	if meta.ID == "" {
		return errors.New("mqsql: the inbox is used outside of a handler of single messages")
	}
	return b.handle(ctx, []message{{meta.Group, meta.Topic, meta.ID}}, call{
		skip:   func(int) {},
		run:    func(ctx context.Context) error { return f(ctx, TxFrom(ctx)) },
		failed: func(int) bool { return false },
	})
}

// Interceptor runs each call of a worker's handlers in a transaction, which the handler gets with [TxFrom]. A message that was handled before is acknowledged, counted as
// skipped by the sidecar, without a call of the handler. What the handler writes outside of the transaction may happen more than once.
//
// A batch is one transaction. What its handler fails one by one is not noted as handled, and so comes again: it must not have an effect, which a savepoint helps with.
// A call that was handled before is answered with an error: the inbox does not keep answers.
// Handlers that settle their messages themselves are refused, since they do so before the transaction is committed.
//
// If the database cannot begin a transaction, or note the message, the message is delivered again after a second without using an attempt. A commit that fails is
// an error like the handler's.
func (b *Inbox) Interceptor() mq.HandlerInterceptor {
	return func(next mq.HandlerFunc) mq.HandlerFunc {
		return func(ctx context.Context, c *mq.Call) error {
			if c.Manual() {
				return fmt.Errorf("mqsql: %s settles its messages itself, which an inbox cannot have: use Inbox.Do nowhere but in handlers that return", c.RPC())
			}
			messages := make([]message, c.Len())
			for i := range messages {
				messages[i] = message{c.Group(), c.Topic(), c.Meta(i).ID}
			}
			return b.handle(ctx, messages, call{
				skip:   func(i int) { c.Fail(i, mq.Skip("handled before")) },
				run:    func(ctx context.Context) error { return next(ctx, c) },
				failed: func(i int) bool { return c.Failure(i) != nil && c.Outcome(i, nil) != mq.OutcomeSkip },
			})
		}
	}
}

// message is what an inbox knows a message by.
type message struct{ group, topic, id string }

// call is one call of a handler.
type call struct {
	skip   func(i int)                     // message i was handled before
	run    func(ctx context.Context) error // handles those that were not
	failed func(i int) bool                // message i was failed on its own, before or by run
}

// unavailable is how long a message waits while the database does not take it.
const unavailable = time.Second

func (b *Inbox) handle(ctx context.Context, messages []message, c call) (err error) {
	tx, fresh, err := b.begin(ctx, messages)
	if err != nil {
		b.options.log.WarnContext(ctx, "the inbox cannot begin a transaction, the message is delivered again later", "group", messages[0].group,
			"topic", messages[0].topic, "id", messages[0].id, "error", err)
		return errors.Join(err, mq.Snooze(unavailable))
	}
	committed := false
	defer func() {
		if !committed { // also after a panic, or the end of the goroutine
			_ = tx.Rollback()
			b.counts.failed.Add(uint64(len(messages)))
		}
	}()
	left := len(messages)
	for i := range messages {
		if !fresh[i] {
			c.skip(i)
			left--
		}
	}
	b.counts.skipped.Add(uint64(len(messages) - left))
	if left == 0 {
		committed = true
		_ = tx.Rollback() // nothing was written
		return nil
	}
	result := c.run(context.WithValue(ctx, txKey{}, tx))
	if outcome := mq.OutcomeOf(result); outcome != mq.OutcomeAck && outcome != mq.OutcomeSkip {
		return result
	}
	var failed []message
	for i := range messages {
		if fresh[i] && c.failed(i) {
			failed = append(failed, messages[i])
			left--
		}
	}
	if err := b.unnote(ctx, tx, failed); err != nil {
		return fmt.Errorf("mqsql: inbox: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("mqsql: inbox: commit: %w", err)
	}
	committed = true
	b.counts.failed.Add(uint64(len(failed)))
	b.counts.handled.Add(uint64(left))
	return result
}

// begin begins the transaction and notes the messages in it. Fresh are those that were not noted before. A transaction that handles one of them at this moment is waited for.
func (b *Inbox) begin(ctx context.Context, messages []message) (_ *sql.Tx, fresh []bool, err error) {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback()
		}
	}()
	// In one order everywhere: two transactions that wait for each other would both have to be given up.
	ordered := slices.Clone(messages)
	slices.SortFunc(ordered, func(x, y message) int { return strings.Compare(x.id, y.id) })
	ordered = slices.Compact(ordered)
	parameters := make([]any, 0, 3*len(ordered))
	for _, m := range ordered {
		parameters = append(parameters, m.group, m.topic, m.id)
	}
	text := `INSERT INTO {inbox} (consumers, topic, id, handled_at) VALUES ` + list(len(ordered), "(?, ?, ?, {NOW})") + ` ON CONFLICT DO NOTHING RETURNING id`
	rows, err := tx.QueryContext(ctx, b.options.statement(text), parameters...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	noted := make(map[string]bool, len(ordered))
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, nil, err
		}
		noted[id] = true
	}
	if err := rows.Err(); err != nil {
		return nil, nil, err
	}
	fresh = make([]bool, len(messages))
	for i, m := range messages {
		fresh[i] = noted[m.id]
		delete(noted, m.id) // a second one of that id is the same message, sent twice
	}
	return tx, fresh, nil
}

// unnote takes back that messages were handled.
func (b *Inbox) unnote(ctx context.Context, tx *sql.Tx, messages []message) error {
	if len(messages) == 0 {
		return nil
	}
	parameters := []any{messages[0].group, messages[0].topic}
	for _, m := range messages {
		parameters = append(parameters, m.id)
	}
	text := `DELETE FROM {inbox} WHERE consumers = ? AND topic = ? AND id IN (` + list(len(messages), "?") + `)`
	_, err := tx.ExecContext(ctx, b.options.statement(text), parameters...)
	return err
}

// Run deletes what is older than the window ([WithWindow]), each minute, until ctx is done, and returns nil. One process of several that share a database is enough. Trouble
// with the database is logged and does not end it.
func (b *Inbox) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if _, err := b.Clean(ctx); err != nil && ctx.Err() == nil {
			b.options.log.Warn("the inbox cannot delete old rows, it tries again", "error", err)
		}
		wait(ctx, cleanEvery)
	}
	return nil
}

// Clean deletes once what is older than the window, and returns how many rows it deleted.
func (b *Inbox) Clean(ctx context.Context) (deleted int64, err error) {
	const text = `DELETE FROM {inbox} WHERE (consumers, topic, id) IN
  (SELECT consumers, topic, id FROM {inbox} WHERE handled_at <= {NOW} - ? ORDER BY handled_at LIMIT ?)`
	for {
		n, err := b.remove(ctx, text, b.options.window.Milliseconds(), cleanAtOnce)
		deleted += n
		if err != nil || n < cleanAtOnce {
			b.counts.deleted.Add(uint64(deleted))
			return deleted, err
		}
	}
}

// Forget deletes what a group has noted of a topic, so that a replay (`mq group seek`) handles it again. It returns how many rows that were.
func (b *Inbox) Forget(ctx context.Context, group, topic string) (int64, error) {
	return b.remove(ctx, `DELETE FROM {inbox} WHERE consumers = ? AND topic = ?`, group, topic)
}

func (b *Inbox) remove(ctx context.Context, text string, parameters ...any) (int64, error) {
	result, err := b.db.ExecContext(ctx, b.options.statement(text), parameters...)
	if err != nil {
		return 0, fmt.Errorf("mqsql: delete from the inbox: %w", err)
	}
	return result.RowsAffected()
}
