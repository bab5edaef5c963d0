package server

import (
	"context"
	"math"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/typedmq/typedmq/internal/topic"
	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// adminService is mq.admin.v1.AdminService.
type adminService struct {
	broker *broker.Broker
}

var _ adminv1connect.AdminServiceHandler = (*adminService)(nil)

// ListTopics implements AdminService.
func (s *adminService) ListTopics(ctx context.Context, _ *connect.Request[adminv1.ListTopicsRequest]) (*connect.Response[adminv1.ListTopicsResponse], error) {
	out := &adminv1.ListTopicsResponse{}
	for _, t := range s.broker.Topics(ctx) {
		out.Topics = append(out.Topics, topicMessage(t))
	}
	return connect.NewResponse(out), nil
}

func topicMessage(t broker.TopicStatus) *adminv1.Topic {
	d := t.Declared
	m := &adminv1.Topic{
		Name: d.Name, Message: string(d.Message.FullName()), Partitions: d.Partitions, Delivery: d.Delivery.String(), Ordering: d.Ordering.String(),
		MaxMessageBytes: d.MaxMessageBytes, Labels: d.Labels, Groups: t.Groups, PriorityLevels: d.PriorityLevels, RetentionBytes: d.RetentionBytes,
	}
	if d.Key != nil {
		m.Key = d.Key.String()
	}
	if d.Delivery == topic.PubSub {
		m.Retention = durationpb.New(d.Retention)
	}
	if d.TTL > 0 {
		m.Ttl = durationpb.New(d.TTL)
	}
	for i, p := range t.Bounds {
		b := &adminv1.Partition{Partition: uint32(i), Begin: p.Begin, End: p.End, Bytes: p.Bytes}
		if p.Fault != nil {
			b.Fault = p.Fault.Error()
		}
		m.PartitionBounds = append(m.PartitionBounds, b)
	}
	return m
}

// DescribeTopic implements AdminService.
func (s *adminService) DescribeTopic(ctx context.Context, r *connect.Request[adminv1.DescribeTopicRequest]) (*connect.Response[adminv1.DescribeTopicResponse], error) {
	d, err := s.broker.Describe(ctx, r.Msg.GetTopic())
	if err != nil {
		return nil, wireError(err)
	}
	out := &adminv1.DescribeTopicResponse{Topic: topicMessage(d.TopicStatus), ProtoText: d.ProtoText}
	for i, sub := range d.Subscriptions {
		m := &adminv1.Subscription{
			Group: sub.Group, Topic: sub.Topic.Name, Rpc: sub.RPC, Filter: sub.Filter, MaxInFlight: sub.MaxInFlight,
			MaxAttempts: sub.Retry.MaxAttempts, InitialInterval: durationpb.New(sub.Retry.InitialInterval),
			MaxInterval: durationpb.New(sub.Retry.MaxInterval), BackoffCoefficient: sub.Retry.Coefficient,
			Lease: durationpb.New(sub.Lease), ProcessingTimeout: durationpb.New(sub.ProcessingTimeout),
			Jitter: sub.Retry.Jitter, StartFrom: sub.StartFrom.String(), DeadLettersDisabled: sub.DeadLetter.Disabled,
			HoldKey: sub.DeadLetter.HoldKey, DeadLetterExpired: sub.DeadLetterExpired, Settings: settings(d.Settings[i]),
		}
		if r := sub.DeadLetter.Retention; r > 0 {
			m.DeadLetterRetention = durationpb.New(r)
		}
		out.Subscriptions = append(out.Subscriptions, m)
	}
	return connect.NewResponse(out), nil
}

func settings(all []topic.Setting) (out []*adminv1.Setting) {
	for _, s := range all {
		out = append(out, &adminv1.Setting{Name: s.Name, Value: s.Value, Source: s.From.String()})
	}
	return out
}

// ListGroups implements AdminService.
func (s *adminService) ListGroups(ctx context.Context, r *connect.Request[adminv1.ListGroupsRequest]) (*connect.Response[adminv1.ListGroupsResponse], error) {
	groups, err := s.broker.Groups(ctx, r.Msg.GetGroup(), r.Msg.GetTopic())
	if err != nil {
		return nil, wireError(err)
	}
	out := &adminv1.ListGroupsResponse{}
	for _, g := range groups {
		m := &adminv1.GroupTopic{Group: g.Group, Topic: g.Topic, Consumers: uint32(g.Consumers), Paused: g.Paused}
		for _, p := range g.Partitions {
			m.Partitions = append(m.Partitions, groupPartition(p))
		}
		out.Groups = append(out.Groups, m)
	}
	return connect.NewResponse(out), nil
}

func groupPartition(p broker.ShardStatus) *adminv1.GroupPartition {
	m := &adminv1.GroupPartition{
		Partition: p.Partition, Position: p.Position, End: p.End, Lag: p.Lag, Leased: int64(p.Stats.Leased), Waiting: int64(p.Stats.Waiting),
		Parked: int64(p.Stats.Parked), DeadLetters: p.DeadLetters, Held: int64(p.Stats.Held), Epoch: p.Epoch,
		Counters: &adminv1.Counters{
			Delivered: p.Counters.Delivered, Acknowledged: p.Counters.Acknowledged, Skipped: p.Counters.Skipped, Filtered: p.Counters.Filtered,
			Retried: p.Counters.Retried, DeadLettered: p.Counters.DeadLettered, ExpiredLeases: p.Counters.ExpiredLeases,
			Redriven: p.Counters.Redriven, Discarded: p.Counters.Discarded, FilterErrors: p.Counters.FilterErrors,
			Expired: p.Counters.Expired, LostDeliveries: p.Counters.Lost, RetentionLost: p.Counters.RetentionLost,
			DeadLettersExpired: p.Counters.DeadLettersExpired,
		},
	}
	if p.Fault != nil {
		m.Fault = p.Fault.Error()
	}
	return m
}

// tailFlush bounds the messages of one answer of Tail.
const tailFlush = 500

// Tail implements AdminService.
func (s *adminService) Tail(ctx context.Context, r *connect.Request[adminv1.TailRequest], stream *connect.ServerStream[adminv1.TailResponse]) error {
	o := broker.TailOptions{Topic: r.Msg.GetTopic(), StopAtEnd: r.Msg.GetStopAtEnd()}
	switch r.Msg.GetFrom() {
	case "earliest":
		o.Earliest = true
	case "", "latest":
	default:
		return wireError(&broker.Error{Reason: broker.BadRequest, Field: "from", Message: `from must be "earliest" or "latest"`})
	}
	left := r.Msg.GetLimit()
	var sendErr error
	send := func(out *adminv1.TailResponse) bool {
		if len(out.Messages) == 0 {
			return true
		}
		sendErr = stream.Send(out)
		return sendErr == nil
	}
	// The answer begins before the first message, so that the caller knows that what is published now will be seen.
	if sendErr = stream.Send(&adminv1.TailResponse{}); sendErr != nil {
		return sendErr
	}
	err := s.broker.Tail(ctx, o, func(batch []broker.Tailed) bool {
		out := &adminv1.TailResponse{}
		for _, t := range batch {
			out.Messages = append(out.Messages, s.tailMessage(o.Topic, t))
			if left > 0 {
				if left--; left == 0 {
					return send(out) && false
				}
			}
			if len(out.Messages) == tailFlush {
				if !send(out) {
					return false
				}
				out = &adminv1.TailResponse{}
			}
		}
		return send(out)
	})
	if sendErr != nil {
		return sendErr
	}
	return wireError(err)
}

func (s *adminService) tailMessage(topicName string, t broker.Tailed) *adminv1.TailMessage {
	m := &adminv1.TailMessage{
		Id: broker.MessageID(t.Record, t.Partition, t.Lane, t.Offset), Partition: t.Partition, Offset: t.Offset, Priority: t.Priority,
		AppendTime: timestamppb.New(msTime(t.AppendMS)), Key: t.Record.Key, Headers: t.Record.HeaderMap(),
	}
	m.Json, _ = s.broker.JSON(topicName, t.Record.Payload) // absent if the payload does not decode
	return m
}

// ListDeadLetters implements AdminService.
func (s *adminService) ListDeadLetters(ctx context.Context, r *connect.Request[adminv1.ListDeadLettersRequest]) (*connect.Response[adminv1.ListDeadLettersResponse], error) {
	size, err := pageSize(r.Msg.GetPageSize())
	if err != nil {
		return nil, wireError(err)
	}
	dead, next, err := s.broker.DeadLetters(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), r.Msg.GetId(), size, r.Msg.GetPageToken())
	if err != nil {
		return nil, wireError(err)
	}
	out := &adminv1.ListDeadLettersResponse{NextPageToken: next}
	for _, d := range dead {
		out.DeadLetters = append(out.DeadLetters, &adminv1.DeadLetter{
			Id: d.ID, Group: r.Msg.GetGroup(), Topic: r.Msg.GetTopic(), Partition: d.Partition, Offset: d.Offset, Reason: d.Reason, Attempts: d.Attempts,
			FirstError: d.FirstError, LastError: d.LastError, Published: timestamppb.New(d.Published), Died: timestamppb.New(d.Died),
			Key: d.Record.Key, Headers: d.Record.HeaderMap(), Json: d.JSON, Payload: d.Record.Payload,
			Priority: d.Priority, HoldsKey: d.HoldsKey,
		})
	}
	return connect.NewResponse(out), nil
}

