package mq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

// contextsOf are contexts that handlers make of theirs: each ends with it, by the same cause.
var contextsOf = map[string]func(context.Context) (context.Context, func()){
	"itself":      func(ctx context.Context) (context.Context, func()) { return ctx, func() {} },
	"WithCancel":  func(ctx context.Context) (context.Context, func()) { return context.WithCancel(ctx) },
	"WithTimeout": func(ctx context.Context) (context.Context, func()) { return context.WithTimeout(ctx, time.Hour) },
	"WithValue": func(ctx context.Context) (context.Context, func()) {
		return context.WithValue(ctx, parentKey{}, 1), func() {}
	},
	"of WithValue": func(ctx context.Context) (context.Context, func()) {
		return context.WithCancel(context.WithValue(ctx, parentKey{}, 1))
	},
	"of a child": func(ctx context.Context) (context.Context, func()) {
		ctx, cancel := context.WithCancel(ctx)
		ctx, cancelToo := context.WithTimeoutCause(ctx, time.Hour, errors.New("later"))
		return ctx, func() { cancelToo(); cancel() }
	},
}

type parentKey struct{}

// TestContextEnds: what a handler's context comes to, the contexts made of it come to.
func TestContextEnds(t *testing.T) {
	for name, end := range map[string]struct {
		by    func(b *fakeBroker, k *fakeConsumer, r *running, release chan struct{})
		err   error
		cause error
	}{
		"processing timeout": {func(*fakeBroker, *fakeConsumer, *running, chan struct{}) { advance(time.Minute) },
			context.DeadlineExceeded, ErrProcessingTimeout},
		"lost stream": {func(_ *fakeBroker, k *fakeConsumer, _ *running, _ chan struct{}) { k.end <- errors.New("boom") },
			context.Canceled, ErrLeaseLost},
		"shutdown": {func(_ *fakeBroker, _ *fakeConsumer, r *running, _ chan struct{}) { r.stop(); advance(10 * time.Second) },
			context.Canceled, ErrShutdown},
		"return": {func(_ *fakeBroker, _ *fakeConsumer, _ *running, release chan struct{}) { release <- struct{}{} },
			context.Canceled, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				contexts := make(chan context.Context, 1)
				release := make(chan struct{}, 1)
				r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error {
					contexts <- ctx
					<-release
					return nil
				}, WithDrainTimeout(10*time.Second))
				defer r.finish(t)
				defer close(release)
				k := <-b.consumers
				if err := k.deliver("a"); err != nil {
					t.Fatal(err)
				}
				ctx := <-contexts
				derived := make(map[string]context.Context)
				told := make(map[string]bool)
				var mu sync.Mutex
				for name, derive := range contextsOf {
					child, cancel := derive(ctx)
					defer cancel()
					derived[name] = child
					context.AfterFunc(derived[name], func() {
						mu.Lock()
						defer mu.Unlock()
						told[name] = true
					})
					if err := derived[name].Err(); err != nil || context.Cause(derived[name]) != nil {
						t.Errorf("%s has ended before: %v, %v", name, err, context.Cause(derived[name]))
					}
				}
				stopped := context.AfterFunc(ctx, func() { t.Error("called though it was stopped") })
				if !stopped() || stopped() {
					t.Error("stop must return true once")
				}
				end.by(b, k, r, release)
				synctest.Wait()
				late, cancel := context.WithCancel(ctx)
				defer cancel()
				derived["made late"] = late
				for name, ctx := range derived {
					select {
					case <-ctx.Done():
					default:
						t.Errorf("%s: the channel is open", name)
					}
					if !errors.Is(ctx.Err(), end.err) || !errors.Is(context.Cause(ctx), end.cause) {
						t.Errorf("%s: error %v and cause %v, want %v and %v", name, ctx.Err(), context.Cause(ctx), end.err, end.cause)
					}
					if m := MetaFrom(ctx); m.ID != "2-0" || m.Topic != "strings" {
						t.Errorf("%s: the message is %+v", name, m)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				if len(told) != len(contextsOf) {
					t.Errorf("told were only %v", told)
				}
			})
		})
	}
}

// TestContextTakesNoGoroutine: making a context of a handler's starts none, as it does for contexts that package context does not know.
func TestContextTakesNoGoroutine(t *testing.T) {
	h := &handling{session: &session{handling: t.Context(), endings: endings{returned: endedByReturn(t.Context()), never: make(chan struct{})}}}
	h.call.subscription = &subscription{}
	before := runtime.NumGoroutine()
	for range 100 {
		_, cancel := context.WithTimeout(context.WithValue(h, parentKey{}, 1), time.Hour)
		defer cancel()
	}
	if n := runtime.NumGoroutine() - before; n >= 100 {
		t.Errorf("%d goroutines for 100 contexts", n)
	}
	h.end(&h.session.endings.returned)
}

