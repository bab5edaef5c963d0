package server

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// brokerService is mq.broker.v1.BrokerService.
type brokerService struct {
	broker *broker.Broker
}

// Declare implements BrokerService.
func (s *brokerService) Declare(ctx context.Context, r *connect.Request[brokerv1.DeclareRequest]) (*connect.Response[brokerv1.DeclareResponse], error) {
	d, err := s.broker.Declare(ctx, broker.Declaration{
		Hash: r.Msg.GetDescriptorsHash(), Descriptors: r.Msg.GetDescriptors(), Topics: r.Msg.GetTopics(), Subscriptions: r.Msg.GetSubscriptions(),
	})
	if err != nil {
		return nil, wireError(err)
	}
	out := &brokerv1.DeclareResponse{NeedDescriptors: d.NeedDescriptors}
	for _, t := range d.Topics {
		out.Topics = append(out.Topics, &brokerv1.DeclaredTopic{
			Message: string(t.Message.FullName()), Name: t.Name, Partitions: t.Partitions, MaxMessageBytes: t.MaxMessageBytes,
			PriorityLevels: t.PriorityLevels,
		})
	}
	for _, sub := range d.Subscriptions {
		out.Subscriptions = append(out.Subscriptions, &brokerv1.DeclaredSubscription{
			Rpc: sub.RPC, Group: sub.Group, Topic: sub.Topic.Name, MaxInFlight: sub.MaxInFlight,
			Lease: durationpb.New(sub.Lease), ProcessingTimeout: durationpb.New(sub.ProcessingTimeout),
		})
	}
	return connect.NewResponse(out), nil
}

// Publish implements BrokerService.
func (s *brokerService) Publish(ctx context.Context, r *connect.Request[brokerv1.PublishRequest]) (*connect.Response[brokerv1.PublishResponse], error) {
	topicName := r.Msg.GetTopic()
	set := new(recordSet)
	for i, m := range r.Msg.GetMessages() {
		d, err := draft(m)
		if err != nil {
			return nil, wireError(atMessage(err, i))
		}
		raw, err := s.broker.Compose(topicName, d)
		if err != nil {
			return nil, wireError(atMessage(err, i))
		}
		set.add(raw)
	}
	if err := checkBatchBytes(len(set.bytes)); err != nil {
		return nil, wireError(err)
	}
	placed, err := s.broker.Publish(ctx, []broker.Batch{{Topic: topicName, Records: set.bytes}})
	if err != nil {
		return nil, wireError(err)
	}
	p := placed[0]
	if p.Refused != nil {
		if i, err := strconv.Atoi(p.Refused.Metadata["index"]); err == nil {
			delete(p.Refused.Metadata, "index") // the field says it
			return nil, wireError(atMessage(p.Refused, i))
		}
		return nil, wireError(p.Refused)
	}
	out := &brokerv1.PublishResponse{}
	duplicates := p.Duplicates
	for i, partition := range p.Partitions {
		duplicate := len(duplicates) > 0 && duplicates[0] == uint32(i)
		if duplicate {
			duplicates = duplicates[1:]
		}
		rec, err := broker.ParseRecord(set.records[i])
		if err != nil {
			return nil, wireError(err)
		}
		out.Receipts = append(out.Receipts, &brokerv1.Receipt{
			Id: broker.MessageID(rec, partition, uint8(max(rec.Priority, 1)-1), p.Offsets[i]), Partition: partition, Offset: p.Offsets[i],
			Scheduled: p.Offsets[i] == scheduled, Duplicate: duplicate,
		})
	}
	return connect.NewResponse(out), nil
}

// Cancel implements BrokerService.
func (s *brokerService) Cancel(ctx context.Context, r *connect.Request[brokerv1.CancelRequest]) (*connect.Response[brokerv1.CancelResponse], error) {
	n, unknown, err := s.broker.Cancel(ctx, r.Msg.GetTopic(), r.Msg.GetIds())
	if err != nil {
		return nil, wireError(err)
	}
	return connect.NewResponse(&brokerv1.CancelResponse{Canceled: uint64(n), UnknownIds: unknown}), nil
}

