package mq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Bounds of a transaction.
const (
	// MaxTxItems bounds the messages, acknowledgements and cancelled ids of a transaction, together.
	MaxTxItems = 10_000
	// MaxTxBytes bounds the encodings of its records, its lease tokens of 32 bytes and its cancelled ids, together.
	MaxTxBytes = 16 << 20
)

// ErrTxOver is returned by the methods of a [Tx] whose function has returned.
var ErrTxOver = errors.New("mq: the transaction is over")

// Tx is a transaction: messages to publish, deliveries to acknowledge and scheduled messages to take back, all of which happens or none. It is
// a [Sender]: generated publishers made with it put their messages into it. What is in it is kept in memory until its function returns; then one
// call of the sidecar applies it, and nobody sees a part of it before.
//
// Its methods are safe for concurrent use. What one of them refuses, or an interceptor, fails the transaction, whether or not its function goes on.
type Tx struct {
	client *Client
	call   *Call // whose messages are acknowledged too; nil outside of InTx

	mu struct {
		sync.Mutex
		over    bool
		fault   error // the first refusal
		items   int
		bytes   int
		batches []*txBatch
		open    map[*topic]*txBatch // the last one of each topic
		sent    []txReceipt
		acks    []*delivery
		cancels []*brokerv1.CancelRequest

		canceled []Canceled // what became of them
	}
}

// txBatch is records of one topic.
type txBatch struct {
	topic   *topic
	records []byte // encoding of a RecordSet
	count   int
}

// txReceipt is the receipt of a message, and where the sidecar's answer tells its place.
type txReceipt struct {
	Receipt
	priority uint32
	batch    *txBatch
	index    int
}

// Canceled is what became of the messages that a transaction cancelled in one topic.
type Canceled struct {
	Topic string
	// Count is how many scheduled messages were taken back.
	Count int
	// Unknown are the ids that no scheduled message had: they are due already, or never were there.
	Unknown []string
}

var _ Sender = (*Tx)(nil)

func newTx(c *Client, call *Call) *Tx {
	tx := &Tx{client: c, call: call}
	tx.mu.open = make(map[*topic]*txBatch)
	return tx
}

// Tx calls f and then applies what f put into the transaction, all or nothing:
//
//	err := client.Tx(ctx, func(tx *mq.Tx) error {
//		if _, err := ordersv1mq.NewOrdersPublisher(tx).Placed(ctx, order); err != nil {
//			return err
//		}
//		_, err := stockv1mq.NewStockPublisher(tx).Reserved(ctx, reservation)
//		return err
//	})
//
// It returns when all of it is durable. If f returns an error, that is the error of Tx, and nothing was sent; neither is anything if f panics.
// Messages of one topic are stored in the order in which they were put in. A transaction has at most [MaxTxItems] items of [MaxTxBytes].
//
// A refusal by the sidecar is an [*Error] whose Field names the item, and means that nothing was applied; [ErrLeaseLost] is one. While the sidecar
// is away, or the connection breaks before the answer, Tx tries again until ctx ends, so give it one that does. Trying again is safe: the sidecar
// knows for ten minutes, also after a restart, which transactions it has applied. When ctx ends or that time is over, the error is
// [ErrUnknownOutcome] if the transaction was on its way, and otherwise means that nothing was applied.
func (c *Client) Tx(ctx context.Context, f func(tx *Tx) error) error {
	return newTx(c, nil).run(ctx, f)
}

