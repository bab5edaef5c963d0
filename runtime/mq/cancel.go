package mq

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// maxCancelled is the most ids of one Cancel call on the wire.
const maxCancelled = 1000

// Cancel takes back messages of a topic that are scheduled and not due yet, by the ids of their receipts:
//
//	receipt, err := pub.Departed(ctx, msg, mq.WithDelay(time.Hour))
//	…
//	_, err = client.Cancel(ctx, receipt.Topic, receipt.ID)
//
// It returns how many messages were taken back, durably; all scheduled messages of an id are. If no scheduled message has one of the ids, because
// it is due already or never was there, the error is [ErrMessageUnknown]; those of the other ids are taken back all the same.
//
// Cancel does not try again. Another error than an [*Error] with a Reason leaves open what became of the messages. More than 1,000 ids go in
// several calls, and an error of one of them ends it.
func (c *Client) Cancel(ctx context.Context, topic string, ids ...string) (canceled int, err error) {
	var unknown []string
	for some := range slices.Chunk(ids, maxCancelled) {
		response, err := c.broker.Cancel(ctx, connect.NewRequest(&brokerv1.CancelRequest{Topic: topic, Ids: some}))
		switch {
		case err == nil:
			canceled += int(response.Msg.GetCanceled())
			unknown = append(unknown, response.Msg.GetUnknownIds()...)
		case isMessageUnknown(fromCall(err)):
			unknown = append(unknown, some...) // all of them
		case c.ctx.Err() != nil:
			return canceled, ErrClosed
		default:
			return canceled, fmt.Errorf("cancel messages of %q: %w", topic, fromCall(err))
		}
	}
	if len(unknown) > 0 {
		return canceled, fmt.Errorf("cancel messages of %q: %w", topic, &Error{
			Code: connect.CodeNotFound, Reason: reasonMessageUnknown, Field: "ids", Message: unknownText(unknown)})
	}
	return canceled, nil
}

func isMessageUnknown(err error) bool {
	e, ok := err.(*Error)
	return ok && e.Reason == reasonMessageUnknown
}

// unknownText names some of the ids.
func unknownText(ids []string) string {
	const most = 10
	var quoted []string
	for _, id := range ids[:min(len(ids), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", id))
	}
	text := "no scheduled message has the id " + strings.Join(quoted, ", ")
	if more := len(ids) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
