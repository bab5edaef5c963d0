package mq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

// dialed is another client of the broker, with options.
func dialed(t *testing.T, b *fakeBroker, opts ...Option) *Client {
	t.Helper()
	transport := b.transport()
	c, err := Dial(t.Context(), append(opts, WithHTTPClient(&http.Client{Transport: transport}), WithAddress("http://sidecar"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); transport.CloseIdleConnections() })
	return c
}

func TestPublishInterceptorsNest(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
		var steps []string
		note := func(name string) PublishInterceptor {
			return func(next PublishFunc) PublishFunc {
				return func(ctx context.Context, p *Publication) (Receipt, error) {
					steps = append(steps, name+" "+p.Topic()+" "+string(p.Record().Key)+" "+p.Message().(*wrapperspb.StringValue).GetValue())
					p.Record().AddHeader("by", name)
					receipt, err := next(ctx, p)
					steps = append(steps, fmt.Sprint(name, " ", receipt.ID, " ", err))
					return receipt, err
				}
			}
		}
		c := dialed(t, b, WithPublishInterceptors(note("first"), note("second")), WithPublishInterceptors(note("third")))
		if _, err := NewPublisher(c, stringTopic).Publish(t.Context(), wrapperspb.String("a"), WithKey([]byte("k"))); err != nil {
			t.Fatal(err)
		}
		expect(t, "steps", steps, "first strings k a", "second strings k a", "third strings k a", "third 3-0 <nil>", "second 3-0 <nil>", "first 3-0 <nil>")
		if h := records(b.frames()[0].GetBatches()[0])[0].GetHeaders(); len(h) != 2 || h[1].GetValue() != "third" {
			t.Errorf("headers %v", h)
		}
	})
}

func TestPublishInterceptorRefuses(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
		refused := errors.New("refused here")
		c := dialed(t, b, WithPublishInterceptors(func(next PublishFunc) PublishFunc {
			return func(ctx context.Context, p *Publication) (Receipt, error) {
				switch p.Message().(*wrapperspb.StringValue).GetValue() {
				case "no":
					return Receipt{}, refused
				case "panic":
					panic("bang")
				case "goexit":
					runtime.Goexit()
				case "bad header":
					p.Record().AddHeader("not a name", "")
				}
				return next(ctx, p)
			}
		}))
		p := NewPublisher(c, stringTopic)
		_, err := p.Publish(t.Context(), wrapperspb.String("no"))
		_, later := p.PublishAsync(t.Context(), wrapperspb.String("no")).Wait(t.Context())
		batch := p.PublishBatch(t.Context(), []*wrapperspb.StringValue{wrapperspb.String("no")})[0].Err
		for _, err := range []error{err, later, batch} {
			if !errors.Is(err, refused) || err.Error() != `publish to "strings": refused here` {
				t.Errorf("returned %v", err)
			}
		}
		if _, err := p.Publish(t.Context(), wrapperspb.String("bad header")); !errors.Is(err, ErrBadHeader) {
			t.Errorf("what an interceptor changes is checked: %v", err)
		}
		for value, want := range map[string]string{"panic": "panic: bang", "goexit": "ended its goroutine"} {
			if _, err := p.PublishAsync(t.Context(), wrapperspb.String(value)).Wait(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", value, err)
			}
		}
		if len(b.frames()) != 0 {
			t.Error("something was published")
		}
	})
}

func TestHandlerInterceptorsNest(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		var steps []string
		note := func(name string) HandlerInterceptor {
			return func(next HandlerFunc) HandlerFunc {
				return func(ctx context.Context, c *Call) error {
					steps = append(steps, fmt.Sprint(name, " ", c.Group(), " ", c.Topic(), " ", c.RPC(), " ", c.Len(), " ", c.Meta(0).ID))
					err := next(ctx, c)
					steps = append(steps, fmt.Sprint(name, " ", err))
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			steps = append(steps, m.GetValue()+" "+MetaFrom(ctx).ID)
			return errors.New("boom")
		}, WithHandlerInterceptors(note("first"), note("second")), WithHandlerInterceptors(note("third")))
		_ = (<-b.consumers).deliver("a")
		expect(t, "settled", b.allSettled(), "0 retry first: second: third: boom")
		const call = " group strings test.Consumer/strings 1 2-0"
		expect(t, "steps", steps, "first"+call, "second"+call, "third"+call, "a 2-0", "third boom", "second third: boom", "first second: third: boom")
		r.finish(t)
	})
}

