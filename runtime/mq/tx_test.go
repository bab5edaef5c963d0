package mq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

var numberTopic = NewTopic[wrapperspb.Int64Value]("numbers", nil)

// content is what a transaction asks for, as text.
func content(r *brokerv1.CommitRequest) string {
	var parts []string
	for _, batch := range r.GetPublishes() {
		part := batch.GetTopic() + ":"
		for _, record := range records(batch) {
			if batch.GetTopic() == "numbers" {
				m := &wrapperspb.Int64Value{}
				_ = proto.Unmarshal(record.GetPayload(), m)
				part += fmt.Sprint(" ", m.GetValue())
			} else {
				m := &wrapperspb.StringValue{}
				_ = proto.Unmarshal(record.GetPayload(), m)
				part += " " + m.GetValue()
			}
		}
		parts = append(parts, part)
	}
	for _, a := range r.GetAcknowledgements() {
		part := "ack " + a.GetGroup() + " " + a.GetTopic()
		for token := range slices.Chunk(a.GetTokens(), tokenBytes) {
			part += fmt.Sprint(" ", offsetOf(token))
		}
		parts = append(parts, part)
	}
	for _, c := range r.GetCancels() {
		parts = append(parts, "cancel "+c.GetTopic()+" "+strings.Join(c.GetIds(), " "))
	}
	return strings.Join(parts, "; ")
}

func contents(b *fakeBroker) []string {
	var all []string
	for _, r := range b.commits() {
		all = append(all, content(r))
	}
	return all
}

func put(ctx context.Context, tx *Tx, texts ...string) error {
	for _, text := range texts {
		if _, err := NewPublisher(tx, stringTopic).Publish(ctx, wrapperspb.String(text)); err != nil {
			return err
		}
	}
	return nil
}

func TestTxIsOneCall(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		var tx *Tx
		err := c.Tx(t.Context(), func(own *Tx) error {
			tx = own
			texts, numbers := NewPublisher(tx, stringTopic), NewPublisher(tx, numberTopic)
			for i, publish := range []func() (Receipt, error){
				func() (Receipt, error) { return texts.Publish(t.Context(), wrapperspb.String("a")) },
				func() (Receipt, error) { return numbers.Publish(t.Context(), wrapperspb.Int64(1), WithID("one")) },
				func() (Receipt, error) {
					return texts.PublishAsync(t.Context(), wrapperspb.String("b"), WithDelay(time.Hour)).Wait(t.Context())
				},
			} {
				receipt, err := publish()
				if err != nil || receipt.Offset != -1 || receipt.Scheduled || (receipt.ID == "one") != (i == 1) || (receipt.ID == "") != (i == 0) {
					t.Errorf("%d: %+v, %v", i, receipt, err)
				}
			}
			if results := texts.PublishBatch(t.Context(), []*wrapperspb.StringValue{wrapperspb.String("c"), wrapperspb.String("d")}); results[1].Err != nil {
				t.Error(results)
			}
			if len(b.commits()) > 0 || len(b.frames()) > 0 || len(tx.Canceled()) > 0 {
				t.Error("something was sent before the function returned")
			}
			return errors.Join(tx.Cancel("strings", "x", "y"), tx.Cancel("numbers", "z"), tx.Cancel("strings", "x2"))
		})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "commits", contents(b), "strings: a b c d; numbers: 1; cancel strings x y; cancel numbers z; cancel strings x2")
		if id := b.commits()[0].GetTransactionId(); len(id) != 16 || bytes.Equal(id, make([]byte, 16)) {
			t.Errorf("id %x", id)
		}
		receipts := tx.Receipts()
		scheduled := receipts[2].ID
		receipts[2].ID = "random"
		if want := []Receipt{
			{ID: "3-0", Topic: "strings", Partition: 3, Offset: 0},
			{ID: "one", Topic: "numbers", Partition: 3, Offset: 3},
			{ID: "random", Topic: "strings", Partition: 3, Offset: -1, Scheduled: true},
			{ID: "3-1", Topic: "strings", Partition: 3, Offset: 1},
			{ID: "3-2", Topic: "strings", Partition: 3, Offset: 2},
		}; !slices.Equal(receipts, want) || len(scheduled) != 32 {
			t.Errorf("receipts %+v, id %q", receipts, scheduled)
		}
		if got := fmt.Sprint(tx.Canceled()); got != "[{strings 1 [x x2]} {numbers 0 [z]}]" {
			t.Errorf("canceled %s", got)
		}
		if err := put(t.Context(), tx, "late"); !errors.Is(err, ErrTxOver) {
			t.Errorf("got %v", err)
		}
		if err := tx.Cancel("strings", "late"); !errors.Is(err, ErrTxOver) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTxReceiptsTellDuplicates(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
			return &brokerv1.CommitResponse{Results: []*brokerv1.BatchResult{
				{Partitions: []uint32{1, 2, 1}, Offsets: []int64{9, 8, 7}, Duplicates: []uint32{0, 2}}}}, nil
		}
		var tx *Tx
		if err := c.Tx(t.Context(), func(own *Tx) error { tx = own; return put(t.Context(), tx, "a", "b", "c") }); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(tx.Receipts()); got != "[{1-9 strings 1 9 false true} {2-8 strings 2 8 false false} {1-7 strings 1 7 false true}]" {
			t.Errorf("receipts %s", got)
		}
	})
}

