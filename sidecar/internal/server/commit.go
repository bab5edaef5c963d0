package server

import (
	"context"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// MaxCommitBytes bounds the request of a Commit: what it may carry, and the names around it.
const MaxCommitBytes = broker.MaxTransactionBytes + 8<<20

// Commit implements BrokerService.
func (s *brokerService) Commit(ctx context.Context, r *connect.Request[brokerv1.CommitRequest]) (*connect.Response[brokerv1.CommitResponse], error) {
	tx, err := transaction(r.Msg)
	if err != nil {
		return nil, wireError(err)
	}
	done, err := s.broker.Commit(ctx, tx)
	if err != nil {
		return nil, wireError(err)
	}
	out := &brokerv1.CommitResponse{Duplicate: done.Duplicate}
	for _, p := range done.Placements {
		out.Results = append(out.Results, &brokerv1.BatchResult{Partitions: p.Partitions, Offsets: p.Offsets, Duplicates: p.Duplicates})
	}
	for _, c := range done.Canceled {
		out.Cancels = append(out.Cancels, &brokerv1.CancelResponse{Canceled: uint64(c.N), UnknownIds: c.Unknown})
	}
	return connect.NewResponse(out), nil
}

func transaction(m *brokerv1.CommitRequest) (broker.Transaction, error) {
	tx := broker.Transaction{ID: m.GetTransactionId()}
	for i, p := range m.GetPublishes() {
		if p.GetNumber() != 0 {
			return tx, &broker.Error{Reason: broker.BadRequest, Field: "publishes[" + itoa(i) + "].number", Message: "records of a transaction have no number: must be 0"}
		}
		tx.Publishes = append(tx.Publishes, broker.Batch{Topic: p.GetTopic(), Records: p.GetRecords()})
	}
	for _, a := range m.GetAcknowledgements() {
		tx.Acks = append(tx.Acks, broker.Acks{Group: a.GetGroup(), Topic: a.GetTopic(), Tokens: a.GetTokens()})
	}
	for _, c := range m.GetCancels() {
		tx.Cancels = append(tx.Cancels, broker.Cancellation{Topic: c.GetTopic(), IDs: c.GetIds()})
	}
	return tx, nil
}
