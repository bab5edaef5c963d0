package mq

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

type stringDelivery = Delivery[*wrapperspb.StringValue]

func runDeliveries(t *testing.T, c *Client, handler func(context.Context, *stringDelivery) error, opts ...WorkerOption) *running {
	t.Helper()
	w := NewWorker(c, opts...)
	HandleDelivery(w, stringSubscription, handler)
	return start(t, w)
}

func TestDeliveryOutcomes(t *testing.T) {
	boom := errors.New("boom")
	for _, test := range []struct {
		name   string
		settle func(context.Context, *stringDelivery) error
		want   string
	}{
		{"ack", func(ctx context.Context, d *stringDelivery) error { return d.Ack(ctx) }, "0 ack"},
		{"nack", func(ctx context.Context, d *stringDelivery) error { return d.Nack(ctx, boom) }, "0 retry boom"},
		{"nack after", func(ctx context.Context, d *stringDelivery) error { return d.Nack(ctx, RetryAfter(boom, time.Minute)) }, "0 retry boom after 1m0s"},
		{"nack nil", func(ctx context.Context, d *stringDelivery) error { return d.Nack(ctx, nil) }, "0 retry the handler did not acknowledge the message"},
		{"reject", func(ctx context.Context, d *stringDelivery) error { return d.Reject(ctx, boom) }, "0 reject PERMANENT boom"},
		{"reject a snooze", func(ctx context.Context, d *stringDelivery) error { return d.Reject(ctx, Snooze(1)) }, "0 reject PERMANENT snoozed for 1ns"},
		{"reject nil", func(ctx context.Context, d *stringDelivery) error { return d.Reject(ctx, nil) }, "0 reject PERMANENT the handler rejected the message"},
		{"snooze", func(ctx context.Context, d *stringDelivery) error { return d.Snooze(ctx, time.Hour) }, "0 snooze 1h0m0s"},
		{"snooze for too long", func(ctx context.Context, d *stringDelivery) error { return d.Snooze(ctx, 30*24*time.Hour) }, "0 snooze 168h0m0s"},
		{"nothing", func(context.Context, *stringDelivery) error { return nil }, "0 retry the handler returned without settling the message"},
		{"an error", func(context.Context, *stringDelivery) error { return Permanent(boom) }, "0 reject PERMANENT boom"},
		{"a panic", func(context.Context, *stringDelivery) error { panic("bang") }, "0 retry panic: bang"},
		{"settled, then an error", func(ctx context.Context, d *stringDelivery) error { _ = d.Ack(ctx); return boom }, "0 ack"},
		{"settled, then a panic", func(ctx context.Context, d *stringDelivery) error { _ = d.Ack(ctx); panic("bang") }, "0 ack"},
	} {
		t.Run(test.name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.inFlight = 1
				r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
					if d.Message().GetValue() != "a" || d.Meta().ID == "" || MetaFrom(ctx).ID != d.Meta().ID {
						t.Errorf("message %v, meta %v", d.Message(), d.Meta())
					}
					return test.settle(ctx, d)
				})
				k := <-b.consumers
				for i, want := range []string{test.want, strings.Replace(test.want, "0", "1", 1)} { // the place is free again
					_ = k.deliver("a")
					if got := b.allSettled(); len(got) != 1 || got[0] != want {
						t.Errorf("message %d: settled %q, want %q", i, got, want)
					}
				}
				r.finish(t)
			})
		})
	}
}

func TestDeliveryIsSettledOnce(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		kept := make(chan *stringDelivery, 1)
		r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
			if d.Message().GetValue() == "unsettled" {
				kept <- d
				return nil
			}
			if err := d.Ack(ctx); err != nil {
				t.Error(err)
			}
			for _, err := range []error{d.Ack(ctx), d.Nack(ctx, nil), d.Reject(ctx, nil), d.Snooze(ctx, 0), d.Extend(ctx, time.Second)} {
				if !errors.Is(err, ErrSettled) {
					t.Errorf("again: %v", err)
				}
			}
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("a", "unsettled")
		expect(t, "settled", b.allSettled(), "0 ack", "1 retry the handler returned without settling the message")
		if err := (<-kept).Ack(t.Context()); !errors.Is(err, ErrSettled) {
			t.Errorf("after the return: %v", err)
		}
		r.finish(t)
	})
}