func TestTxSendsNothing(t *testing.T) {
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		f    func(context.Context, *Tx) error
		want error
	}{
		"empty":  {func(context.Context, *Tx) error { return nil }, nil},
		"error":  {func(ctx context.Context, tx *Tx) error { return errors.Join(put(ctx, tx, "a"), boom) }, boom},
		"panic":  {func(ctx context.Context, tx *Tx) error { _ = put(ctx, tx, "a"); panic(boom) }, boom},
		"goexit": {func(ctx context.Context, tx *Tx) error { _ = put(ctx, tx, "a"); runtime.Goexit(); return nil }, boom},
		"a message that was refused": {func(ctx context.Context, tx *Tx) error {
			_ = put(ctx, tx, "a")
			_, _ = NewPublisher(tx, stringTopic).Publish(ctx, wrapperspb.String("b"), WithID("0-1"))
			return nil
		}, &Error{Reason: "BAD_NAME"}},
		"a message that an interceptor refused": {func(ctx context.Context, tx *Tx) error {
			_ = put(ctx, tx, "a", "refuse")
			return nil
		}, ErrInvalid},
		"too many ids": {func(_ context.Context, tx *Tx) error {
			_ = tx.Cancel("strings", make([]string, MaxTxItems+1)...)
			return nil
		}, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
				c := dialed(t, b, WithPublishInterceptors(func(next PublishFunc) PublishFunc {
					return func(ctx context.Context, p *Publication) (Receipt, error) {
						if m, ok := p.Message().(*wrapperspb.StringValue); ok && m.GetValue() == "refuse" {
							return Receipt{}, invalid(reasonInvalid, "payload", "refused", 0)
						}
						return next(ctx, p)
					}
				}))
				var kept *Tx
				done := make(chan error)
				go func() {
					err := boom // of a goroutine that ends
					defer func() {
						if p := recover(); p != nil {
							err = p.(error)
						}
						done <- err
					}()
					err = c.Tx(t.Context(), func(tx *Tx) error { kept = tx; return test.f(t.Context(), tx) })
				}()
				err := <-done
				var is, want *Error
				if errors.As(test.want, &want) && (!errors.As(err, &is) || is.Reason != want.Reason) || want == nil && !errors.Is(err, test.want) {
					t.Errorf("got %v", err)
				}
				if err := put(t.Context(), kept, "late"); !errors.Is(err, ErrTxOver) {
					t.Errorf("got %v", err)
				}
				if len(b.commits())+len(b.frames()) > 0 {
					t.Errorf("%q was sent", contents(b))
				}
			})
		})
	}
}