// pageSize is how many entries of a list are asked for.
func pageSize(asked uint32) (int, error) {
	switch {
	case asked == 0:
		return 100, nil
	case asked > 1000:
		return 0, &broker.Error{
			Reason: broker.BadRequest, Field: "page_size", Message: "page_size must be 1 to 1000", Metadata: map[string]string{"bound": "1000"},
		}
	}
	return int(asked), nil
}

// selection is what a request chooses. A limit beyond what an int holds is none.
func selection(q interface {
	GetIds() []string
	GetAll() bool
	GetFailure() string
	GetLimit() uint64
	GetPageToken() string
}) broker.Selection {
	limit := 0
	if q.GetLimit() <= math.MaxInt {
		limit = int(q.GetLimit())
	}
	return broker.Selection{IDs: q.GetIds(), All: q.GetAll(), Failure: q.GetFailure(), Limit: limit, Page: q.GetPageToken()}
}

// SummarizeDeadLetters implements AdminService.
func (s *adminService) SummarizeDeadLetters(ctx context.Context, r *connect.Request[adminv1.SummarizeDeadLettersRequest]) (*connect.Response[adminv1.SummarizeDeadLettersResponse], error) {
	failures, err := s.broker.Summarize(ctx, r.Msg.GetGroup(), r.Msg.GetTopic())
	if err != nil {
		return nil, wireError(err)
	}
	out := &adminv1.SummarizeDeadLettersResponse{}
	for _, f := range failures {
		out.Failures = append(out.Failures, &adminv1.Failure{
			Failure: f.Key, Reason: f.Reason, Error: f.Error, DeadLetters: uint64(f.Count), FirstDied: timestamppb.New(f.First),
			LastDied: timestamppb.New(f.Last), SampleId: f.SampleID,
		})
	}
	return connect.NewResponse(out), nil
}

