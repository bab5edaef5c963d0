package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	crashv1 "github.com/typedmq/typedmq/sidecar/crash/gen/crash/v1"
	"github.com/typedmq/typedmq/sidecar/internal/sim"
)

// backlogPatience is how long groups may take to settle all there is once nothing is wrong any more.
const backlogPatience = 90 * time.Second

// drain waits until nothing is left to do, and returns what is otherwise.
func (r *rig) drain(ctx context.Context) (why string) {
	admin := r.node.admin()
	calm := 0
	for end := time.Now().Add(backlogPatience); ; r.pause(ctx, 50*time.Millisecond, 100*time.Millisecond) {
		if why = func() string {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			groups, err := admin.ListGroups(ctx, connect.NewRequest(&adminv1.ListGroupsRequest{}))
			if err != nil {
				return err.Error()
			}
			later, err := admin.ListScheduled(ctx, connect.NewRequest(&adminv1.ListScheduledRequest{Topic: tasks}))
			if err != nil {
				return err.Error()
			}
			if n := len(later.Msg.GetScheduled()); n > 0 {
				return fmt.Sprintf("%d messages are scheduled", n)
			}
			n := 0
			for _, g := range groups.Msg.GetGroups() {
				for _, p := range g.GetPartitions() {
					n++
					if p.GetFault() != "" || p.GetLag() > 0 || p.GetLeased() > 0 || p.GetWaiting() > 0 || p.GetPosition() != p.GetEnd() {
						return fmt.Sprintf("group %s, topic %s, partition %d: %v", g.GetGroup(), g.GetTopic(), p.GetPartition(), p)
					}
				}
			}
			if n != 8 {
				return fmt.Sprintf("%d partitions are served", n)
			}
			return ""
		}(); why == "" {
			if calm++; calm == 3 {
				return ""
			}
			continue
		}
		calm = 0
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Sprintf("%v after all faults: %s", backlogPatience, why)
		}
	}
}

// inventory tells the recorder what the store holds.
func (r *rig) inventory(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := take(ctx, r.node)
	if err != nil {
		return err
	}
	for _, m := range s.words {
		e := sim.Event{Kind: sim.InLog, Topic: words, Partition: m.partition, Offset: m.offset, UID: m.uid, Key: m.key}
		if !m.good {
			e.Result = sim.Fail
		}
		r.record.add(e)
	}
	for _, d := range s.dead {
		r.record.add(sim.Event{
			Kind: sim.InDead, Group: d.group, Topic: d.topic, Partition: d.partition, Offset: d.offset, UID: d.uid, Key: d.key, Attempt: d.attempts, Detail: d.reason,
		})
	}
	for _, p := range s.positions {
		if p.fault != "" {
			r.record.add(sim.Event{Kind: sim.Unservable, Detail: fmt.Sprintf("%s/%s/%d: %s", p.group, p.topic, p.partition, p.fault)})
		}
		r.record.add(sim.Event{
			Kind: sim.InShard, Group: p.group, Topic: p.topic, Partition: p.partition, Offset: p.position, Count: p.lag, Dead: p.dead, Epoch: uint64(p.end),
		})
	}
	return nil
}

// stock is what a sidecar shows of its store.
type stock struct {
	words, tasks []stored
	wordsFault   error // why the log could not be read to its end
	tasksFault   error
	dead         []deadLetter
	positions    []standing
	bounds       map[string]string // of each topic: begins, ends
	scheduled    []string
	faults       []string // what it says is wrong
}

type stored struct {
	partition uint32
	offset    int64
	uid       uint64
	key       string
	good      bool
}

type deadLetter struct {
	group, topic string
	partition    uint32
	offset       int64
	uid          uint64
	key, reason  string
	attempts     uint32
	good         bool
}

type standing struct {
	group, topic  string
	partition     uint32
	position, end int64
	lag, dead     int64
	fault         string
}