func TestTxPassesInterceptors(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
		var seen []string
		c := dialed(t, b, WithPublishInterceptors(func(next PublishFunc) PublishFunc {
			return func(ctx context.Context, p *Publication) (Receipt, error) {
				p.Record().AddHeader("trace", "1")
				receipt, err := next(ctx, p)
				seen = append(seen, fmt.Sprint(p.Topic(), " ", receipt.Offset, " ", err))
				return receipt, err
			}
		}))
		if err := c.Tx(t.Context(), func(tx *Tx) error { return put(t.Context(), tx, "a") }); err != nil {
			t.Fatal(err)
		}
		expect(t, "seen", seen, "strings -1 <nil>")
		if headers := records(b.commits()[0].GetPublishes()[0])[0].GetHeaders(); len(headers) != 2 || headers[1].GetName() != "trace" {
			t.Errorf("headers %v", headers)
		}
	})
}

func TestTxBounds(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		err := c.Tx(t.Context(), func(tx *Tx) error {
			p := NewPublisher(tx, numberTopic)
			for range MaxTxItems {
				if _, err := p.Publish(t.Context(), wrapperspb.Int64(1)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(b.commits()) != 1 || len(records(b.commits()[0].GetPublishes()[0])) != MaxTxItems {
			t.Fatal(err)
		}
		err = c.Tx(t.Context(), func(tx *Tx) error {
			p := NewPublisher(tx, numberTopic)
			if err := tx.Cancel("numbers", "x"); err != nil {
				return err
			}
			for i := range MaxTxItems {
				_, err := p.Publish(t.Context(), wrapperspb.Int64(1))
				if i < MaxTxItems-1 != (err == nil) {
					t.Fatalf("item %d: %v", i, err)
				}
			}
			return nil
		})
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrTooLarge) || e.Code != connect.CodeResourceExhausted || e.Metadata["bound"] != "10000" {
			t.Errorf("got %v", err)
		}

		b.maxBytes = 4 << 20
		large := NewTopic[wrapperspb.BytesValue]("blobs", nil)
		blob := wrapperspb.Bytes(make([]byte, 3<<20))
		err = c.Tx(t.Context(), func(tx *Tx) error {
			p := NewPublisher(tx, large)
			for range 5 {
				if _, err := p.Publish(t.Context(), blob); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		last := b.commits()[len(b.commits())-1]
		if len(last.GetPublishes()) != 5 { // each batch fits a frame
			t.Errorf("%d batches", len(last.GetPublishes()))
		}
		err = c.Tx(t.Context(), func(tx *Tx) error {
			for range 6 {
				_, _ = NewPublisher(tx, large).Publish(t.Context(), blob)
			}
			return nil
		})
		if !errors.As(err, &e) || !errors.Is(err, ErrTooLarge) || e.Metadata["bound"] != "16777216" {
			t.Errorf("got %v", err)
		}
		if len(b.commits()) != 2 {
			t.Errorf("%d transactions were sent", len(b.commits()))
		}
	})
}

// A transaction whose outcome is not known is sent again, the same, under its id.
func TestTxIsSentAgain(t *testing.T) {
	for name, test := range map[string]struct {
		err   func(*fakeBroker) error
		sends int
	}{
		"outcome unknown": {func(*fakeBroker) error { return refusalError(connect.CodeUnavailable, "OUTCOME_UNKNOWN") }, 4},
		"draining":        {func(*fakeBroker) error { return refusalError(connect.CodeUnavailable, "DRAINING") }, 4},
		"no reason":       {func(*fakeBroker) error { return connect.NewError(connect.CodeInternal, errors.New("proxy")) }, 4},
		"connection cut":  {func(b *fakeBroker) error { b.network.cut(false); return errors.New("unheard") }, 4},
		"topic unknown":   {func(*fakeBroker) error { return refusalError(connect.CodeNotFound, "TOPIC_UNKNOWN") }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				left := test.sends - 1
				b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
					if left == 0 {
						return nil, nil
					}
					left--
					if left == 0 {
						b.mu.Lock()
						clear(b.mu.known) // a new sidecar, for all the client knows
						b.mu.Unlock()
					}
					return nil, test.err(b)
				}
				declares := 0
				var tx *Tx
				err := c.Tx(t.Context(), func(own *Tx) error {
					tx = own
					err := errors.Join(put(t.Context(), tx, "a"), tx.Cancel("strings", "x"))
					declares = len(b.declares())
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				all := b.commits()
				if len(all) != test.sends {
					t.Errorf("it was sent %d times", len(all))
				}
				for _, r := range all[1:] {
					if !proto.Equal(r, all[0]) {
						t.Errorf("sent again as %v", r)
					}
				}
				if again := len(b.declares()) > declares; again != (name == "topic unknown") {
					t.Errorf("the topic was declared again: %v", again)
				}
				if got := tx.Receipts()[0].ID; got != "3-0" {
					t.Errorf("receipt %s", got)
				}
			})
		})
	}
}

func TestTxRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		target error
	}{
		"lease lost":     {refusalError(connect.CodeAborted, "LEASE_LOST"), ErrLeaseLost},
		"dedupe":         {refusalError(connect.CodeAlreadyExists, "DEDUPE_CONFLICT"), ErrDedupeConflict},
		"disk full":      {refusalError(connect.CodeResourceExhausted, "DISK_FULL"), ErrDiskFull},
		"an old sidecar": {connect.NewError(connect.CodeUnimplemented, errors.New("no such method")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) { return nil, test.err }
				err := c.Tx(t.Context(), func(tx *Tx) error { return put(t.Context(), tx, "a") })
				var e *Error
				if !errors.As(err, &e) || errors.Is(err, ErrUnknownOutcome) || test.target != nil && (!errors.Is(err, test.target) || e.Field != "field") {
					t.Errorf("got %v", err)
				}
				if len(b.commits()) != 1 {
					t.Errorf("sent %d times", len(b.commits()))
				}
			})
		})
	}
}