// TestContextHasTheValuesOfRun, and the deadline of its message.
func TestContextHasTheValuesOfRun(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		w := NewWorker(c)
		type seen struct {
			value    any
			deadline time.Time
			ok       bool
		}
		got := make(chan seen, 1)
		Handle(w, stringSubscription, func(ctx context.Context, _ *wrapperspb.StringValue) error {
			deadline, ok := ctx.Deadline()
			if !deadline.Equal(MetaFrom(ctx).Deadline) {
				t.Errorf("the context ends at %v, the message at %v", deadline, MetaFrom(ctx).Deadline)
			}
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			if name := fmt.Sprint(child); !strings.HasPrefix(name, "mq.handler(test.Consumer/strings)") {
				t.Errorf("the context is shown as %s", name)
			}
			got <- seen{ctx.Value(parentKey{}), deadline, ok}
			return nil
		})
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), parentKey{}, "parent"))
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		k := <-b.consumers
		if err := k.deliver("a"); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s.value != "parent" || !s.ok || !s.deadline.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("value %v and deadline %v", s.value, s.deadline)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestContextKeepsItsCause: once it was told that the session's context has ended, it does not change its mind.
func TestContextKeepsItsCause(t *testing.T) {
	parent, cancel := context.WithCancelCause(t.Context())
	s := &session{handling: parent}
	s.endings = endings{returned: endedByReturn(parent), interrupted: ending{parent}, never: make(chan struct{})}
	h := &handling{session: s}
	h.call.subscription = &subscription{}
	child, give := context.WithCancel(h)
	defer give()
	cancel(ErrLeaseLost)
	if h.Err() != context.Canceled || context.Cause(h) != ErrLeaseLost {
		t.Errorf("error %v and cause %v", h.Err(), context.Cause(h))
	}
	h.end(&s.endings.returned) // before the session could tell
	for _, ctx := range []context.Context{h, child} {
		<-ctx.Done()
		if cause := context.Cause(ctx); cause != ErrLeaseLost {
			t.Errorf("the cause is now %v", cause)
		}
	}
}

// TestContextHasNoErrorBeforeItIsDone, as package context promises.
func TestContextHasNoErrorBeforeItIsDone(t *testing.T) {
	parent, cancel := context.WithCancelCause(t.Context())
	s := &session{handling: parent}
	s.endings = endings{returned: endedByReturn(parent), interrupted: ending{parent}, never: make(chan struct{})}
	h := &handling{session: s}
	h.call.subscription = &subscription{}
	done := h.Done()
	child, give := context.WithCancel(h)
	defer give()
	cancel(ErrLeaseLost) // and the session has not told yet
	if h.Err() == nil {
		t.Fatal("the end of the session was not noticed")
	}
	for name, channel := range map[string]<-chan struct{}{"its own": done, "the child's": child.Done()} {
		select {
		case <-channel:
		default:
			t.Errorf("there is an error, and %s channel is open", name)
		}
	}
	if child.Err() != context.Canceled || context.Cause(child) != ErrLeaseLost {
		t.Errorf("the child has error %v and cause %v", child.Err(), context.Cause(child))
	}
}

// TestContextIsSafeForConcurrentUse: contexts are made of one and given up while it ends.
func TestContextIsSafeForConcurrentUse(t *testing.T) {
	for range 200 {
		parent, cancel := context.WithCancelCause(t.Context())
		s := &session{handling: parent, timedOut: ErrProcessingTimeout}
		s.endings = endings{timedOut: endedBy(parent, ErrProcessingTimeout), returned: endedByReturn(parent), interrupted: ending{parent}, never: make(chan struct{})}
		h := &handling{session: s}
		h.call.subscription = &subscription{}
		var work sync.WaitGroup
		for i := range 4 {
			work.Go(func() {
				for range 20 {
					child, give := context.WithCancel(h)
					if i%2 == 0 {
						give()
					}
					if h.Err() != nil {
						<-h.Done()
						<-child.Done()
						if cause := context.Cause(h); cause != ErrProcessingTimeout && cause != context.Canceled || cause != context.Cause(h) {
							t.Errorf("the cause is %v", cause)
						}
					}
					defer give()
				}
			})
		}
		work.Go(func() { h.end(&s.endings.timedOut) })
		work.Go(func() { h.end(&s.endings.returned) })
		work.Wait()
		cancel(nil)
	}
}
