package mqsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/typedmq/typedmq/runtime/mq"
)

// Outbox keeps messages in a table of the service's own database until they are sent: in the same transaction as what they tell of. It is safe for concurrent use.
type Outbox struct {
	db      *sql.DB
	options *options
	insert  string

	mu struct {
		sync.Mutex
		relays map[chan struct{}]bool // of capacity 1; of this process
	}
}

// NewOutbox returns the outbox in that database. It takes [WithPrefix] and [WithLogger], and as defaults of its relays what those take.
func NewOutbox(db *sql.DB, d Dialect, opts ...Option) *Outbox {
	o := &Outbox{db: db, options: newOptions(d, opts)}
	o.insert = o.options.statement(`INSERT INTO {outbox} (id, topic, message, key, record, created_at) VALUES (?, ?, ?, ?, ?, {NOW})`)
	o.mu.relays = make(map[chan struct{}]bool)
	return o
}

// On returns what a publisher sends to for its messages to be part of the transaction: with it they are sent or, if it is rolled back, never were.
//
//	_, err := flightsv1mq.NewFlightEventsPublisher(outbox.On(tx)).Departed(ctx, msg)
//
// A publish checks the message as a client does, writes a row and returns. What only the sidecar can refuse is parked by the relay ([Outbox.Parked]). The receipt has the
// message's ID, which is a random one unless the message has its own, and Offset -1: its place is not known yet. The same id is sent whenever the
// message is sent: a topic with dedupe stores it once, and an [Inbox] handles it once.
//
// Messages of one key are sent in the order in which they were written, if the transactions that wrote them came one after the other: two that
// overlap and do not wait for each other, for a row that both change, have no order. A delay counts from when the message is sent.
func (o *Outbox) On(tx *sql.Tx) mq.Sender { return writer{o, tx} }

// writer writes into an outbox.
type writer struct {
	outbox *Outbox
	tx     *sql.Tx
}

// Send writes the row of a message.
func (w writer) Send(ctx context.Context, p *mq.Publication) (mq.Receipt, error) {
	if w.tx == nil {
		return mq.Receipt{}, errors.New("mqsql: there is no transaction to write the message in")
	}
	record := p.Record()
	if record.ID == "" {
		record.ID = newID()
	}
	encoded, err := p.MarshalRecord()
	if err != nil {
		return mq.Receipt{}, err
	}
	var key any // NULL, which is like no other, for a message without a key
	if len(record.Key) > 0 {
		key = record.Key
	}
	message := string(p.Message().ProtoReflect().Descriptor().FullName())
	if _, err := w.tx.ExecContext(ctx, w.outbox.insert, record.ID, p.Topic(), message, key, encoded); err != nil {
		return mq.Receipt{}, fmt.Errorf("mqsql: write to the outbox: %w", err)
	}
	w.outbox.Nudge() // it looks for a while, since this is not committed yet
	return mq.Receipt{ID: record.ID, Topic: p.Topic(), Offset: -1}, nil
}

// Nudge tells this process's relays that something was committed, or is going to be soon. Publishing does so by itself; a call after the commit
// can spare a message some milliseconds. It does not block.
func (o *Outbox) Nudge() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for relay := range o.mu.relays {
		select {
		case relay <- struct{}{}:
		default:
		}
	}
}

// listen returns a channel that Nudge sends to until stop is called.
func (o *Outbox) listen() (nudged <-chan struct{}, stop func()) {
	relay := make(chan struct{}, 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.relays[relay] = true
	return relay, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.mu.relays, relay)
	}
}