// After an attempt without an answer, a refusal of the next one means that nothing was applied only if the sidecar gives it after it has looked.
func TestTxRefusalAfterDoubt(t *testing.T) {
	unknown := refusalError(connect.CodeUnavailable, "OUTCOME_UNKNOWN")
	for name, test := range map[string]struct {
		refusals []error // after the first attempt
		target   error   // nil: it was applied
		unknown  bool
	}{
		"lease lost":    {[]error{refusalError(connect.CodeFailedPrecondition, "LEASE_LOST")}, ErrLeaseLost, false},
		"dedupe":        {[]error{refusalError(connect.CodeAlreadyExists, "DEDUPE_CONFLICT")}, ErrDedupeConflict, false},
		"disk full":     {[]error{refusalError(connect.CodeResourceExhausted, "DISK_FULL"), refusalError(connect.CodeResourceExhausted, "DISK_FULL")}, nil, false},
		"bad token":     {[]error{refusalError(connect.CodeInvalidArgument, "BAD_TOKEN")}, ErrUnknownOutcome, true},
		"topic unknown": {[]error{refusalError(connect.CodeNotFound, "TOPIC_UNKNOWN"), refusalError(connect.CodeNotFound, "TOPIC_UNKNOWN")}, ErrUnknownOutcome, true},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				answers := append([]error{unknown}, test.refusals...)
				b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
					if len(answers) == 0 {
						return nil, nil
					}
					err := answers[0]
					answers = answers[1:]
					return nil, err
				}
				err := c.Tx(t.Context(), func(tx *Tx) error { return put(t.Context(), tx, "a") })
				if !errors.Is(err, test.target) || errors.Is(err, ErrUnknownOutcome) != test.unknown {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// When the context ends, the error tells whether the transaction may have been applied.
func TestTxEnds(t *testing.T) {
	for name, test := range map[string]struct {
		commit  func(*fakeBroker) error
		unknown bool
	}{
		"outcome unknown": {func(*fakeBroker) error { return refusalError(connect.CodeUnavailable, "OUTCOME_UNKNOWN") }, true},
		"cut":             {func(b *fakeBroker) error { b.network.cut(true); return nil }, true},
		"no answer":       {func(*fakeBroker) error { <-time.After(time.Hour); return nil }, true},
		"draining":        {func(*fakeBroker) error { return refusalError(connect.CodeUnavailable, "DRAINING") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) { return nil, test.commit(b) }
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := c.Tx(ctx, func(tx *Tx) error { return put(ctx, tx, "a") })
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnknownOutcome) != test.unknown {
					t.Errorf("got %v", err)
				}
				<-time.After(2 * time.Hour) // whatever still hangs
			})
		})
	}
	t.Run("away", func(t *testing.T) {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := c.Tx(ctx, func(tx *Tx) error {
				err := put(ctx, tx, "a")
				b.network.cut(true)
				synctest.Wait() // the transport knows
				return err
			})
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnknownOutcome) || len(b.commits()) > 0 {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("closed", func(t *testing.T) {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
				go func() { _ = c.Close() }()
				return nil, refusalError(connect.CodeUnavailable, "OUTCOME_UNKNOWN")
			}
			err := c.Tx(t.Context(), func(tx *Tx) error { return put(t.Context(), tx, "a") })
			if !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("forgotten", func(t *testing.T) {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
				if len(b.commits()) < 30 { // nothing is begun: there is nothing to forget
					return nil, refusalError(connect.CodeUnavailable, "DRAINING")
				}
				return nil, refusalError(connect.CodeUnavailable, "OUTCOME_UNKNOWN")
			}
			began := time.Now()
			err := c.Tx(t.Context(), func(tx *Tx) error { return put(t.Context(), tx, "a") })
			if took := time.Since(began); !errors.Is(err, ErrUnknownOutcome) || took < 9*time.Minute || took > 11*time.Minute {
				t.Errorf("got %v after %v", err, took)
			}
		})
	})
	t.Run("nonsense", func(t *testing.T) {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			for _, answer := range []*brokerv1.CommitResponse{
				{}, {Results: []*brokerv1.BatchResult{{Partitions: []uint32{1}}}},
				{Results: []*brokerv1.BatchResult{{Partitions: []uint32{1}, Offsets: []int64{1}}}, Cancels: []*brokerv1.CancelResponse{{}}},
			} {
				b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) { return answer, nil }
				if err := c.Tx(t.Context(), func(tx *Tx) error { return put(t.Context(), tx, "a") }); !errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("%v: got %v", answer, err)
				}
			}
		})
	})
}