// InTx is [Client.Tx] inside a handler, by the worker's client: what f puts in is applied together with the acknowledgement of the message that
// the handler with this context, or a context derived from it, handles. So a message that is handled again after a crash or a lost lease has not
// had these effects before.
//
//	func (h *rebooking) OnDeparted(ctx context.Context, msg *flightsv1.FlightDeparted) error {
//		return mq.InTx(ctx, func(tx *mq.Tx) error {
//			_, err := rebookingv1mq.NewRebookingEventsPublisher(tx).Rebooked(ctx, offer(msg))
//			return err
//		})
//	}
//
// Once InTx has returned nil the message is settled: what the handler returns changes nothing, and an error is logged. After another error the
// handler's outcome counts as ever, with one exception: if it is [ErrUnknownOutcome], nil does not acknowledge the message, which is tried again
// if the transaction was not applied. [ErrLeaseLost] means that the lease is over, so that nothing was applied and the message is delivered again.
//
// In a handler of batches, the messages of the batch that are not failed when f returns are acknowledged, of which there must be one. In a handler that
// settles by itself, the message must not be settled yet, and is afterwards. InTx must return before the handler does.
func InTx(ctx context.Context, f func(tx *Tx) error) error {
	call, ok := ctx.Value(callKey{}).(*Call)
	if !ok {
		return errors.New("mq: InTx outside of a handler: the context is none of a handler's, nor derived from one")
	}
	if ctx.Err() != nil {
		return fmt.Errorf("transaction: %w", ended(ctx))
	}
	if d := call.items[0].delivery; call.subscription.style == answering && d.replyAddress() != nil {
		return &Error{Code: connect.CodeFailedPrecondition, Reason: "CALL_IN_TRANSACTION", Message: "what the handler returns is the answer to a call, and settles it: " +
			"a transaction cannot"}
	}
	return newTx(call.items[0].delivery.session.consumer.worker.client, call).run(ctx, f)
}

// ended is the error of a context that has ended, with its cause.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}

// run calls f and commits.
func (tx *Tx) run(ctx context.Context, f func(*Tx) error) error {
	defer func() { _ = tx.close() }() // also if f panics
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.close(); err != nil {
		return fmt.Errorf("the transaction was not sent: %w", err)
	}
	if err := tx.commit(ctx); err != nil {
		return fmt.Errorf("transaction: %w", err)
	}
	return nil
}

// close lets nothing more in. It returns what was refused.
func (tx *Tx) close() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	tx.mu.over = true
	return tx.mu.fault
}

// Send puts a message in, through the client's publish interceptors. Its receipt has no place: Offset is -1, and the ID is empty unless the message
// has one of its own. [Tx.Receipts] has the final ones. The first message of a topic that the client does not know makes it ask the sidecar.
func (tx *Tx) Send(ctx context.Context, p *Publication) (Receipt, error) {
	own := *tx.client.adopt(p)
	own.tx, own.queued, own.detached = tx, nil, false
	var receipt Receipt
	var err error
	if tx.client.publish != nil {
		receipt, err = tx.client.publish(ctx, &own)
	} else {
		receipt, err = tx.add(ctx, &own)
	}
	if err != nil {
		return Receipt{}, tx.refuse(err)
	}
	return receipt, nil
}

// refuse fails the transaction.
func (tx *Tx) refuse(err error) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.mu.fault == nil {
		tx.mu.fault = err
	}
	return err
}

// add is what Send does within the interceptors.
func (tx *Tx) add(ctx context.Context, p *Publication) (Receipt, error) {
	c := tx.client
	size, err := c.ready(ctx, p)
	if err != nil {
		return Receipt{}, err
	}
	d := c.drafts.Get().(*draft)
	defer c.drafts.Put(d)
	encoded, err := p.appendTo(d.encoding[:0], size)
	if err != nil {
		return Receipt{}, err
	}
	if cap(encoded) <= maxKeptEncoding {
		d.encoding = encoded
	}
	if n := len(encoded) + len(p.topic.name) + batchOverhead; n > maxFrameBytes {
		return Receipt{}, messageTooLarge(n, maxFrameBytes)
	}
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.putLocked(1, len(encoded)); err != nil {
		return Receipt{}, err
	}
	b := tx.mu.open[p.topic]
	if b == nil || len(b.records)+len(encoded) > maxFrameBytes {
		b = &txBatch{topic: p.topic}
		tx.mu.open[p.topic] = b
		tx.mu.batches = append(tx.mu.batches, b)
	}
	receipt := Receipt{ID: p.record.ID, Topic: p.topic.name, Offset: noOffset}
	tx.mu.sent = append(tx.mu.sent, txReceipt{receipt, uint32(p.record.priority), b, b.count})
	b.records = append(b.records, encoded...)
	b.count++
	return receipt, nil
}

// putLocked makes room for items of so many bytes while the function runs.
func (tx *Tx) putLocked(items, bytes int) error {
	if tx.mu.over {
		return ErrTxOver
	}
	return tx.growLocked(items, bytes)
}

func (tx *Tx) growLocked(items, bytes int) error {
	switch {
	case tx.mu.items+items > MaxTxItems:
		return txTooLarge(fmt.Sprintf("a transaction of %d items: at most %d are allowed", tx.mu.items+items, MaxTxItems), MaxTxItems)
	case tx.mu.bytes+bytes > MaxTxBytes:
		return txTooLarge(fmt.Sprintf("a transaction of %d bytes: at most %d are allowed", tx.mu.bytes+bytes, MaxTxBytes), MaxTxBytes)
	}
	tx.mu.items += items
	tx.mu.bytes += bytes
	return nil
}

func txTooLarge(message string, bound int) error {
	return invalid(reasonBatchTooLarge, "", message, bound)
}

// Leased is a message that a handler settles itself: a [Delivery].
type Leased interface{ lease() *delivery }

// Ack has the transaction acknowledge deliveries. If a lease is over, or its message is settled otherwise before the transaction is applied, the
// transaction fails with [ErrLeaseLost], or with an error as that of [Delivery.Ack]. The message must not be settled in another way. After a failed
// transaction it is still to be settled.
func (tx *Tx) Ack(deliveries ...Leased) error {
	for _, l := range deliveries {
		if err := tx.ack(l.lease()); err != nil {
			return tx.refuse(err)
		}
	}
	return nil
}

func (tx *Tx) ack(d *delivery) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if slices.Contains(tx.mu.acks, d) {
		return nil
	}
	if err := tx.putLocked(1, len(d.token)); err != nil {
		return err
	}
	tx.mu.acks = append(tx.mu.acks, d)
	return nil
}

// Cancel takes back scheduled messages of a topic, as [Client.Cancel] does. An id that no scheduled message has does not fail the transaction:
// [Tx.Canceled] tells. Messages that the transaction itself schedules are not concerned.
func (tx *Tx) Cancel(topic string, ids ...string) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	bytes := 0
	for _, id := range ids {
		bytes += len(id)
	}
	if err := tx.putLocked(len(ids), bytes); err != nil {
		if tx.mu.fault == nil {
			tx.mu.fault = err
		}
		return err
	}
	for some := range slices.Chunk(slices.Clone(ids), maxCancelled) {
		tx.mu.cancels = append(tx.mu.cancels, &brokerv1.CancelRequest{Topic: topic, Ids: some})
	}
	return nil
}

// Receipts returns the receipts of the messages in the order in which they were put in. They have their places once the transaction is committed:
//
//	var tx *mq.Tx
//	err := client.Tx(ctx, func(t *mq.Tx) error { tx = t; … })
//	receipts := tx.Receipts()
func (tx *Tx) Receipts() []Receipt {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	all := make([]Receipt, len(tx.mu.sent))
	for i := range tx.mu.sent {
		all[i] = tx.mu.sent[i].Receipt
	}
	return all
}

// Canceled returns what became of what was cancelled, one for each topic in the order of the first [Tx.Cancel]. It is empty until the transaction is
// committed.
func (tx *Tx) Canceled() []Canceled {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return slices.Clone(tx.mu.canceled)
}

