package mq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

type callHandler = func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error)

// deliverCall sends a message whose caller waits, unless number is 0.
func (k *fakeConsumer) deliverCall(payload []byte, number uint64) error {
	r := &brokerv1.Record{Payload: payload}
	if number > 0 {
		r.ReplyTo, r.Call = []byte("inbox***********"), number
	}
	return k.deliverRecords(&brokerv1.RecordSet{Records: []*brokerv1.Record{r}})
}

func TestAnswers(t *testing.T) {
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		handle  callHandler
		called  string // what is settled if somebody waits
		message string // and if nobody does
	}{
		"a reply": {func(_ context.Context, m *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return wrapperspb.Int64(int64(len(m.GetValue()))), nil
		}, `answer 7 inbox google.protobuf.Int64Value "\b\x01"`, "ack"},
		"an empty reply": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return &wrapperspb.Int64Value{}, nil
		}, `answer 7 inbox google.protobuf.Int64Value ""`, "ack"},
		"an error": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) { return nil, boom },
			"answer 7 inbox unknown  boom", "retry boom"},
		"an error with a code": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, fmt.Errorf("price: %w", &Error{Code: connect.CodeNotFound, Reason: "NO_SEAT", Message: "no such seat"})
		}, "answer 7 inbox not_found NO_SEAT no such seat", "retry price: mq: not_found NO_SEAT: no such seat"},
		"an error of Connect": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, connect.NewError(connect.CodePermissionDenied, boom)
		}, "answer 7 inbox permission_denied  boom", "retry permission_denied: boom"},
		"permanent": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, Permanent(boom)
		},
			"answer 7 inbox unknown  boom", "reject PERMANENT boom"},
		"retry after": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, RetryAfter(boom, time.Second)
		}, "retry boom after 1s", "retry boom after 1s"},
		"snooze": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, Snooze(time.Second)
		},
			"snooze 1s", "snooze 1s"},
		"skip": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, Skip("boring")
		},
			"answer 7 inbox unknown  skipped: boring", "skip boring"},
		"a panic": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) { panic("bang") },
			"answer 7 inbox internal  panic: bang", "retry panic: bang"},
		"goexit": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			runtime.Goexit()
			return nil, nil
		},
			"answer 7 inbox internal  the handler ended its goroutine", "retry the handler ended its goroutine"},
		"an error that panics": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, (*textError)(nil)
		},
			"answer 7 inbox internal  panic: runtime error: invalid memory address or nil pointer dereference",
			"retry panic: runtime error: invalid memory address or nil pointer dereference"},
		"neither": {func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) { return nil, nil },
			"answer 7 inbox internal BAD_MESSAGE the handler returned neither an answer nor an error",
			"retry mq: internal BAD_MESSAGE: the handler returned neither an answer nor an error"},
		"too slow": {func(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "answer 7 inbox deadline_exceeded  mq: processing timeout after 1m0s", "retry mq: processing timeout after 1m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				w := NewWorker(c)
				HandleCall(w, stringSubscription, test.handle)
				r := start(t, w)
				k := <-b.consumers
				payload, _ := proto.Marshal(wrapperspb.String("a"))
				for i, number := range []uint64{7, 0} {
					_ = k.deliverCall(payload, number)
					if name == "too slow" {
						advance(2 * time.Minute)
					}
					want := []string{test.called, test.message}[i]
					expect(t, "settled", b.allSettled(), fmt.Sprintf("%d %s", i, want))
				}
				r.finish(t)
			})
		})
	}
}

// textError has no nil: returned as an error, a nil of its type is one that panics when it is asked for its text.
type textError struct{ text string }

func (e *textError) Error() string { return e.text }