// double is a handler that publishes what it got twice, in the transaction of its message.
func double(ctx context.Context, m *wrapperspb.StringValue) error {
	return InTx(ctx, func(tx *Tx) error { return put(ctx, tx, m.GetValue(), m.GetValue()) })
}

func TestInTxAcknowledges(t *testing.T) {
	boom := errors.New("boom")
	for name, returned := range map[string]error{"nil": nil, "error": boom, "permanent": Permanent(boom), "snooze": Snooze(time.Hour), "panic": nil} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
				b.inFlight = 1
				var log bytes.Buffer
				transport := b.transport()
				defer transport.CloseIdleConnections()
				c := dialed(t, b, WithHTTPClient(&http.Client{Transport: transport}), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				var outcomes []Outcome
				observe := func(next HandlerFunc) HandlerFunc {
					return func(ctx context.Context, call *Call) error {
						err := next(ctx, call)
						outcomes = append(outcomes, call.Outcome(0, err))
						return err
					}
				}
				r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
					if err := double(ctx, m); err != nil {
						return err
					}
					if err := double(ctx, m); !errors.Is(err, ErrSettled) {
						t.Errorf("a second transaction: %v", err)
					}
					if name == "panic" {
						panic("boom")
					}
					return returned
				}, WithHandlerInterceptors(observe))
				k := <-b.consumers
				for i, text := range []string{"a", "b"} {
					_ = k.deliver(text)
					expect(t, "settled", b.allSettled())
					if n := len(b.commits()); n != i+1 {
						t.Fatalf("%d commits", n)
					}
				}
				expect(t, "commits", contents(b), "strings: a a; ack group strings 0", "strings: b b; ack group strings 1")
				if counts := r.worker.Counts(); counts != (Counts{Acked: 2}) {
					t.Errorf("counts %+v", counts)
				}
				if name != "panic" {
					expect(t, "outcomes", []string{string(outcomes[0]), string(outcomes[1])}, "ack", "ack")
				}
				if got, want := strings.Contains(log.String(), "after its transaction was applied"), name != "nil"; got != want {
					t.Errorf("log:\n%s", log.String())
				}
				r.finish(t)
			})
		})
	}
}