// PublishStream implements BrokerService.
func (s *brokerService) PublishStream(ctx context.Context, stream *connect.BidiStream[brokerv1.PublishStreamRequest, brokerv1.PublishStreamResponse]) error {
	for {
		await(ctx)
		frame, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := s.publishFrame(ctx, frame)
		if err != nil {
			return wireError(err)
		}
		recycle(frame) // it was answered: the broker is done with it
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// publishFrame answers one frame. An error that concerns the whole frame is told for each of its batches: the stream goes on.
func (s *brokerService) publishFrame(ctx context.Context, frame *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
	out := &brokerv1.PublishStreamResponse{Sequence: frame.GetSequence(), Results: make([]*brokerv1.BatchResult, len(frame.GetBatches()))}
	batches := make([]broker.Batch, len(frame.GetBatches()))
	size := 0
	for i, b := range frame.GetBatches() {
		batches[i] = broker.Batch{Topic: b.GetTopic(), Records: b.GetRecords(), Number: b.GetNumber()}
		size += len(b.GetRecords())
	}
	var placed []broker.Placement
	from, err := producerOf(frame)
	if err == nil {
		err = checkBatchBytes(size)
	}
	if err == nil {
		placed, err = s.broker.PublishAs(ctx, from, batches)
	}
	if err != nil {
		why := broker.Refusal(err)
		if why.Reason == broker.OutcomeUnknown || ctx.Err() != nil {
			return nil, why // the client must not take it for a refusal
		}
		for i := range out.Results {
			out.Results[i] = &brokerv1.BatchResult{Refusal: refusal(why)}
		}
		return out, nil
	}
	for i, p := range placed {
		out.Results[i] = &brokerv1.BatchResult{Partitions: p.Partitions, Offsets: p.Offsets, Duplicates: p.Duplicates}
		if p.Refused != nil {
			out.Results[i] = &brokerv1.BatchResult{Refusal: refusal(p.Refused)}
		}
	}
	return out, nil
}

// producerOf is who numbers the batches of a frame.
func producerOf(frame *brokerv1.PublishStreamRequest) (from broker.Producer, err error) {
	bad := func(field, message string) error {
		return &broker.Error{Reason: broker.BadRequest, Field: field, Message: message, Metadata: map[string]string{"bound": itoa(len(from.ID))}}
	}
	id := frame.GetProducerId()
	switch {
	case len(id) == 0:
		for _, b := range frame.GetBatches() {
			if b.GetNumber() != 0 {
				return from, bad("producer_id", "numbered batches need a producer_id of "+itoa(len(from.ID))+" bytes")
			}
		}
		return from, nil
	case len(id) != len(from.ID):
		return from, bad("producer_id", "a producer_id of "+itoa(len(id))+" bytes: must be "+itoa(len(from.ID)))
	}
	return broker.Producer{ID: [16]byte(id), AnsweredBelow: frame.GetAnsweredBelow()}, nil
}

// Consume implements BrokerService.
func (s *brokerService) Consume(ctx context.Context, stream *connect.BidiStream[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return wireError(&broker.Error{Reason: broker.BadRequest, Field: "start", Message: "the first message of a Consume stream must be start"})
	}
	credits, creditBytes, err := credit("start", start.GetCredits(), start.GetCreditBytes())
	if err != nil {
		return wireError(err)
	}
	session, err := s.broker.Join(start.GetGroup(), start.GetTopic(), start.GetClientName(), credits, creditBytes)
	if err != nil {
		return wireError(err)
	}
	if err := stream.Send(joined(session)); err != nil {
		session.Close(true)
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		cancel(listen(stream, session))
	}()
	broken, err := tell(ctx, stream, session)
	said := context.Cause(ctx)
	// A client that closed its side has settled what it wants to settle. One that vanished may have been killed by a message. A session that
	// ended here, by drain or silence, is nobody's fault or counted already.
	session.Close(!errors.Is(said, io.EOF) && (broken || said != nil))
	cancel(nil)
	if errors.Is(said, io.EOF) {
		<-listening
		return nil
	}
	// The listener ends with the stream, which ends with this call.
	return wireError(err)
}

func joined(session *broker.Session) *brokerv1.ConsumeResponse {
	return &brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Joined_{Joined: &brokerv1.ConsumeResponse_Joined{
		Lease: durationpb.New(session.Lease), ProcessingTimeout: durationpb.New(session.ProcessingTimeout()),
	}}}
}

// credit checks what a consumer may have unsettled. field is the message of the stream that says so.
func credit(field string, messages uint32, bytes uint64) (int, int64, error) {
	bad := func(field, message string, bound int) error {
		return &broker.Error{Reason: broker.BadCredits, Field: field, Message: message, Metadata: map[string]string{"bound": itoa(bound)}}
	}
	if messages > broker.MaxCredits {
		return 0, 0, bad(field+".credits", itoa(int(messages))+" credits: must be 0 to "+itoa(broker.MaxCredits), broker.MaxCredits)
	}
	if bytes > broker.MaxCreditBytes {
		return 0, 0, bad(field+".credit_bytes", strconv.FormatUint(bytes, 10)+" bytes of credit: must be at most "+itoa(broker.MaxCreditBytes), broker.MaxCreditBytes)
	}
	return int(messages), int64(bytes), nil
}

// listen takes what the client says until it closes its side (io.EOF) or fails.
func listen(stream *connect.BidiStream[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse], session *broker.Session) error {
	for {
		m, err := stream.Receive()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *brokerv1.ConsumeRequest_Heartbeat_:
			session.Heartbeat()
		case *brokerv1.ConsumeRequest_Credit_:
			credits, creditBytes, err := credit("credit", m.Credit.GetCredits(), m.Credit.GetCreditBytes())
			if err != nil {
				return err
			}
			if err := session.SetCredits(credits, creditBytes); err != nil {
				return err
			}
		default:
			return &broker.Error{Reason: broker.BadRequest, Field: "message", Message: "expected a credit or a heartbeat"}
		}
	}
}

