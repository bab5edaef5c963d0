package mqtest_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/sidecar/mqtest"
)

// fares answers with a function.
type fares func(context.Context, *scenariosv1.FareRequest) (*scenariosv1.FareReply, error)

func (f fares) Fare(ctx context.Context, m *scenariosv1.FareRequest) (*scenariosv1.FareReply, error) {
	return f(ctx, m)
}

// TestCalls: a call is answered by a handler of the same test, and Settle waits for all of it.
func TestCalls(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		b := mqtest.New(t)
		scenariosv1mq.RegisterPricingConsumer(b.Worker(), fares(func(_ context.Context, m *scenariosv1.FareRequest) (*scenariosv1.FareReply, error) {
			if m.GetRow() == 13 {
				return nil, &mq.Error{Code: connect.CodeNotFound, Reason: "NO_SUCH_ROW"}
			}
			return &scenariosv1.FareReply{Row: m.GetRow(), Cents: 100}, nil
		}))
		desk := scenariosv1mq.NewDeskPublisher(b.Client())
		var asked sync.WaitGroup
		for row := range int32(20) {
			asked.Go(func() {
				reply, err := desk.Fare(t.Context(), &scenariosv1.FareRequest{Row: row})
				var refused *mq.Error
				switch {
				case row == 13 && (!errors.As(err, &refused) || refused.Reason != "NO_SUCH_ROW" || refused.Code != connect.CodeNotFound):
					t.Errorf("row 13: %v, %v", reply, err)
				case row != 13 && (err != nil || reply.GetRow() != row || reply.GetCents() != 100):
					t.Errorf("row %d: %v, %v", row, reply, err)
				}
			})
		}
		asked.Wait()
		b.Settle(t)
		if n := len(mqtest.Published[*scenariosv1.FareRequest](b)); n != 20 {
			t.Errorf("%d calls were published", n)
		}
	})
}

// TestCallOfNobody: without a consumer the call ends with its context, and the message has expired when one comes.
func TestCallOfNobody(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		b := mqtest.New(t)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := scenariosv1mq.NewDeskPublisher(b.Client()).Fare(ctx, &scenariosv1.FareRequest{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the call returned %v", err)
		}
		b.Advance(time.Second)
		scenariosv1mq.RegisterPricingConsumer(b.Worker(), fares(func(context.Context, *scenariosv1.FareRequest) (*scenariosv1.FareReply, error) {
			t.Error("an expired call was delivered")
			return nil, nil
		}))
		b.Settle(t)
	})
}