// After a transaction that was not applied, what the handler returns settles the message.
func TestInTxFails(t *testing.T) {
	lost := refusalError(connect.CodeAborted, "LEASE_LOST")
	unknown := refusalError(connect.CodeUnavailable, "OUTCOME_UNKNOWN")
	for name, test := range map[string]struct {
		err     error // of the call
		swallow bool
		is      error
		want    string
	}{
		"refused":                        {refusalError(connect.CodeAlreadyExists, "DEDUPE_CONFLICT"), false, ErrDedupeConflict, "0 retry transaction: mq: already_exists DEDUPE_CONFLICT (field): refused for the test"},
		"refused, and the handler's nil": {refusalError(connect.CodeAlreadyExists, "DEDUPE_CONFLICT"), true, ErrDedupeConflict, "0 ack"},
		"lease lost":                     {lost, false, ErrLeaseLost, "0 retry transaction: mq: aborted LEASE_LOST (field): refused for the test"},
		"unknown":                        {unknown, false, ErrUnknownOutcome, "0 retry transaction: mq: the outcome is unknown"},
		"unknown, and the handler's nil": {unknown, true, ErrUnknownOutcome, "0 retry it is not known whether the transaction of the message was applied"},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) { return nil, test.err }
				r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					err := double(ctx, m)
					if !errors.Is(err, test.is) || errors.Is(err, ErrUnknownOutcome) && errors.Is(err, ErrLeaseLost) {
						t.Errorf("got %v", err)
					}
					if test.swallow {
						return nil
					}
					return err
				})
				_ = (<-b.consumers).deliver("a")
				<-time.After(2 * time.Second)
				if got := b.nextSettled(t); len(got) != 1 || !strings.HasPrefix(got[0], test.want) {
					t.Errorf("settled %q", got)
				}
				r.finish(t)
			})
		})
	}
}

// The processing timeout, the handler's return and the loss of the connection do not settle a message whose transaction is on its way, and what they would
// have reported is reported if it fails.
func TestInTxUnderWay(t *testing.T) {
	for name, test := range map[string]struct {
		fail bool
		want []string
	}{
		"applied": {false, nil},
		"refused": {true, []string{"0 retry mq: processing timeout after 1m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.inFlight = 1
				answer := make(chan error)
				b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) { return nil, <-answer }
				done := make(chan error, 1)
				var kept *stringDelivery
				r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
					if d.Message().GetValue() == "b" {
						return d.Ack(ctx)
					}
					kept = d
					err := c.Tx(t.Context(), func(tx *Tx) error { return tx.Ack(d, d) }) // not by the handler's context
					done <- err
					return err
				})
				k := <-b.consumers
				_ = k.deliver("a")
				synctest.Wait()
				if err := kept.Ack(t.Context()); !errors.Is(err, ErrSettled) {
					t.Errorf("beside the transaction: %v", err)
				}
				<-time.After(2 * time.Minute)
				expect(t, "settled before the answer", b.allSettled())
				if test.fail {
					answer <- refusalError(connect.CodeAlreadyExists, "DEDUPE_CONFLICT")
				} else {
					answer <- nil
				}
				if err := <-done; errors.Is(err, ErrDedupeConflict) != test.fail {
					t.Errorf("got %v", err)
				}
				expect(t, "settled", b.allSettled(), test.want...)
				expect(t, "commits", contents(b), "ack group strings 0")
				_ = k.deliver("b") // the place is free again
				expect(t, "settled", b.allSettled(), "1 ack")
				r.finish(t)
			})
		})
	}
}

