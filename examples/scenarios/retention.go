package main

import (
	"context"
	"fmt"
	"strconv"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

// analysis implements scenariosv1mq.AnalysisConsumer.
type analysis struct{ journal journal }

// OnMeasured gets every measurement that is kept until it is handled.
func (a *analysis) OnMeasured(ctx context.Context, m *scenariosv1.Measurement) error {
	return a.journal.handle(ctx, strconv.Itoa(int(m.GetNumber())), func() error { return nil })
}

// repair implements scenariosv1mq.RepairConsumer.
type repair struct{ journal journal }

// OnAssigned gets every task, however long it waits.
func (r *repair) OnAssigned(ctx context.Context, t *scenariosv1.Task) error {
	return r.journal.handle(ctx, strconv.Itoa(int(t.GetNumber())), func() error { return nil })
}

const (
	kept   = 1 << 20 // bytes, as in retention.proto
	weight = 8 << 10 // bytes of a message, and a few more
	series = 400     // messages of each topic: some three times what is kept
)

func runRetention(ctx context.Context, s *stage) (measured figures, err error) {
	const measurements, tasks = "measurements", "tasks"
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewPlantPublisher(client)
	analyst, crew := &analysis{}, &repair{}
	leave := s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterAnalysisConsumer(w, analyst) })
	rest := s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterRepairConsumer(w, crew) })
	for group, topic := range map[string]string{"analysis": measurements, "repair": tasks} {
		if _, err := s.settled(ctx, group, topic); err != nil {
			return nil, err
		}
	}
	leave()
	rest()

	// Nobody is there, and more comes than a PUBSUB topic may keep. A QUEUE keeps it.
	var messages []int32
	for i := range series {
		messages = append(messages, int32(i))
	}
	err = publishLines(ctx, [][]int32{messages}, func(ctx context.Context, i int32) error {
		_, err := publisher.Measured(ctx, &scenariosv1.Measurement{Number: i, Values: make([]byte, weight)})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = publishAll(ctx, messages, func(ctx context.Context, i int32) error {
		_, err := publisher.Assigned(ctx, &scenariosv1.Task{Number: i, Instructions: make([]byte, weight)})
		return err
	})
	if err != nil {
		return nil, err
	}
	bounds, err := s.shrunk(ctx, measurements, kept)
	if err != nil {
		return nil, err
	}
	waiting, err := s.bounds(ctx, tasks)
	if err != nil {
		return nil, err
	}
	if waiting.GetBegin() != 0 || waiting.GetEnd() != series || waiting.GetBytes() < series*weight {
		return nil, fmt.Errorf("the queue does not keep its messages: %v", waiting)
	}

	// Those who come back get what is there, and what is not is counted.
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterAnalysisConsumer(w, analyst) })
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterRepairConsumer(w, crew) })
	now, err := s.settled(ctx, "analysis", measurements)
	if err != nil {
		return nil, err
	}
	if err := checkNewest(analyst.journal.done(), bounds.GetBegin(), series); err != nil {
		return nil, err
	}
	if now.retentionLost != bounds.GetBegin() {
		return nil, fmt.Errorf("%d measurements were deleted unseen, and %d are counted", bounds.GetBegin(), now.retentionLost)
	}
	if _, err := s.settled(ctx, "repair", tasks); err != nil {
		return nil, err
	}
	if err := checkNewest(crew.journal.done(), 0, series); err != nil {
		return nil, err
	}
	left, err := s.shrunk(ctx, tasks, 0)
	if err != nil {
		return nil, err
	}
	measured.add("published", series)
	measured.add("deleted_unseen", bounds.GetBegin())
	measured.add("handled", len(analyst.journal.done()))
	measured.add("kept_bytes", bounds.GetBytes())
	measured.add("queue_bytes", waiting.GetBytes())
	measured.add("queue_handled", len(crew.journal.done()))
	measured.add("queue_bytes_after", left.GetBytes())
	return measured, nil
}

// checkNewest checks that the messages from an offset on were handled once, and none before.
func checkNewest(done map[string]int, from, end int64) error {
	for i := range end {
		want := 0
		if i >= from {
			want = 1
		}
		if got := done[strconv.FormatInt(i, 10)]; got != want {
			return fmt.Errorf("message %d of %d was handled %d times, not %d: the topic kept those from %d on", i, end, got, want, from)
		}
	}
	return nil
}

// bounds asks mq topics what the only partition of a topic holds.
func (s *stage) bounds(ctx context.Context, topic string) (*adminv1.Partition, error) {
	answer, err := ask(ctx, s.server, &adminv1.ListTopicsResponse{}, "topics")
	if err != nil {
		return nil, err
	}
	for _, t := range answer.GetTopics() {
		if t.GetName() == topic && len(t.GetPartitionBounds()) == 1 {
			return t.GetPartitionBounds()[0], nil
		}
	}
	return nil, fmt.Errorf("mq topics does not show the only partition of %s", topic)
}

// shrunk waits until the only partition of a topic holds no more than so many bytes.
func (s *stage) shrunk(ctx context.Context, topic string, most int64) (bounds *adminv1.Partition, err error) {
	err = await(ctx, func() (string, error) {
		if bounds, err = s.bounds(ctx, topic); err != nil {
			return "", err
		}
		if bounds.GetBytes() > most {
			return fmt.Sprintf("topic %s holds %d bytes, and is to hold %d", topic, bounds.GetBytes(), most), nil
		}
		return "", nil
	})
	return bounds, err
}
