package broker

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	// InboxSize is the length of an inbox's name in bytes.
	InboxSize = 16
	// MaxReplyBytes bounds the encoding of a reply.
	MaxReplyBytes = 1<<20 + 8<<10
	// replyPartitions is how many logs the replies of all topics share.
	replyPartitions = 16
	// replyRetention is how long a reply is kept for an inbox whose stream broke.
	replyRetention = 10 * time.Minute
)

// repliesTopic is the topic of the logs that hold replies. No topic of a user has this number.
const repliesTopic engine.TopicID = 0

// Reply is the answer to a call.
type Reply struct {
	// Inbox is InboxSize bytes.
	Inbox []byte
	// Encoding is a mq.broker.v1.Reply, opaque here, at most MaxReplyBytes.
	Encoding []byte
}

func (r Reply) check() *Error {
	if len(r.Inbox) != InboxSize {
		return badInbox("settlements.answer.reply.reply_to", r.Inbox)
	}
	if len(r.Encoding) > MaxReplyBytes {
		return fail(MessageTooLarge, "settlements.answer.reply", "reply of %d bytes: at most %d are allowed", len(r.Encoding), MaxReplyBytes).with("bound", MaxReplyBytes)
	}
	return nil
}

func badInbox(field string, given []byte) *Error {
	return fail(BadRequest, field, "an inbox of %d bytes: must be %d", len(given), InboxSize).with("bound", InboxSize)
}

// replyLog is where the replies of an inbox rest.
func replyLog(inbox []byte) engine.LogID {
	return engine.LogID{Topic: repliesTopic, Partition: uint32(inbox[0]) % replyPartitions}
}

// replyAppends are the replies as records, cut by log: the key is the inbox and the payload the reply.
func replyAppends(replies []Reply, now time.Time) (appends []engine.Append) {
	var at [replyPartitions]int // place of each log's append, from 1
	for _, r := range replies {
		log := replyLog(r.Inbox)
		i := &at[log.Partition]
		if *i == 0 {
			appends = append(appends, engine.Append{Log: log, TimeMS: now.UnixMilli()})
			*i = len(appends)
		}
		a := &appends[*i-1]
		a.Records = engine.AppendRecord(a.Records, NewRecord(r.Inbox, r.Encoding, nil, ""))
		a.Count++
	}
	return appends
}

// replies deletes replies past their retention.
func (r *retainer) replies(ctx context.Context) {
	oldest := r.wall().Add(-replyRetention).UnixMilli()
	for p := range uint32(replyPartitions) {
		log := engine.LogID{Topic: repliesTopic, Partition: p}
		bounds, err := r.engine.Bounds(ctx, log)
		if err != nil || bounds.Begin == bounds.End {
			continue // a damaged log says so where it is used
		}
		before, err := r.firstChunk(ctx, log, bounds, func(c engine.Chunk) bool { return c.TimeMS >= oldest })
		if err == nil && before > bounds.Begin {
			err = r.engine.Trim(ctx, log, before)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrClosed) {
			r.log.Warn("delete old replies", "partition", p, "error", err)
		}
	}
}

// parseReply finds the inbox and the reply of a record. It walks the two fields that such a record has.
func parseReply(raw []byte) (Reply, error) {
	var r Reply
	for b := raw; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return r, protowire.ParseError(n)
		}
		if typ != protowire.BytesType {
			return r, fail(BadRequest, "records", "a reply has a field %d of wire type %d, which is unknown", num, typ)
		}
		value, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return r, protowire.ParseError(m)
		}
		b = b[n+m:]
		switch num {
		case recordKey:
			r.Inbox = value
		case recordPayload:
			r.Encoding = value
		}
	}
	return r, nil
}