func TestDeliveryHearsOfItsSettlement(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(*brokerv1.SettleRequest) (*brokerv1.SettleResponse, error)
		want   error
	}{
		{"lease lost", func(r *brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			return &brokerv1.SettleResponse{Refusals: []*brokerv1.SettleRefusal{
				{Token: r.GetAcks(), Refusal: refusalOf(connect.CodeFailedPrecondition, "LEASE_LOST")}}}, nil
		}, ErrLeaseLost},
		{"refused for good", func(r *brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			return &brokerv1.SettleResponse{Refusals: []*brokerv1.SettleRefusal{
				{Token: r.GetAcks(), Refusal: refusalOf(connect.CodeInvalidArgument, "TOPIC_UNKNOWN")}}}, nil
		}, ErrTopicUnknown},
		{"the whole call refused", func(*brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			return nil, refusalError(connect.CodeNotFound, "TOPIC_UNKNOWN")
		}, ErrTopicUnknown},
		{"never answered", func(*brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			return nil, refusalError(connect.CodeUnavailable, "DRAINING")
		}, context.DeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.settle = test.answer
				errs := make(chan error, 1)
				r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
					ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
					defer cancel()
					errs <- d.Ack(ctx)
					return nil
				})
				_ = (<-b.consumers).deliver("a")
				if err := <-errs; !errors.Is(err, test.want) {
					t.Errorf("Ack returned %v, want %v", err, test.want)
				}
				r.stop()
				<-r.done
			})
		})
	}
}

// A handler whose session has gone hears that its message comes again, however the sidecar fails to answer.
func TestDeliveryOfALostSession(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		errs := make(chan error, 1)
		r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
			<-ctx.Done()
			errs <- d.Ack(context.WithoutCancel(ctx))
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		b.network.cut(true)
		if err := <-errs; !errors.Is(err, ErrLeaseLost) {
			t.Errorf("Ack returned %v", err)
		}
		b.network.up()
		<-b.consumers
		r.finish(t)
	})
}

func TestDeliveryExtend(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		ends := make(chan error, 2)
		r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
			for _, by := range []time.Duration{0, -1, MaxProcessingTime + 1} {
				if err := d.Extend(ctx, by); err == nil {
					t.Errorf("extended by %v", by)
				}
			}
			time.Sleep(50 * time.Second)
			if err := d.Extend(ctx, 2*time.Minute); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
			ends <- context.Cause(ctx)
			ends <- errors.Join(d.Ack(ctx), d.Extend(ctx, time.Minute))
			return nil
		})
		k := <-b.consumers
		began := time.Now()
		_ = k.deliver("a")
		if err := <-ends; !errors.Is(err, ErrProcessingTimeout) {
			t.Errorf("cause %v", err)
		}
		if took := time.Since(began); took != 170*time.Second {
			t.Errorf("the context ended after %v", took)
		}
		if err := <-ends; !errors.Is(err, ErrProcessingTimeout) {
			t.Errorf("settled after the timeout: %v", err)
		}
		expect(t, "settled", b.allSettled(), "0 retry mq: processing timeout after 1m0s")
		r.finish(t)
	})
}

// A handler that goes on after it settled keeps its place: the sidecar hears of it, and what comes meanwhile waits.
func TestDeliveryKeepsItsPlaceUntilTheHandlerReturns(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 1
		proceed, hold := make(chan struct{}), make(chan struct{})
		calls := make(chan string, 4)
		r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
			calls <- d.Message().GetValue()
			if d.Message().GetValue() == "unsettled" {
				<-hold
			}
			err := d.Ack(ctx)
			<-proceed
			return err
		})
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		expect(t, "credit", credits(k), "0")
		_ = k.deliver("b") // the sidecar had sent it before it heard of the credit
		expect(t, "settled: b is not given back", b.allSettled(), "0 ack")
		expect(t, "handled", taken(calls), "a")
		close(proceed)
		expect(t, "handled", taken(calls), "b")
		expect(t, "settled", b.allSettled(), "1 ack")
		if all := credits(k); len(all) == 0 || all[len(all)-1] != "1" {
			t.Errorf("credit %q", all)
		}
		_ = k.deliver("unsettled", "too many") // nothing waits behind one that has not settled
		expect(t, "settled", b.allSettled(), "3 release")
		close(hold)
		r.finish(t)
	})
}

func TestDeliveryDrainUsesNoAttempt(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
			<-ctx.Done()
			if d.Message().GetValue() == "error" {
				return ctx.Err()
			}
			return nil
		}, WithDrainTimeout(time.Second))
		_ = (<-b.consumers).deliver("error", "nil")
		synctest.Wait()
		r.finish(t)
		expect(t, "settled", b.allSettled(), "0 release", "1 release")
	})
}
