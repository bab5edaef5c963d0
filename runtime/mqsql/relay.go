package mqsql

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/typedmq/typedmq/runtime/mq"
)

// Relay sends what is in an outbox. Every process of a service can run one: one of them sends at a time, the others wait to take its place.
type Relay struct {
	outbox  *Outbox
	options options
	to      mq.Sender
	started atomic.Bool
	noTx    atomic.Bool // the sidecar has no transactions

	counts struct{ sent, duplicates, parked, retried, unanswered, deleted, leases atomic.Uint64 }
}

// Relay returns a relay to a client. It takes [WithRelayName], [WithLease], [WithPoll], [WithBackoff], [WithSendTimeout], [WithRetention],
// [WithConcurrency] and [WithLogger]. The client is not closed by it.
func (o *Outbox) Relay(to mq.Sender, opts ...Option) *Relay {
	r := &Relay{outbox: o, options: *o.options, to: to}
	r.options.add(opts)
	if r.options.owner == "" {
		r.options.owner = newID()
	}
	return r
}

// RelayCounts is what a relay has done since it was made. As JSON it is fit for expvar.
type RelayCounts struct {
	Sent       uint64 `json:"sent"`       // messages that the sidecar has
	Duplicates uint64 `json:"duplicates"` // of those, what it had before, by its dedupe
	Retried    uint64 `json:"retried"`    // refusals of messages that are tried again
	Parked     uint64 `json:"parked"`     // messages that were refused for good
	Unanswered uint64 `json:"unanswered"` // messages whose outcome is not known, which are sent again
	Deleted    uint64 `json:"deleted"`    // rows that were kept for their time
	Leases     uint64 `json:"leases"`     // how often it became the one that sends
}

// Counts returns the counts. It is safe for concurrent use.
func (r *Relay) Counts() RelayCounts {
	c := &r.counts
	return RelayCounts{
		Sent: c.sent.Load(), Duplicates: c.duplicates.Load(), Retried: c.retried.Load(), Parked: c.parked.Load(),
		Unanswered: c.unanswered.Load(), Deleted: c.deleted.Load(), Leases: c.leases.Load(),
	}
}

// grace is how long a relay that is told to stop waits for the answers to what it has sent, and to note them.
const grace = 5 * time.Second

// Run sends what is committed until ctx is done, then waits up to some seconds for the answers to what is on its way, notes them, gives its place to another
// relay and returns nil. It goes on whatever the database or the sidecar answer, and logs what they do; only a client that was closed ends
// it, with [mq.ErrClosed]. A relay runs once.
//
// No transaction is open and no row is locked while messages are sent. A message that was sent and not noted, because the process was killed
// in between, is sent again, under the same id.
//
// A message that the sidecar refuses for what it is, such as one that is too large for its topic, is parked with the error: it and later ones of its key wait for
// [Outbox.Retry] or [Outbox.Discard], others do not. A message that is refused for another reason, such as a full disk, is tried again, and its key waits for that.
func (r *Relay) Run(ctx context.Context) error {
	if r.started.Swap(true) {
		return errors.New("mqsql: the relay was run before")
	}
	nudged, stop := r.outbox.listen()
	defer stop()
	pause := pauses{first: 50 * time.Millisecond, most: max(r.options.poll, time.Second)}
	for ctx.Err() == nil {
		l, err := r.outbox.claim(ctx, r.options.owner, r.options.lease)
		switch {
		case err != nil && ctx.Err() == nil:
			r.complain("the relay cannot begin", err, &pause)
			pause.wait(ctx, nil)
		case l == nil:
			wait(ctx, min(r.options.poll, r.options.lease/3))
		default:
			pause.reset()
			r.counts.leases.Add(1)
			if err := r.lead(ctx, l, nudged); err != nil {
				return fmt.Errorf("mqsql: relay: %w", err)
			}
		}
	}
	return nil
}

// lead sends until ctx ends or the lease is lost. Its error is one that ends Run.
func (r *Relay) lead(ctx context.Context, l *lease, nudged <-chan struct{}) error {
	leading, lose := context.WithCancelCause(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { l.keep(leading, lose) })
	// What is on its way when leading ends may be answered, and is noted.
	finishing, cut := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(leading, func() { time.AfterFunc(grace, cut) })
	defer func() {
		lose(nil)
		keeper.Wait()
		if !errors.Is(context.Cause(leading), errDeposed) {
			_ = l.release(finishing) // else it ends by itself
		}
		stop()
		cut()
	}()
	quick := pauses{first: 2 * time.Millisecond, most: r.options.poll}
	trouble := pauses{first: 50 * time.Millisecond, most: max(r.options.poll, time.Second)}
	var cleaned time.Time
	for leading.Err() == nil {
		moved, err := r.pass(leading, finishing)
		if err == nil && time.Since(cleaned) >= cleanEvery {
			cleaned = time.Now()
			err = r.clean(leading)
		}
		if moved {
			trouble.reset()
			quick.reset()
		}
		switch {
		case errors.Is(err, mq.ErrClosed):
			return mq.ErrClosed
		case err != nil && leading.Err() == nil:
			r.complain("the relay is in trouble, it tries again", err, &trouble)
			trouble.wait(leading, nil)
		case !moved && quick.wait(leading, nudged):
			quick.reset()
			wait(leading, time.Millisecond) // more may be coming, and it bounds what a busy service asks of its database
		}
	}
	if cause := context.Cause(leading); ctx.Err() == nil {
		r.options.log.Warn("the relay lost its lease", "name", r.options.owner, "error", cause)
	}
	return nil
}

