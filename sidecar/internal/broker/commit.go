package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Bounds of a transaction.
const (
	// TransactionIDSize is the length of a transaction's id.
	TransactionIDSize = 16
	// MaxTransactionItems bounds the records, tokens and ids of a transaction, together.
	MaxTransactionItems = 10_000
	// MaxTransactionBytes bounds their encodings, together.
	MaxTransactionBytes = 16 << 20
)

// Transaction is what one Commit does, all of it or nothing.
type Transaction struct {
	// ID is TransactionIDSize random bytes.
	ID        []byte
	Publishes []Batch
	Acks      []Acks
	Cancels   []Cancellation
}

// Acks are deliveries of a subscription that are done: tokens of TokenSize bytes each, joined.
type Acks struct {
	Group, Topic string
	Tokens       []byte
}

// Cancellation is scheduled messages of a topic that are taken back: all of each id.
type Cancellation struct {
	Topic string
	IDs   []string
}

// Committed is what a transaction did. Lists are in the order of the transaction's.
type Committed struct {
	Placements []Placement // none of them is refused
	Canceled   []CancelResult
	// Duplicate says that the transaction was applied before: this is its first answer.
	Duplicate bool
}

// CancelResult is what became of a Cancellation.
type CancelResult struct {
	N int
	// Unknown are the ids that no scheduled message had.
	Unknown []string
}

// Commit publishes, schedules, acknowledges and cancels, all of it or nothing, and returns when that is durable. Nothing of a transaction is visible before
// all of it is. What is cancelled was scheduled before the transaction, not by it. It keeps no reference to the transaction after it has returned.
//
// A transaction whose id is known, as it is for at least ten minutes after it was applied, also across restarts, is not applied again: Commit returns the first
// answer. One that is under way under the same id is waited for. Once begun a transaction is brought to its end, whatever becomes of ctx.
//
// Errors, after all of which but one nothing was applied: those of Publish and Settle for any item, with Field naming the item; LeaseLost if any lease is
// over or its message was settled; BatchEmpty, BatchTooLarge; TransactionConflict if the id was used for something else; Draining. OutcomeUnknown
// says that it may have been applied: committing it again under its id tells.
func (b *Broker) Commit(ctx context.Context, t Transaction) (Committed, error) {
	tx, refused := b.begin(t)
	if refused != nil {
		return Committed{}, refused
	}
	if err := ctx.Err(); err != nil {
		return Committed{}, Refusal(err)
	}
	first := b.transactions.enter(tx)
	if first == tx {
		work := context.WithoutCancel(ctx)
		if !b.goUnlessClosed(func() { tx.run(work) }) {
			tx.end(Committed{}, fail(Draining, "", "the sidecar is shutting down"))
		}
	} else if first.fingerprint != tx.fingerprint {
		return Committed{}, conflict()
	}
	select {
	case <-first.done:
	case <-ctx.Done():
		return Committed{}, Refusal(fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, ctx.Err()))
	}
	if first.err != nil {
		return Committed{}, Refusal(first.err)
	}
	answer := first.answer
	answer.Duplicate = answer.Duplicate || first != tx
	return answer, nil
}

func conflict() *Error {
	return fail(TransactionConflict, "transaction_id", "the transaction id was used for another transaction")
}

// begin checks a transaction and takes in all that is needed of it. It changes nothing.
func (b *Broker) begin(t Transaction) (*transaction, *Error) {
	if len(t.ID) != TransactionIDSize {
		return nil, fail(BadRequest, "transaction_id", "a transaction id of %d bytes: must be %d", len(t.ID), TransactionIDSize).with("bound", TransactionIDSize)
	}
	if n := t.bytes(); n > MaxTransactionBytes {
		return nil, fail(BatchTooLarge, "", "a transaction of %d bytes: at most %d are allowed", n, MaxTransactionBytes).with("bound", MaxTransactionBytes)
	}
	if n := len(t.Publishes) + len(t.Acks) + len(t.Cancels); n > MaxTransactionItems { // before memory is spent on each
		return nil, fail(BatchTooLarge, "", "a transaction of %d lists: at most %d are allowed", n, MaxTransactionItems).with("bound", MaxTransactionItems)
	}
	if b.draining.Load() && len(t.Acks) == 0 { // what acknowledges is the end of something
		return nil, fail(Draining, "", "the sidecar is shutting down")
	}
	tx := &transaction{broker: b, id: transactionID(t.ID), fingerprint: t.fingerprint(), done: make(chan struct{})}
	if err := tx.takePublishes(t.Publishes); err != nil {
		return nil, err
	}
	if err := tx.takeAcks(t.Acks); err != nil {
		return nil, err
	}
	if err := tx.takeCancels(t.Cancels); err != nil {
		return nil, err
	}
	switch {
	case tx.items == 0:
		return nil, fail(BatchEmpty, "", "a transaction has at least 1 record, token or id")
	case tx.items > MaxTransactionItems:
		return nil, fail(BatchTooLarge, "", "a transaction of %d records, tokens and ids: at most %d are allowed", tx.items, MaxTransactionItems).
			with("bound", MaxTransactionItems)
	}
	return tx, nil
}

// bytes is how large a transaction is.
func (t *Transaction) bytes() (n int) {
	for _, p := range t.Publishes {
		n += len(p.Records)
	}
	for _, a := range t.Acks {
		n += len(a.Tokens)
	}
	for _, c := range t.Cancels {
		for _, id := range c.IDs {
			n += len(id)
		}
	}
	return n
}

// fingerprint tells transactions of different content apart.
func (t *Transaction) fingerprint() (sum hash) {
	h := sha256.New()
	writeNumber(h, len(t.Publishes))
	for _, p := range t.Publishes {
		writeText(h, p.Topic)
		writeText(h, p.Records)
	}
	writeNumber(h, len(t.Acks))
	for _, a := range t.Acks {
		writeText(h, a.Group)
		writeText(h, a.Topic)
		writeText(h, a.Tokens)
	}
	writeNumber(h, len(t.Cancels))
	for _, c := range t.Cancels {
		writeText(h, c.Topic)
		writeNumber(h, len(c.IDs))
		for _, id := range c.IDs {
			writeText(h, id)
		}
	}
	h.Sum(sum[:0])
	return sum
}

func writeNumber(w io.Writer, n int) { _, _ = w.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }

func writeText[T string | []byte](w io.Writer, s T) {
	writeNumber(w, len(s))
	_, _ = w.Write([]byte(s))
}
