package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// runner implements scenariosv1mq.RunnerConsumer.
type runner struct {
	gate    gate
	journal journal
}

// OnQueued does a job. The context tells how urgent it is.
func (r *runner) OnQueued(ctx context.Context, job *scenariosv1.Job) error {
	return r.journal.handle(ctx, job.GetJobId(), func() error { return r.gate.pass(ctx) })
}

// Urgencies, as in priority.proto.
const (
	canWait = 1 + iota
	normal
	urgent
)

// atWork is how many jobs run at a time: one, so that the order in which they begin is the order in which they were handed out. What has begun is
// not interrupted.
const atWork = 1

// turn is how many messages may go before one of a lower priority that is ready: then it is its turn.
const turn = 256

func runPriority(ctx context.Context, s *stage) (measured figures, err error) {
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	j := &jobs{stage: s, publisher: scenariosv1mq.NewJobsPublisher(client)}

	// A backlog of jobs that can wait, and then others. The handlers stand still until all are published.
	handler, err := j.play(ctx, []batch{{canWait, 200}, {normal, 40}, {urgent, 100}})
	if err != nil {
		return nil, err
	}
	if err := checkOvertaking(urgencies(handler.journal.all()[atWork:])); err != nil {
		return nil, err
	}
	// So many urgent jobs that others would starve behind them.
	handler, err = j.play(ctx, []batch{{canWait, 10}, {urgent, 800}})
	if err != nil {
		return nil, err
	}
	longest, relieved, err := checkStarvation(urgencies(handler.journal.all()[atWork:]))
	if err != nil {
		return nil, err
	}
	measured.add("jobs", 340+810)
	measured.add("urgent_overtook", 200+40-atWork)
	measured.add("in_flight", atWork)
	measured.add("most_before_lower", longest)
	measured.add("turns_of_lower", relieved)
	return measured, nil
}

// batch is n jobs of one urgency.
type batch struct {
	urgency int32
	n       int
}

type jobs struct {
	stage     *stage
	publisher scenariosv1mq.JobsPublisher
}

// play lets a new worker take what it can of the first batch and hold it, publishes the others, and lets the worker go on until all is done.
func (j *jobs) play(ctx context.Context, batches []batch) (*runner, error) {
	handler := &runner{}
	handler.gate.shut()
	if err := j.publish(ctx, batches[0]); err != nil {
		return nil, err
	}
	stop := j.stage.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterRunnerConsumer(w, handler) }, mq.WithConcurrency(atWork))
	defer stop()
	defer handler.gate.open()
	err := await(ctx, func() (string, error) {
		if n := handler.journal.begun(); n < atWork {
			return fmt.Sprintf("%d of %d jobs have begun", n, atWork), nil
		}
		return "", nil
	})
	if err != nil {
		return nil, err
	}
	total := batches[0].n
	for _, b := range batches[1:] {
		total += b.n
		if err := j.publish(ctx, b); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, 300*time.Millisecond); err != nil { // for the sidecar to see what was published
		return nil, err
	}
	handler.gate.open()
	return handler, await(ctx, func() (string, error) {
		if n := len(handler.journal.done()); n < total {
			return fmt.Sprintf("%d of %d jobs are done", n, total), nil
		}
		return "", nil
	})
}

func (j *jobs) publish(ctx context.Context, b batch) error {
	var list []*scenariosv1.Job
	for i := range b.n {
		list = append(list, &scenariosv1.Job{JobId: fmt.Sprintf("%d-%d", b.urgency, i), Urgency: b.urgency})
	}
	return publishAll(ctx, list, func(ctx context.Context, job *scenariosv1.Job) error {
		_, err := j.publisher.Queued(ctx, job)
		return err
	})
}

// urgencies lists the urgency of each job in the order in which they began. Its id begins with it.
func urgencies(all []handling) (list []int) {
	for _, h := range all {
		urgency, _, _ := strings.Cut(h.id, "-")
		list = append(list, int(urgency[0]-'0'))
	}
	return list
}

// checkOvertaking checks that the more urgent jobs went first.
func checkOvertaking(began []int) error {
	for i := 1; i < len(began); i++ {
		if began[i] > began[i-1] {
			return fmt.Errorf("a job of priority %d began before one of priority %d", began[i-1], began[i])
		}
	}
	return nil
}

// checkStarvation checks that jobs that can wait had their turns while there were urgent ones. It returns the most jobs that went before
// such a turn, and how many turns there were.
func checkStarvation(began []int) (longest, turns int, err error) {
	last := 0
	for i, urgency := range began {
		if urgency == urgent {
			last = i
		}
	}
	passed := 0
	for _, urgency := range began[:last+1] {
		if urgency != urgent {
			longest, passed = max(longest, passed), 0
			turns++
			continue
		}
		passed++
	}
	longest = max(longest, passed)
	if longest > turn {
		return 0, 0, fmt.Errorf("%d urgent jobs went before one that can wait, more than %d", longest, turn)
	}
	return longest, turns, nil
}