// tell sends what the session has to tell until it or the stream is over. broken says that the client could not be reached.
func tell(ctx context.Context, stream *connect.BidiStream[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse], session *broker.Session) (broken bool, err error) {
	var made deliveries
	var runs []broker.Run
	for {
		var signals broker.Signals
		runs, signals, err = session.Take(ctx, runs[:0], frameBytes)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return false, cause
			}
			return false, err
		}
		if len(runs) > 0 {
			if err := stream.Send(made.message(runs)); err != nil {
				return true, err
			}
			made.sent()
			clear(runs) // so that their chunks can go
		}
		for _, m := range messages(signals) {
			if err := stream.Send(m); err != nil {
				return true, err
			}
		}
	}
}

func messages(s broker.Signals) (out []*brokerv1.ConsumeResponse) {
	if s.Alive {
		out = append(out, &brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Alive_{Alive: &brokerv1.ConsumeResponse_Alive{}}})
	}
	if s.Drain {
		out = append(out, &brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Draining_{Draining: &brokerv1.ConsumeResponse_Draining{}}})
	}
	return out
}

// Settle implements BrokerService.
func (s *brokerService) Settle(ctx context.Context, r *connect.Request[brokerv1.SettleRequest]) (*connect.Response[brokerv1.SettleResponse], error) {
	others := make([]broker.Settlement, 0, len(r.Msg.GetSettlements()))
	for _, m := range r.Msg.GetSettlements() {
		o, err := settlement(m)
		if err != nil {
			return nil, wireError(err)
		}
		others = append(others, o)
	}
	refusals, err := s.broker.Settle(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), r.Msg.GetAcks(), others)
	if err != nil {
		return nil, wireError(err)
	}
	out := &brokerv1.SettleResponse{}
	for _, f := range refusals {
		out.Refusals = append(out.Refusals, &brokerv1.SettleRefusal{Token: f.Token, Refusal: refusal(f.Error)})
	}
	return connect.NewResponse(out), nil
}

func settlement(m *brokerv1.Settlement) (broker.Settlement, error) {
	s := broker.Settlement{Token: m.GetToken()}
	switch o := m.GetOutcome().(type) {
	case *brokerv1.Settlement_Ack_:
		if o.Ack.GetSkipReason() != "" {
			s.Outcome = broker.Skipped
		}
	case *brokerv1.Settlement_Retry_:
		s.Outcome, s.Error, s.HasAfter = broker.Retried, o.Retry.GetError(), o.Retry.After != nil
		s.After = o.Retry.GetAfter().AsDuration()
	case *brokerv1.Settlement_Reject_:
		s.Outcome, s.Error = broker.Rejected, o.Reject.GetError()
		if o.Reject.GetReason() == brokerv1.RejectReason_REJECT_REASON_UNDECODABLE {
			s.Outcome = broker.Undecodable
		}
	case *brokerv1.Settlement_Snooze_:
		s.Outcome, s.After = broker.Snoozed, o.Snooze.GetDelay().AsDuration()
	case *brokerv1.Settlement_Release_:
		s.Outcome = broker.Released
	case *brokerv1.Settlement_Extend_:
		s.Outcome, s.After = broker.Extended, o.Extend.GetLease().AsDuration()
	case *brokerv1.Settlement_Answer_:
		s.Outcome = broker.Answered
		encoding, err := proto.Marshal(o.Answer.GetReply())
		if err != nil {
			return s, &broker.Error{Reason: broker.BadRequest, Field: "settlements.answer.reply", Message: err.Error()}
		}
		s.Reply = broker.Reply{Inbox: o.Answer.GetReply().GetReplyTo(), Encoding: encoding}
	default:
		return s, &broker.Error{Reason: broker.BadRequest, Field: "settlements.outcome", Message: "a settlement needs an outcome"}
	}
	return s, nil
}