// TestInterceptorsThatKeepTheAnswer: one that says all is well where there is no answer does not leave the caller waiting, and breaks nothing.
func TestInterceptorsThatKeepTheAnswer(t *testing.T) {
	for name, intercept := range map[string]HandlerInterceptor{
		"not called": func(HandlerFunc) HandlerFunc {
			return func(context.Context, *Call) error { return nil }
		},
		"error dropped": func(next HandlerFunc) HandlerFunc {
			return func(ctx context.Context, c *Call) error {
				_ = next(ctx, c)
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				w := NewWorker(c, WithHandlerInterceptors(intercept))
				HandleCall(w, stringSubscription, func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
					return nil, errors.New("boom")
				})
				r := start(t, w)
				k := <-b.consumers
				_ = k.deliverCall(nil, 7)
				expect(t, "settled", b.allSettled(), "0 answer 7 inbox internal BAD_MESSAGE an interceptor returned nil and there is no answer")
				_ = k.deliverCall(nil, 0)
				expect(t, "settled", b.allSettled(), "1 ack")
				r.finish(t)
			})
		})
	}
}

func TestUndecodableCallIsAnswered(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		w := NewWorker(c)
		HandleCall(w, stringSubscription, func(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			t.Error("the handler was called")
			return nil, nil
		})
		r := start(t, w)
		_ = (<-b.consumers).deliverCall([]byte{0xff}, 7)
		got := b.allSettled()
		if len(got) != 1 || !strings.HasPrefix(got[0], "0 answer 7 inbox invalid_argument SCHEMA_MISMATCH") {
			t.Errorf("settled %q", got)
		}
		r.finish(t)
	})
}

// TestCallOfALostSessionIsNotAnswered: it is delivered again, and answered then.
func TestCallOfALostSessionIsNotAnswered(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		w := NewWorker(c)
		HandleCall(w, stringSubscription, func(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		r := start(t, w)
		k := <-b.consumers
		_ = k.deliverCall(nil, 7)
		synctest.Wait()
		k.end <- refusalError(connect.CodeUnavailable, "SESSION_LOST")
		expect(t, "settled", b.allSettled())
		r.finish(t)
	})
}

// TestLargeAnswersAreSentInPieces: a Settle call stays below what a sidecar takes.
func TestLargeAnswersAreSentInPieces(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 8
		hold := make(chan bool)
		w := NewWorker(c)
		HandleCall(w, stringSubscription, func(_ context.Context, m *wrapperspb.StringValue) (*wrapperspb.BytesValue, error) {
			<-hold
			if m.GetValue() == "larger" {
				return wrapperspb.Bytes(make([]byte, maxReplyBytes)), nil
			}
			return wrapperspb.Bytes(make([]byte, 900<<10)), nil
		})
		r := start(t, w)
		k := <-b.consumers
		larger, _ := proto.Marshal(wrapperspb.String("larger"))
		for i := range 7 {
			_ = k.deliverCall(nil, uint64(i+1))
		}
		_ = k.deliverCall(larger, 8)
		synctest.Wait()
		close(hold)
		synctest.Wait()
		answered, refused := 0, 0
		for len(b.settled) > 0 {
			request := <-b.settled
			if size := proto.Size(request); size > 4<<20-64<<10 {
				t.Errorf("a Settle call of %d bytes", size)
			}
			for _, s := range request.GetSettlements() {
				answered++
				if s.GetAnswer().GetReply().GetError().GetInfo().GetReason() == reasonMessageTooLarge {
					refused++
				}
			}
		}
		if answered != 8 || refused != 1 {
			t.Errorf("%d answers, %d of them that the answer was too large", answered, refused)
		}
		r.finish(t)
	})
}

// TestInTxOfACall: the answer settles the call, and a transaction has no place for it.
func TestInTxOfACall(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		w := NewWorker(c)
		HandleCall(w, stringSubscription, func(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
			return nil, InTx(ctx, func(*Tx) error { t.Error("the transaction began"); return nil })
		})
		r := start(t, w)
		_ = (<-b.consumers).deliverCall(nil, 7)
		got := b.allSettled()
		if len(got) != 1 || !strings.HasPrefix(got[0], "0 answer 7 inbox failed_precondition CALL_IN_TRANSACTION") {
			t.Errorf("settled %q", got)
		}
		r.finish(t)
	})
}