// A handler that leaves its transaction behind is not waited for, and its outcome counts if that fails.
func TestInTxLeftBehind(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		answer := make(chan error)
		sent := make(chan struct{})
		b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
			close(sent)
			return nil, <-answer
		}
		var kept context.Context
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			kept = ctx
			go func() { _ = InTx(context.WithoutCancel(ctx), func(*Tx) error { return nil }) }()
			<-sent
			return Skip(m.GetValue())
		})
		k := <-b.consumers
		_ = k.deliver("a")
		expect(t, "settled before the answer", b.allSettled())
		if err := InTx(context.WithoutCancel(kept), func(*Tx) error { return nil }); !errors.Is(err, ErrSettled) || len(b.commits()) != 1 {
			t.Errorf("beside the other: %v", err)
		}
		answer <- refusalError(connect.CodeAlreadyExists, "DEDUPE_CONFLICT")
		expect(t, "settled", b.allSettled(), "0 skip a")
		if err := InTx(context.WithoutCancel(kept), func(*Tx) error { return nil }); !errors.Is(err, ErrSettled) {
			t.Errorf("after the handler: %v", err)
		}
		r.finish(t)
	})
}

func TestInTxWithoutALease(t *testing.T) {
	if err := InTx(t.Context(), func(*Tx) error { return nil }); err == nil || !strings.Contains(err.Error(), "outside of a handler") {
		t.Errorf("got %v", err)
	}
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			<-ctx.Done()
			called := false
			err := InTx(ctx, func(*Tx) error { called = true; return nil })
			if want := map[string]error{"slow": ErrProcessingTimeout, "cut": ErrLeaseLost}[m.GetValue()]; !errors.Is(err, want) || called {
				t.Errorf("%s: got %v", m.GetValue(), err)
			}
			return err
		})
		k := <-b.consumers
		_ = k.deliver("slow")
		<-time.After(61 * time.Second)
		expect(t, "settled", b.allSettled(), "0 retry mq: processing timeout after 1m0s")
		_ = k.deliver("cut")
		synctest.Wait()
		b.network.cut(false)
		<-b.consumers
		expect(t, "settled", b.allSettled())
		if len(b.commits()) > 0 {
			t.Errorf("commits %q", contents(b))
		}
		r.finish(t)
	})
}

// When the connection breaks on the way, it is not known whether the lease was lost before the transaction was applied.
func TestInTxAndTheConnectionLost(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) {
			b.network.cut(true)
			return nil, errors.New("unheard")
		}
		done := make(chan error, 1)
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			err := double(ctx, m)
			done <- err
			return err
		})
		_ = (<-b.consumers).deliver("a")
		if err := <-done; !errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrLeaseLost) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		b.network.up()
		<-b.consumers
		expect(t, "settled", b.allSettled())
		r.finish(t)
	})
}