// Replies implements BrokerService.
func (s *brokerService) Replies(ctx context.Context, r *connect.Request[brokerv1.RepliesRequest], stream *connect.ServerStream[brokerv1.RepliesResponse]) error {
	from := int64(-1)
	if r.Msg.From != nil {
		if from = r.Msg.GetFrom(); from < 0 {
			return wireError(&broker.Error{Reason: broker.BadOffset, Field: "from", Message: "offset " + strconv.FormatInt(from, 10) + ": must not be negative"})
		}
	}
	inbox, err := s.broker.OpenInbox(ctx, r.Msg.GetInbox(), from)
	if err != nil {
		return wireError(err)
	}
	defer inbox.Close()
	out := &brokerv1.RepliesResponse{Next: inbox.At()} // says that the inbox is open
	for {
		if err := stream.Send(out); err != nil {
			return err
		}
		replies, err := inbox.Next(ctx)
		if err != nil {
			return wireError(err)
		}
		out = &brokerv1.RepliesResponse{Next: out.GetNext()}
		size := 0
		for _, reply := range replies {
			m := new(brokerv1.Reply)
			if err := proto.Unmarshal(reply.Encoding, m); err != nil {
				continue // no sidecar wrote this
			}
			if size += len(reply.Encoding); size > frameBytes && len(out.Replies) > 0 {
				if err := stream.Send(out); err != nil {
					return err
				}
				out, size = &brokerv1.RepliesResponse{Next: out.GetNext()}, len(reply.Encoding)
			}
			out.Replies = append(out.Replies, m)
		}
		out.Next = inbox.At()
	}
}

// Pull implements BrokerService.
func (s *brokerService) Pull(ctx context.Context, r *connect.Request[brokerv1.PullRequest]) (*connect.Response[brokerv1.PullResponse], error) {
	n := int(r.Msg.GetMaxMessages())
	if n == 0 {
		n = 1
	}
	slices, err := s.broker.Pull(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), n, r.Msg.GetLease().AsDuration(), r.Msg.GetWait().AsDuration())
	if err != nil {
		return nil, wireError(err)
	}
	out := &brokerv1.PullResponse{}
	for _, slice := range slices {
		for i, raw := range slice.Each() {
			rec, err := broker.ParseRecord(raw)
			if err != nil {
				return nil, wireError(err)
			}
			m := &brokerv1.PulledMessage{
				Token: slice.Tokens[i*broker.TokenSize : (i+1)*broker.TokenSize], Id: broker.MessageID(rec, slice.Partition, slice.Lane(), slice.Offsets[i]),
				Partition: slice.Partition, Offset: slice.Offsets[i], Attempt: 1, Key: rec.Key, Headers: rec.HeaderMap(), Payload: rec.Payload,
				AppendTimeMs: slice.AppendMS, Priority: slice.Priority,
			}
			if len(slice.Attempts) > 0 {
				m.Attempt = slice.Attempts[i]
			}
			m.Json, _ = s.broker.JSON(r.Msg.GetTopic(), rec.Payload) // absent if the payload does not decode
			out.Messages = append(out.Messages, m)
		}
	}
	return connect.NewResponse(out), nil
}

func checkBatchBytes(n int) error {
	if n > MaxBatchBytes {
		return &broker.Error{
			Reason: broker.BatchTooLarge, Field: "messages", Message: "a batch of " + itoa(n) + " bytes: at most " + itoa(MaxBatchBytes) + " are allowed",
			Metadata: map[string]string{"bound": itoa(MaxBatchBytes)},
		}
	}
	return nil
}

// atMessage says which message of a request an error is about, and which of its fields: what a record has in milliseconds, a message has as a
// duration or a timestamp.
func atMessage(err error, i int) error {
	e := broker.Refusal(err)
	if e.Field != "topic" {
		e.Field = "messages[" + itoa(i) + "]." + strings.TrimSuffix(e.Field, "_ms")
	}
	return e
}

func msTime(ms int64) time.Time { return time.UnixMilli(ms) }
