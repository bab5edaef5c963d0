package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// pricing answers calls. It implements scenariosv1mq.PricingConsumer.
type pricing struct {
	answered atomic.Int64
	slow     chan struct{} // closed when the slow flight may be answered
}

// Fare answers one call. What it returns is what the caller gets, be it a price or an error.
func (p *pricing) Fare(ctx context.Context, r *scenariosv1.FareRequest) (*scenariosv1.FareReply, error) {
	switch r.GetFlight() {
	case "unknown":
		return nil, &mq.Error{Code: connect.CodeNotFound, Reason: "NO_SUCH_FLIGHT", Message: "there is no such flight"}
	case "slow":
		select {
		case <-p.slow:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p.answered.Add(1)
	return &scenariosv1.FareReply{Flight: r.GetFlight(), Row: r.GetRow(), Cents: cents(r)}, nil
}

func cents(r *scenariosv1.FareRequest) int64 {
	return int64(len(r.GetFlight()))*1000 + int64(r.GetRow())
}

func runCall(ctx context.Context, s *stage) (measured figures, err error) {
	p := &pricing{slow: make(chan struct{})}
	for range 2 {
		s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterPricingConsumer(w, p) })
	}
	// Two processes ask at the same time. Each gets its own answers.
	var desks []scenariosv1mq.DeskPublisher
	var clients []*mq.Client
	for range 2 {
		client, err := s.dial(ctx)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
		desks = append(desks, scenariosv1mq.NewDeskPublisher(client))
	}
	rows := make([]int32, 1000)
	for i := range rows {
		rows[i] = int32(i)
	}
	begin := time.Now()
	err = publishAll(ctx, rows, func(ctx context.Context, row int32) error {
		return askFare(ctx, desks[row%2], &scenariosv1.FareRequest{Flight: fmt.Sprint("MQ", row%7), Row: row})
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(begin)

	// An error is an answer: it comes at once, with its code, and nothing is tried again.
	_, err = desks[0].Fare(ctx, &scenariosv1.FareRequest{Flight: "unknown"})
	var refused *mq.Error
	if !errors.As(err, &refused) || refused.Code != connect.CodeNotFound || refused.Reason != "NO_SUCH_FLIGHT" {
		return nil, fmt.Errorf("the call of an unknown flight returned %v", err)
	}

	// A call ends with its context. The answer that comes later is dropped, and counted.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err = desks[0].Fare(short, &scenariosv1.FareRequest{Flight: "slow"})
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("a call of 300 ms to a handler that takes longer returned %v", err)
	}
	close(p.slow)
	if err := await(ctx, func() (string, error) {
		if clients[0].LateReplies() == 0 {
			return "no late answer was counted", nil
		}
		return "", nil
	}); err != nil {
		return nil, err
	}

	// The sidecar is killed while calls are under way. Each is answered all the same: calls and answers are durable.
	before := p.answered.Load()
	var killed sync.WaitGroup
	killed.Go(func() {
		if err := await(ctx, func() (string, error) {
			if p.answered.Load() < before+100 {
				return "calls are not answered", nil
			}
			s.server.process.Kill()
			return "", s.server.start(ctx, s.fail)
		}); err != nil {
			s.fail(err)
		}
	})
	err = publishAll(ctx, rows, func(ctx context.Context, row int32) error {
		return askFare(ctx, desks[row%2], &scenariosv1.FareRequest{Flight: fmt.Sprint("MQ", row%7), Row: row})
	})
	killed.Wait()
	if err != nil {
		return nil, err
	}
	if clients[1].LateReplies() != 0 {
		return nil, fmt.Errorf("a process without late calls counted %d late answers", clients[1].LateReplies())
	}
	measured.add("calls", 2*len(rows)+2)
	measured.add("per_second", int(float64(len(rows))/took.Seconds()))
	measured.add("late", int(clients[0].LateReplies()))
	return measured, nil
}

// askFare makes a call and checks that the answer is to it.
func askFare(ctx context.Context, desk scenariosv1mq.DeskPublisher, r *scenariosv1.FareRequest) error {
	reply, err := desk.Fare(ctx, r)
	if err != nil {
		return err
	}
	if reply.GetFlight() != r.GetFlight() || reply.GetRow() != r.GetRow() || reply.GetCents() != cents(r) {
		return fmt.Errorf("the call %v was answered with %v", r, reply)
	}
	return nil
}