// RedriveDeadLetters implements AdminService.
func (s *adminService) RedriveDeadLetters(ctx context.Context, r *connect.Request[adminv1.RedriveDeadLettersRequest]) (*connect.Response[adminv1.RedriveDeadLettersResponse], error) {
	n, unknown, next, err := s.broker.Redrive(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), selection(r.Msg))
	if err != nil {
		return nil, wireError(err)
	}
	return connect.NewResponse(&adminv1.RedriveDeadLettersResponse{Redriven: uint64(n), UnknownIds: unknown, More: next != "", NextPageToken: next}), nil
}

// DiscardDeadLetters implements AdminService.
func (s *adminService) DiscardDeadLetters(ctx context.Context, r *connect.Request[adminv1.DiscardDeadLettersRequest]) (*connect.Response[adminv1.DiscardDeadLettersResponse], error) {
	n, unknown, next, err := s.broker.Discard(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), selection(r.Msg))
	if err != nil {
		return nil, wireError(err)
	}
	return connect.NewResponse(&adminv1.DiscardDeadLettersResponse{Discarded: uint64(n), UnknownIds: unknown, More: next != "", NextPageToken: next}), nil
}

// SeekGroup implements AdminService.
func (s *adminService) SeekGroup(ctx context.Context, r *connect.Request[adminv1.SeekGroupRequest]) (*connect.Response[adminv1.SeekGroupResponse], error) {
	var to broker.SeekTo
	switch at := r.Msg.GetTo().(type) {
	case *adminv1.SeekGroupRequest_Edge:
		to.Edge = at.Edge
	case *adminv1.SeekGroupRequest_Offset:
		to.Offset, to.HasOffset = at.Offset, true
	case *adminv1.SeekGroupRequest_Time:
		if err := at.Time.CheckValid(); err != nil {
			return nil, wireError(&broker.Error{Reason: broker.BadTime, Field: "time", Message: "time: " + err.Error()})
		}
		to.Time, to.HasTime = at.Time.AsTime(), true
	}
	positions, err := s.broker.Seek(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), r.Msg.Partition, to)
	if err != nil {
		return nil, wireError(err)
	}
	out := &adminv1.SeekGroupResponse{}
	for _, p := range positions {
		out.Positions = append(out.Positions, &adminv1.Position{Partition: p.Partition, Offset: p.Offset})
	}
	return connect.NewResponse(out), nil
}

