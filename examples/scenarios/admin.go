package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

// ask runs an mq command, as a person at a terminal would, and reads its JSON answer.
func ask[M proto.Message](ctx context.Context, s *server, answer M, args ...string) (M, error) {
	var text json.RawMessage
	err := s.Ask(ctx, &text, args...)
	if err == nil {
		err = protojson.Unmarshal(text, answer)
	}
	return answer, err
}

// standing is where a group stands in a topic, summed up over the partitions.
type standing struct {
	fault  string // why a partition does not serve the group, if one does not: it may be about to
	paused bool

	lag, deadLetters, held               int64
	behind                               int64 // by how much positions are below the ends
	delivered, expired, filtered, losses int64
	retentionLost                        int64
}

// stands asks mq groups.
func (s *stage) stands(ctx context.Context, group, topic string) (standing, error) {
	var sum standing
	answer, err := ask(ctx, s.server, &adminv1.ListGroupsResponse{}, "groups", group, "--topic", topic)
	if err != nil {
		return sum, err
	}
	for _, g := range answer.GetGroups() {
		sum.paused = g.GetPaused()
		for _, p := range g.GetPartitions() {
			if p.GetFault() != "" && sum.fault == "" {
				sum.fault = fmt.Sprintf("partition %d: %s", p.GetPartition(), p.GetFault())
			}
			sum.lag += p.GetLag()
			sum.deadLetters += p.GetDeadLetters()
			sum.held += p.GetHeld()
			sum.behind += p.GetEnd() - p.GetPosition()
			c := p.GetCounters()
			sum.delivered += c.GetDelivered()
			sum.expired += c.GetExpired()
			sum.filtered += c.GetFiltered()
			sum.losses += c.GetLostDeliveries()
			sum.retentionLost += c.GetRetentionLost()
		}
	}
	return sum, nil
}

// settled waits until every message of the topic is settled for the group.
func (s *stage) settled(ctx context.Context, group, topic string) (now standing, err error) {
	err = await(ctx, func() (string, error) {
		if now, err = s.stands(ctx, group, topic); err != nil {
			return unless(err)
		}
		if now.fault != "" || now.lag > 0 || now.behind > 0 {
			return fmt.Sprintf("group %s has a lag of %d in %s, and positions %d below the ends %s", group, now.lag, topic, now.behind, now.fault), nil
		}
		return "", nil
	})
	return now, err
}

// deadLetters asks mq dlq list.
func (s *stage) deadLetters(ctx context.Context, group, topic string) ([]*adminv1.DeadLetter, error) {
	answer, err := ask(ctx, s.server, &adminv1.ListDeadLettersResponse{}, "dlq", "list", group, topic)
	return answer.GetDeadLetters(), err
}

// buried waits for n dead letters.
func (s *stage) buried(ctx context.Context, group, topic string, n int) (letters []*adminv1.DeadLetter, err error) {
	err = await(ctx, func() (string, error) {
		if letters, err = s.deadLetters(ctx, group, topic); err != nil {
			return unless(err)
		}
		if len(letters) < n {
			return fmt.Sprintf("group %s has %d of %d dead letters in %s", group, len(letters), n, topic), nil
		}
		return "", nil
	})
	return letters, err
}

// unless tells refusals that time heals, such as of a group that is not declared yet or whose partitions are being claimed, from others.
func unless(err error) (missing string, failed error) {
	for _, reason := range []string{"GROUP_UNKNOWN", "TOPIC_UNKNOWN", "PARTITION_UNAVAILABLE"} {
		if strings.Contains(err.Error(), "("+reason) {
			return err.Error(), nil
		}
	}
	return "", err
}

// failures asks mq dlq failures: the dead letters by reason and last error, the most frequent first.
func (s *stage) failures(ctx context.Context, group, topic string) ([]*adminv1.Failure, error) {
	answer, err := ask(ctx, s.server, &adminv1.SummarizeDeadLettersResponse{}, "dlq", "failures", group, topic)
	return answer.GetFailures(), err
}

// redrive runs mq dlq redrive with ids or a flag that chooses n dead letters.
func (s *stage) redrive(ctx context.Context, n uint64, group, topic string, choice ...string) error {
	answer, err := ask(ctx, s.server, &adminv1.RedriveDeadLettersResponse{}, append([]string{"dlq", "redrive", group, topic}, choice...)...)
	if err == nil && answer.GetRedriven() != n {
		err = fmt.Errorf("mq dlq redrive gave %d dead letters back, not %d", answer.GetRedriven(), n)
	}
	return err
}