// pass sends what may be sent now, as far as one page goes, and notes what became of it. Moved is whether anything did.
func (r *Relay) pass(leading, finishing context.Context) (moved bool, err error) {
	rows, err := r.outbox.page(leading, r.options.page)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	answers := make(chan answer)
	var senders sync.WaitGroup
	senders.Go(func() {
		places := make(chan struct{}, r.options.lines)
		for _, line := range lines(rows) {
			places <- struct{}{}
			senders.Go(func() {
				r.sendLine(leading, finishing, line, answers)
				<-places
			})
		}
	})
	go func() {
		senders.Wait()
		close(answers)
	}()
	var done []int64
	var failed []failure
	for a := range answers {
		switch {
		case a.err == nil:
			done = append(done, a.row.seq)
		case a.final():
			failed = append(failed, failure{a.row.seq, parked, 0, a.err})
			r.counts.parked.Add(1)
			r.options.log.Error("a message of the outbox was refused and is parked", "seq", a.row.seq, "topic", a.row.topic, "error", a.err)
		case a.refused():
			failed = append(failed, failure{a.row.seq, retrying, retryIn(a.row.attempts, r.options.firstRetry, r.options.lastRetry), a.err})
			r.counts.retried.Add(1)
			r.options.log.Warn("a message of the outbox was refused, it is tried again", "seq", a.row.seq, "topic", a.row.topic,
				"attempt", a.row.attempts+1, "error", a.err)
		default:
			r.counts.unanswered.Add(1)
			err = a.err
		}
	}
	r.counts.sent.Add(uint64(len(done)))
	// What is not noted is sent again, so this is worth some patience, whoever leads meanwhile.
	trouble := pauses{first: 20 * time.Millisecond, most: time.Second}
	for {
		noted := r.outbox.note(finishing, done, failed)
		if noted == nil {
			return len(done)+len(failed) > 0, err
		}
		if finishing.Err() != nil {
			return false, noted
		}
		r.complain("the relay cannot note what it has sent", noted, &trouble)
		trouble.wait(finishing, nil)
	}
}

// answer is what became of sending one row.
type answer struct {
	row row
	err error
}

// committer is a sender that can send several messages all or none, as an [mq.Client] can.
type committer interface {
	Tx(ctx context.Context, f func(tx *mq.Tx) error) error
}

// Rows of one key that go together, all or none, so that none is there before an earlier one that is refused. Fewer are sent one after the other, each in a frame with messages of
// other keys.
const (
	leastTogether     = 8
	mostTogether      = 200
	mostBytesTogether = 1 << 20
)

// sendLine sends rows in their order, up to the first that the sidecar does not take, or until the relay does not lead any more.
func (r *Relay) sendLine(leading, finishing context.Context, line []row, answers chan<- answer) {
	apart := false
	for len(line) > 0 && leading.Err() == nil {
		n := 1
		if !apart {
			n = r.together(line)
		}
		var err error
		if n > 1 {
			err = r.sendTogether(finishing, line[:n])
			// One of them was refused, and who knows which.
			if refused := (answer{line[0], err}); err != nil && refused.refused() {
				apart = true
				continue
			}
		} else {
			err = r.send(finishing, r.to, line[0])
		}
		if err != nil {
			answers <- answer{line[0], err}
			return
		}
		for _, row := range line[:n] {
			answers <- answer{row, nil}
		}
		line = line[n:]
	}
}

// together returns how many of the rows are to be sent together.
func (r *Relay) together(line []row) int {
	if _, ok := r.to.(committer); !ok || r.noTx.Load() {
		return 1
	}
	n, bytes := 0, 0
	for n < min(len(line), mostTogether) && bytes+len(line[n].record) <= mostBytesTogether {
		bytes += len(line[n].record)
		n++
	}
	if n < leastTogether {
		return 1
	}
	return n
}

// sendTogether sends rows in one transaction of the sidecar.
func (r *Relay) sendTogether(ctx context.Context, rows []row) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.timeout)
	defer cancel()
	var tx *mq.Tx
	err := r.to.(committer).Tx(ctx, func(t *mq.Tx) error {
		tx = t
		for _, row := range rows {
			if err := r.send(ctx, t, row); err != nil {
				return err
			}
		}
		return nil
	})
	var e *mq.Error
	switch {
	case errors.As(err, &e) && e.Code == connect.CodeUnimplemented:
		r.noTx.Store(true) // an older sidecar
	case err == nil:
		for _, receipt := range tx.Receipts() {
			r.note(receipt)
		}
	}
	return err
}

// send sends one row.
func (r *Relay) send(ctx context.Context, to mq.Sender, row row) error {
	message, err := descriptor(row.message)
	if err != nil {
		return err
	}
	publication, err := mq.NewEncodedPublication(row.topic, message, row.record)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.options.timeout)
	defer cancel()
	receipt, err := to.Send(ctx, publication)
	if err == nil {
		r.note(receipt) // in a transaction there is nothing to note yet
	}
	return err
}

func (r *Relay) note(receipt mq.Receipt) {
	if receipt.Duplicate {
		r.counts.duplicates.Add(1)
	}
}

// cleanEvery is how often rows that were sent are deleted, cleanAtOnce how many in one statement.
const (
	cleanEvery  = time.Minute
	cleanAtOnce = 1000
)

// clean deletes what was kept for its time.
func (r *Relay) clean(ctx context.Context) error {
	if r.options.retention <= 0 {
		return nil
	}
	for {
		n, err := r.outbox.clean(ctx, r.options.retention, cleanAtOnce)
		r.counts.deleted.Add(uint64(max(n, 0)))
		if err != nil || n < cleanAtOnce {
			return err
		}
	}
}

// complain logs the first of a row of troubles, and then ever fewer.
func (r *Relay) complain(what string, err error, p *pauses) {
	if p.loud() {
		r.options.log.Warn(what, "name", r.options.owner, "failures", p.n+1, "error", err)
	}
}