// A message that comes while a handler goes on whose transaction is applied was leased before the sidecar heard of that: it waits.
func TestInTxKeepsItsPlace(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 1
		goOn := make(chan bool)
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			err := double(ctx, m)
			<-goOn
			return err
		})
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		_ = k.deliver("b")
		expect(t, "settled", b.allSettled())
		expect(t, "commits", contents(b), "strings: a a; ack group strings 0")
		goOn <- true
		goOn <- true
		_ = k.deliver("c", "d") // no more than the credit, again
		expect(t, "settled", b.allSettled(), "3 release")
		goOn <- true
		r.finish(t)
		expect(t, "commits", contents(b)[1:], "strings: b b; ack group strings 1", "strings: c c; ack group strings 2")
	})
}

func TestInTxOfABatch(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 8
		r := runBatches(t, c, bounds(3, 0), func(ctx context.Context, batch *stringBatch) error {
			if MetaFrom(ctx).ID != "" {
				t.Errorf("meta %v", MetaFrom(ctx))
			}
			for i, m := range batch.Messages() {
				if strings.HasPrefix(m.GetValue(), "bad") {
					batch.Fail(i, errors.New(m.GetValue()))
				}
			}
			err := InTx(ctx, func(tx *Tx) error { return put(ctx, tx, "of "+text(batch)) })
			if all := text(batch) == "bad1 bad2"; all != (err != nil) {
				t.Errorf("%s: %v", text(batch), err)
			}
			for i, m := range batch.Messages() {
				if m.GetValue() == "late" {
					batch.Fail(i, errors.New("too late"))
				}
			}
			return err
		})
		k := <-b.consumers
		_ = k.deliver("a", "bad", "late")
		expect(t, "settled", b.allSettled(), "1 retry bad")
		expect(t, "commits", contents(b), "strings: of a bad late; ack group strings 0 2")
		_ = k.deliver("bad1", "bad2")
		expect(t, "settled", b.allSettled(), "3 retry bad1", "4 retry bad2")
		if n := len(b.commits()); n != 1 {
			t.Errorf("%d commits", n)
		}
		if counts := r.worker.Counts(); counts.Acked != 2 || counts.Retried != 3 {
			t.Errorf("counts %+v", counts)
		}
		r.finish(t)
	})
}

func TestTxAcknowledgesDeliveries(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 1
		r := runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
			switch d.Message().GetValue() {
			case "in":
				if err := InTx(ctx, func(tx *Tx) error { return tx.Ack(d) }); err != nil {
					t.Error(err)
				}
			case "by hand":
				if err := c.Tx(ctx, func(tx *Tx) error { return errors.Join(tx.Ack(d), put(ctx, tx, "x")) }); err != nil {
					t.Error(err)
				}
			case "settled before":
				_ = d.Nack(ctx, errors.New("before"))
				if err := InTx(ctx, func(*Tx) error { return nil }); !errors.Is(err, ErrSettled) {
					t.Errorf("got %v", err)
				}
			}
			if err := d.Ack(ctx); !errors.Is(err, ErrSettled) {
				t.Errorf("%s: %v", d.Message().GetValue(), err)
			}
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("in")
		expect(t, "settled", b.allSettled())
		_ = k.deliver("by hand")
		expect(t, "settled", b.allSettled())
		_ = k.deliver("settled before")
		expect(t, "settled", b.allSettled(), "2 retry before")
		expect(t, "commits", contents(b), "ack group strings 0", "strings: x; ack group strings 1")
		r.finish(t)
	})
}

// A worker that drains waits for the transactions of its handlers.
func TestDrainWaitsForInTx(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		answer := make(chan error)
		b.commit = func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error) { return nil, <-answer }
		r := run(t, c, double)
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		r.stop()
		<-time.After(10 * time.Second)
		select {
		case err := <-r.done:
			t.Fatalf("Run returned %v", err)
		case answer <- nil:
		}
		answered := time.Now()
		if err := <-r.done; err != nil || time.Since(answered) > time.Second {
			t.Error(err, time.Since(answered))
		}
		expect(t, "settled", b.allSettled())
		if counts := r.worker.Counts(); counts != (Counts{Acked: 1}) {
			t.Errorf("counts %+v", counts)
		}
	})
}