// A message that an interceptor fails is not handed to the handler, whatever its kind.
func TestInterceptorFailsMessages(t *testing.T) {
	failing := WithHandlerInterceptors(func(next HandlerFunc) HandlerFunc {
		return func(ctx context.Context, c *Call) error {
			for i, m := range c.Messages() {
				if strings.HasPrefix(m.(*wrapperspb.StringValue).GetValue(), "bad") {
					c.Fail(i, Permanent(errors.New("refused")))
				}
			}
			return next(ctx, c)
		}
	})
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 10
		handled := make(chan string, 10)
		starts := map[string]func() *running{
			"one by one": func() *running {
				return run(t, c, func(_ context.Context, m *wrapperspb.StringValue) error { handled <- m.GetValue(); return nil }, failing)
			},
			"by itself": func() *running {
				return runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
					handled <- d.Message().GetValue()
					return d.Ack(ctx)
				}, failing)
			},
			"in batches": func() *running {
				return runBatches(t, c, bounds(4, 0), func(_ context.Context, b *stringBatch) error {
					for i, m := range b.Messages() {
						handled <- m.GetValue()
						if b.Meta(i).Offset != int64(2*i+1) || b.Len() != 2 {
							t.Errorf("message %d of %d has offset %d", i, b.Len(), b.Meta(i).Offset)
						}
					}
					return nil
				}, failing)
			},
		}
		for name, start := range starts {
			r := start()
			k := <-b.consumers
			_ = k.deliver("bad 1", "good 1", "bad 2", "good 2")
			expect(t, name+": handled", taken(handled), "good 1", "good 2")
			expect(t, name+": settled", b.allSettled(), "0 reject PERMANENT refused", "1 ack", "2 reject PERMANENT refused", "3 ack")
			_ = k.deliver("bad", "bad", "bad", "bad")
			expect(t, name+": handled", taken(handled))
			if got := b.allSettled(); len(got) != 4 {
				t.Errorf("%s: settled %q", name, got)
			}
			r.finish(t)
		}
	})
}

func TestRecoverHandlers(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { panic("bang") },
			WithHandlerInterceptors(RecoverHandlers(func(_ context.Context, c *Call, value any, stack []byte) error {
				if !bytes.Contains(stack, []byte("intercept_test.go")) {
					t.Errorf("stack %s", stack)
				}
				return Permanent(fmt.Errorf("%s: %v", c.Meta(0).ID, value))
			})))
		_ = (<-b.consumers).deliver("a")
		expect(t, "settled", b.allSettled(), "0 reject PERMANENT 2-0: bang")
		r.finish(t)
	})
}

func TestMeasures(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
		b.inFlight = 10
		counters := new(Counters)
		if counters.String() != `{"published":null,"handled":null}` {
			t.Errorf("of nothing: %s", counters)
		}
		c := dialed(t, b, WithPublishInterceptors(MeasurePublishes(counters)))
		p := NewPublisher(c, stringTopic)
		_ = p.PublishBatch(t.Context(), []*wrapperspb.StringValue{wrapperspb.String("a"), wrapperspb.String("b")})
		_, _ = p.Publish(t.Context(), wrapperspb.String("c"), WithTTL(-1))
		measured := WithHandlerInterceptors(MeasureHandlers(counters))
		r := runBatches(t, c, bounds(4, 0), func(_ context.Context, b *stringBatch) error {
			b.Fail(0, Skip("x"))
			b.Fail(1, Permanent(errors.New("x")))
			return Snooze(1)
		}, measured)
		_ = (<-b.consumers).deliver("a", "b", "c", "d")
		_ = b.allSettled()
		r.finish(t)
		r = runDeliveries(t, c, func(ctx context.Context, d *stringDelivery) error {
			_ = d.Ack(ctx)
			return errors.New("after that")
		}, measured)
		_ = (<-b.consumers).deliver("a")
		_ = b.allSettled()
		r.finish(t)
		r = run(t, c, func(_ context.Context, m *wrapperspb.StringValue) error { panic("bang") }, measured)
		_ = (<-b.consumers).deliver("a")
		_ = b.allSettled()
		r.finish(t)
		text := regexp.MustCompile(`"took_ns":\d+`).ReplaceAllString(counters.String(), `"took_ns":0`)
		if want := `{"published":{"strings":{"published":2,"failed":1,"took_ns":0}},"handled":{"group":{"strings":` +
			`{"calls":3,"took_ns":0,"messages":{"ack":1,"reject":1,"retry":1,"skip":1,"snooze":2}}}}}`; text != want || !json.Valid([]byte(text)) {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	})
}

// syncBuffer is a buffer that loggers of several goroutines write to.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func TestLogs(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, _ *Client) {
		var out syncBuffer
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "took" {
				return slog.Attr{}
			}
			return a
		}, Level: slog.LevelDebug}))
		c := dialed(t, b, WithPublishInterceptors(LogPublishes(logger)))
		p := NewPublisher(c, stringTopic)
		_, _ = p.Publish(t.Context(), wrapperspb.String("secret"))
		_, _ = p.Publish(t.Context(), wrapperspb.String("secret"), WithPriority(-1))
		r := runBatches(t, c, bounds(4, 0), func(_ context.Context, b *stringBatch) error {
			b.Fail(0, Skip("x"))
			b.Fail(1, Permanent(errors.New("x")))
			b.Fail(2, errors.New("y"))
			return nil
		}, WithHandlerInterceptors(LogHandlers(logger)))
		_ = (<-b.consumers).deliver("secret", "secret", "secret", "secret")
		_ = b.allSettled()
		r.finish(t)
		expect(t, "lines", strings.Split(strings.TrimSpace(out.String()), "\n"),
			`level=DEBUG msg=published topic=strings id=3-0`,
			`level=WARN msg="not published" topic=strings error="mq: invalid_argument BAD_PRIORITY (priority): priority -1: must be 1 to 10"`,
			`level=INFO msg=handled group=group topic=strings id=2-0 attempt=1 outcome=skip error="skipped: x"`,
			`level=ERROR msg=handled group=group topic=strings id=2-1 attempt=1 outcome=reject error=x`,
			`level=WARN msg=handled group=group topic=strings id=2-2 attempt=1 outcome=retry error=y`,
			`level=DEBUG msg="handler returned" group=group topic=strings messages=4`)
	})
}