// PauseGroup implements AdminService.
func (s *adminService) PauseGroup(ctx context.Context, r *connect.Request[adminv1.PauseGroupRequest]) (*connect.Response[adminv1.PauseGroupResponse], error) {
	topics, err := s.broker.Pause(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), true)
	if err != nil {
		return nil, wireError(err)
	}
	return connect.NewResponse(&adminv1.PauseGroupResponse{Topics: topics}), nil
}

// ResumeGroup implements AdminService.
func (s *adminService) ResumeGroup(ctx context.Context, r *connect.Request[adminv1.ResumeGroupRequest]) (*connect.Response[adminv1.ResumeGroupResponse], error) {
	topics, err := s.broker.Pause(ctx, r.Msg.GetGroup(), r.Msg.GetTopic(), false)
	if err != nil {
		return nil, wireError(err)
	}
	return connect.NewResponse(&adminv1.ResumeGroupResponse{Topics: topics}), nil
}

// ListScheduled implements AdminService.
func (s *adminService) ListScheduled(ctx context.Context, r *connect.Request[adminv1.ListScheduledRequest]) (*connect.Response[adminv1.ListScheduledResponse], error) {
	size, err := pageSize(r.Msg.GetPageSize())
	if err != nil {
		return nil, wireError(err)
	}
	messages, next, err := s.broker.Scheduled(ctx, r.Msg.GetTopic(), r.Msg.GetId(), size, r.Msg.GetPageToken())
	if err != nil {
		return nil, wireError(err)
	}
	out := &adminv1.ListScheduledResponse{NextPageToken: next}
	for _, m := range messages {
		out.Scheduled = append(out.Scheduled, &adminv1.Scheduled{
			Id: m.ID, Due: timestamppb.New(m.Due), Partition: m.Partition, Priority: m.Priority, Key: m.Record.Key, Headers: m.Record.HeaderMap(), Json: m.JSON,
		})
	}
	return connect.NewResponse(out), nil
}

// recordSet gathers records for one publish.
type recordSet struct {
	bytes   []byte
	records [][]byte
}

func (s *recordSet) add(raw []byte) {
	s.bytes = engine.AppendRecord(s.bytes, raw)
	s.records = append(s.records, raw)
}

func itoa(n int) string { return strconv.Itoa(n) }
