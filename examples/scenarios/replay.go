package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

// statistics implements scenariosv1mq.StatisticsConsumer.
type statistics struct{ journal journal }

// OnVisited counts a visit. Whoever replays messages has to be able to handle them again.
func (s *statistics) OnVisited(ctx context.Context, visit *scenariosv1.Visit) error {
	return s.journal.handle(ctx, visit.GetVisitId(), func() error { return nil })
}

func runReplay(ctx context.Context, s *stage) (measured figures, err error) {
	const group, topic, half, more = "statistics", "visits", 250, 50
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewSitePublisher(client)
	publish := func(name string, n int) error {
		return publishAll(ctx, visits(name, n), func(ctx context.Context, v *scenariosv1.Visit) error {
			_, err := publisher.Visited(ctx, v)
			return err
		})
	}
	handler := &statistics{}
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterStatisticsConsumer(w, handler) })
	// handled waits until the visits of each part of the day were handled so many times, and checks that it was not more.
	handled := func(morning, evening, night int) error {
		want := []part{{"morning", half, morning}, {"evening", half, evening}, {"night", more, night}}
		if err := handler.reached(ctx, want); err != nil {
			return err
		}
		if _, err := s.settled(ctx, group, topic); err != nil {
			return err
		}
		return checkVisits(handler.journal.done(), want)
	}

	if err := publish("morning", half); err != nil {
		return nil, err
	}
	// A seek to an instant may bring what entered the topic up to a second before. Nothing did.
	if err := sleep(ctx, 1100*time.Millisecond); err != nil {
		return nil, err
	}
	noon := time.Now()
	if err := publish("evening", half); err != nil {
		return nil, err
	}
	if err := handled(1, 1, 0); err != nil {
		return nil, err
	}

	// All of it again, and then what came after an instant.
	if _, err := ask(ctx, s.server, &adminv1.SeekGroupResponse{}, "group", "seek", group, topic, "--to", "earliest"); err != nil {
		return nil, err
	}
	if err := handled(2, 2, 0); err != nil {
		return nil, err
	}
	instant := noon.UTC().Format(time.RFC3339Nano)
	if _, err := ask(ctx, s.server, &adminv1.SeekGroupResponse{}, "group", "seek", group, topic, "--to", instant); err != nil {
		return nil, err
	}
	if err := handled(2, 3, 0); err != nil {
		return nil, err
	}

	// A group that is paused gets nothing, and misses nothing.
	if _, err := ask(ctx, s.server, &adminv1.PauseGroupResponse{}, "group", "pause", group, "--topic", topic); err != nil {
		return nil, err
	}
	now, err := s.stands(ctx, group, topic)
	if err != nil {
		return nil, err
	}
	if !now.paused {
		return nil, errors.New("mq groups does not show the group as paused")
	}
	if err := publish("night", more); err != nil {
		return nil, err
	}
	quiet := 500 * time.Millisecond
	if err := sleep(ctx, quiet); err != nil {
		return nil, err
	}
	if got := handler.journal.begun() - 5*half; got != 0 {
		return nil, fmt.Errorf("%d visits came while the group was paused", got)
	}
	if _, err := ask(ctx, s.server, &adminv1.ResumeGroupResponse{}, "group", "resume", group, "--topic", topic); err != nil {
		return nil, err
	}
	if err := handled(2, 3, 1); err != nil {
		return nil, err
	}
	measured.add("visits", 2*half+more)
	measured.add("replayed_from_earliest", 2*half)
	measured.add("replayed_from_instant", half)
	measured.milliseconds("paused_ms", quiet)
	measured.add("after_resume", more)
	return measured, nil
}

func visits(name string, n int) (list []*scenariosv1.Visit) {
	for i := range n {
		list = append(list, &scenariosv1.Visit{VisitId: fmt.Sprintf("%s-%d", name, i), Page: "/"})
	}
	return list
}

// part is a part of the day: n visits, and how many times each is to be handled.
type part struct {
	name     string
	n, times int
}

// reached waits until the visits of each part were handled so many times in all.
func (s *statistics) reached(ctx context.Context, day []part) error {
	return await(ctx, func() (string, error) {
		done := s.journal.done()
		for _, p := range day {
			count := 0
			for _, v := range visits(p.name, p.n) {
				count += done[v.GetVisitId()]
			}
			if count < p.n*p.times {
				return fmt.Sprintf("visits of the %s were handled %d of %d times", p.name, count, p.n*p.times), nil
			}
		}
		return "", nil
	})
}

// checkVisits checks how many times each visit was handled.
func checkVisits(done map[string]int, day []part) error {
	for _, p := range day {
		for _, v := range visits(p.name, p.n) {
			if done[v.GetVisitId()] != p.times {
				return fmt.Errorf("visit %s was handled %d times, not %d", v.GetVisitId(), done[v.GetVisitId()], p.times)
			}
		}
	}
	return nil
}