// take asks a sidecar for all that it has. What it refuses for damage is in the stock; an error is anything else.
func take(ctx context.Context, n *node) (*stock, error) {
	s := &stock{bounds: map[string]string{}}
	admin := n.admin()
	all, err := admin.ListTopics(ctx, connect.NewRequest(&adminv1.ListTopicsRequest{}))
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	for _, t := range all.Msg.GetTopics() {
		for _, p := range t.GetPartitionBounds() {
			s.bounds[fmt.Sprintf("%s/%d", t.GetName(), p.GetPartition())] = fmt.Sprintf("%d to %d", p.GetBegin(), p.GetEnd())
			if p.GetFault() != "" {
				s.faults = append(s.faults, fmt.Sprintf("%s/%d: %s", t.GetName(), p.GetPartition(), p.GetFault()))
			}
		}
	}
	if s.words, s.wordsFault, err = tail(ctx, n, words); err != nil {
		return nil, err
	}
	if s.tasks, s.tasksFault, err = tail(ctx, n, tasks); err != nil {
		return nil, err
	}
	groups, err := admin.ListGroups(ctx, connect.NewRequest(&adminv1.ListGroupsRequest{}))
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	for _, g := range groups.Msg.GetGroups() {
		for _, p := range g.GetPartitions() {
			s.positions = append(s.positions, standing{
				g.GetGroup(), g.GetTopic(), p.GetPartition(), p.GetPosition(), p.GetEnd(), p.GetLag() + p.GetLeased() + p.GetWaiting(), p.GetDeadLetters(), p.GetFault(),
			})
			if p.GetFault() != "" {
				s.faults = append(s.faults, fmt.Sprintf("%s of %s/%d: %s", g.GetGroup(), g.GetTopic(), p.GetPartition(), p.GetFault()))
			}
		}
		if err := s.takeDead(ctx, n, g.GetGroup(), g.GetTopic()); err != nil {
			return nil, err
		}
	}
	return s, s.takeScheduled(ctx, n)
}

// lossy tells whether an error says that data are damaged.
func lossy(err error) bool {
	return connect.CodeOf(err) == connect.CodeDataLoss
}

func (s *stock) takeDead(ctx context.Context, n *node, group, topic string) error {
	for token := ""; ; {
		page, err := n.admin().ListDeadLetters(ctx, connect.NewRequest(&adminv1.ListDeadLettersRequest{Group: group, Topic: topic, PageSize: 1000, PageToken: token}))
		if lossy(err) {
			s.faults = append(s.faults, fmt.Sprintf("dead letters of %s: %v", group, err))
			return nil
		}
		if err != nil {
			return fmt.Errorf("list dead letters of %s: %w", group, err)
		}
		for _, d := range page.Msg.GetDeadLetters() {
			letter := deadLetter{group: group, topic: topic, partition: d.GetPartition(), offset: d.GetOffset(), reason: d.GetReason(), attempts: d.GetAttempts()}
			if topic == words {
				var m crashv1.Word
				letter.good = proto.Unmarshal(d.GetPayload(), &m) == nil && bytes.Equal(m.GetContent(), content(m.GetUid()))
				letter.uid, letter.key = m.GetUid(), m.GetKey()
			} else {
				var m crashv1.Task
				letter.good = proto.Unmarshal(d.GetPayload(), &m) == nil && bytes.Equal(m.GetContent(), content(m.GetUid()))
				letter.uid, letter.key = m.GetUid(), taskKey(m.GetUid())
			}
			s.dead = append(s.dead, letter)
		}
		if token = page.Msg.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

func (s *stock) takeScheduled(ctx context.Context, n *node) error {
	for token := ""; ; {
		page, err := n.admin().ListScheduled(ctx, connect.NewRequest(&adminv1.ListScheduledRequest{Topic: tasks, PageSize: 1000, PageToken: token}))
		if lossy(err) {
			s.faults = append(s.faults, fmt.Sprintf("schedule: %v", err))
			return nil
		}
		if err != nil {
			return fmt.Errorf("list what is scheduled: %w", err)
		}
		for _, m := range page.Msg.GetScheduled() {
			s.scheduled = append(s.scheduled, fmt.Sprintf("%s due %d to %d: %v", m.GetId(), m.GetDue().AsTime().UnixMilli(), m.GetPartition(), m.GetJson().GetFields()["uid"]))
		}
		if token = page.Msg.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

// tail reads a topic from its begin to its end. Damage ends it, and is returned as fault.
func tail(ctx context.Context, n *node, topic string) (all []stored, fault, err error) {
	stream, err := n.admin().Tail(ctx, connect.NewRequest(&adminv1.TailRequest{Topic: topic, From: "earliest", StopAtEnd: true}))
	if err != nil {
		return nil, nil, fmt.Errorf("tail %s: %w", topic, err)
	}
	for stream.Receive() {
		for _, m := range stream.Msg().GetMessages() {
			f := m.GetJson().GetFields()
			uid, numberErr := strconv.ParseUint(f["uid"].GetStringValue(), 10, 64)
			body, bodyErr := base64.StdEncoding.DecodeString(f["content"].GetStringValue())
			one := stored{partition: m.GetPartition(), offset: m.GetOffset(), uid: uid, key: f["key"].GetStringValue()}
			one.good = errors.Join(numberErr, bodyErr) == nil && bytes.Equal(body, content(uid))
			if topic == words {
				one.good = one.good && string(m.GetKey()) == one.key
			}
			all = append(all, one)
		}
	}
	err = errors.Join(stream.Err(), stream.Close())
	if lossy(err) {
		return all, err, nil
	}
	if err != nil {
		return all, nil, fmt.Errorf("tail %s: %w", topic, err)
	}
	return all, nil, nil
}
