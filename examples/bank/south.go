package main

import (
	"context"

	bankv1 "github.com/typedmq/typedmq/examples/bank/gen/bank/v1"
	"github.com/typedmq/typedmq/examples/bank/gen/bank/v1/bankv1mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
)

// credits implements bankv1mq.CreditsConsumer, within the inbox: its changes, and what it publishes, are made once for each message.
type credits struct{ outbox *mqsql.Outbox }

// OnTransfer credits the receiver, if the account is open, and answers.
func (c *credits) OnTransfer(ctx context.Context, t *bankv1.Transfer) error {
	tx := mqsql.TxFrom(ctx)
	answer := &bankv1.Settled{TransferId: t.GetTransferId()}
	kind := "credited"
	if t.GetToAccount() == closed {
		kind, answer.Refusal = "refused", "the account is closed"
	} else if _, err := move(ctx, tx, south, t.GetToAccount(), t.GetAmount()); err != nil {
		return err
	}
	if err := enter(ctx, tx, south, t.GetTransferId(), kind, t.GetToAccount(), t.GetAmount()); err != nil {
		return err
	}
	_, err := bankv1mq.NewAnswersPublisher(c.outbox.On(tx)).Settle(ctx, answer)
	return err
}