// commit applies the transaction, whose function has returned.
func (tx *Tx) commit(ctx context.Context) error {
	if tx.call != nil {
		if err := tx.ackCall(); err != nil {
			return err
		}
	}
	if tx.mu.items == 0 {
		return nil
	}
	// Nobody writes to tx.mu any more but who settles its answer.
	request := &brokerv1.CommitRequest{TransactionId: make([]byte, 16), Cancels: tx.mu.cancels}
	_, _ = rand.Read(request.TransactionId) // it never fails
	var topics []*topic
	for _, b := range tx.mu.batches {
		request.Publishes = append(request.Publishes, &brokerv1.TopicRecords{Topic: b.topic.name, Records: b.records})
		if !slices.Contains(topics, b.topic) {
			topics = append(topics, b.topic)
		}
	}
	request.Acknowledgements = acknowledgements(tx.mu.acks)
	if err := hold(tx.mu.acks); err != nil {
		return err
	}
	response, err := tx.client.commit(ctx, request, topics)
	if err == nil {
		err = tx.settle(request, response)
	}
	switch {
	case err == nil:
		conclude(tx.mu.acks, applied)
	case errors.Is(err, ErrUnknownOutcome):
		conclude(tx.mu.acks, doubtful)
	default:
		conclude(tx.mu.acks, refused)
	}
	return err
}

// ackCall adds the messages of the handler's call that were not failed.
func (tx *Tx) ackCall() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	sound := 0
	for i := range tx.call.items {
		d := tx.call.items[i].delivery
		if tx.call.Failure(i) != nil {
			continue
		}
		sound++
		if slices.Contains(tx.mu.acks, d) {
			continue
		}
		if err := tx.growLocked(1, len(d.token)); err != nil {
			return err
		}
		tx.mu.acks = append(tx.mu.acks, d)
	}
	if sound == 0 {
		return errors.New("mq: there is nothing to acknowledge: all messages of the call were failed")
	}
	return nil
}

// acknowledgements are the tokens of deliveries by subscription, in the order of the first of each.
func acknowledgements(all []*delivery) []*brokerv1.Acknowledgement {
	var list []*brokerv1.Acknowledgement
	for _, d := range all {
		s := d.session.consumer.subscription
		i := slices.IndexFunc(list, func(a *brokerv1.Acknowledgement) bool { return a.GetGroup() == s.Group && a.GetTopic() == s.Topic })
		if i < 0 {
			i = len(list)
			list = append(list, &brokerv1.Acknowledgement{Group: s.Group, Topic: s.Topic})
		}
		list[i].Tokens = append(list[i].Tokens, d.token[:]...)
	}
	return list
}

// settle completes the receipts.
func (tx *Tx) settle(request *brokerv1.CommitRequest, response *brokerv1.CommitResponse) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	mismatch := fmt.Errorf("%w: the sidecar's answer does not match the transaction", ErrUnknownOutcome)
	if len(response.GetResults()) != len(tx.mu.batches) || len(response.GetCancels()) != len(request.GetCancels()) {
		return mismatch
	}
	results := make(map[*txBatch]*brokerv1.BatchResult, len(tx.mu.batches))
	for i, b := range tx.mu.batches {
		r := response.GetResults()[i]
		if r.GetRefusal() != nil || len(r.GetPartitions()) != b.count || len(r.GetOffsets()) != b.count {
			return mismatch
		}
		results[b] = r
	}
	for i := range tx.mu.sent {
		s := &tx.mu.sent[i]
		r := results[s.batch]
		s.Receipt = receiptOf(s.Topic, s.ID, s.priority, r, s.index)
	}
	for i, c := range request.GetCancels() {
		at := slices.IndexFunc(tx.mu.canceled, func(known Canceled) bool { return known.Topic == c.GetTopic() })
		if at < 0 {
			at = len(tx.mu.canceled)
			tx.mu.canceled = append(tx.mu.canceled, Canceled{Topic: c.GetTopic()})
		}
		known := &tx.mu.canceled[at]
		known.Count += int(response.GetCancels()[i].GetCanceled())
		known.Unknown = append(known.Unknown, response.GetCancels()[i].GetUnknownIds()...)
	}
	return nil
}

// commitOnce makes one call.
func (c *Client) commitOnce(ctx context.Context, request *brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
	response, err := c.broker.Commit(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, fromCall(err)
	}
	return response.Msg, nil
}
