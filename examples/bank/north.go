package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	bankv1 "github.com/typedmq/typedmq/examples/bank/gen/bank/v1"
	"github.com/typedmq/typedmq/examples/bank/gen/bank/v1/bankv1mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
)

// transfer begins one: what the sender had is less, and the receiver's bank is going to hear of it, or neither is so.
func (b *bank) transfer(ctx context.Context, t *bankv1.Transfer) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	enough, err := move(ctx, tx, north, t.GetFromAccount(), -t.GetAmount())
	if err != nil || !enough {
		return err
	}
	if err := enter(ctx, tx, north, t.GetTransferId(), "sent", t.GetFromAccount(), t.GetAmount()); err != nil {
		return err
	}
	if _, err := bankv1mq.NewTransfersPublisher(b.outbox.On(tx)).Send(ctx, t); err != nil {
		return err
	}
	return tx.Commit()
}

// debits implements bankv1mq.DebitsConsumer, within the inbox: its changes are made once for each message.
type debits struct{}

// OnSettled notes that a transfer is done, or pays it back.
func (debits) OnSettled(ctx context.Context, s *bankv1.Settled) error {
	tx := mqsql.TxFrom(ctx)
	if s.GetRefusal() == "" {
		return enter(ctx, tx, north, s.GetTransferId(), "done", "", 0)
	}
	var amount int64
	var sender string
	const sent = `SELECT account, amount FROM north_entries WHERE transfer = $1 AND kind = 'sent'`
	if err := tx.QueryRowContext(ctx, sent, s.GetTransferId()).Scan(&sender, &amount); err != nil {
		return err
	}
	if _, err := move(ctx, tx, north, sender, amount); err != nil {
		return err
	}
	return enter(ctx, tx, north, s.GetTransferId(), "paid back", sender, amount)
}

// beginTransfers begins transfers from and to all accounts, as many in a second as it is told.
func (b *bank) beginTransfers(ctx context.Context) error {
	if b.name != north || b.rate == 0 {
		return nil
	}
	tick := time.NewTicker(time.Second / time.Duration(b.rate))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		from, to := account(north, rand.N(accounts)), account(south, rand.N(accounts))
		t := &bankv1.Transfer{TransferId: transferID(), FromAccount: from, ToAccount: to, Amount: 1 + rand.N[int64](10_000)}
		if err := b.transfer(ctx, t); err != nil && ctx.Err() == nil {
			b.log.Warn("a transfer was not begun", "error", err)
		}
	}
}

// transferID is unique among all transfers.
func transferID() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }
