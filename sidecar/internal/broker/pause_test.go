package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

func (w *world) pause(group, topic string, paused bool, want ...string) {
	w.t.Helper()
	topics, err := w.Pause(w.t.Context(), group, topic, paused)
	if err != nil || !slices.Equal(topics, want) {
		w.t.Fatalf("paused %v of %v, %v; want %v", paused, topics, err, want)
	}
}

// TestAPausedGroupLeasesNothing: it settles, it keeps its mark over a declaration and a restart, and goes on where it was.
func TestAPausedGroupLeasesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(bags, 0, 20, 1)
		s := w.join("baggage", bags, 4)
		got := w.next(s)
		w.pause("baggage", bags, true, bags)
		if refused := w.settle("baggage", bags, broker.Acked, got[:2]...); len(refused) > 0 {
			t.Fatalf("settling: %+v", refused)
		}
		w.settle("baggage", bags, broker.Retried, got[2:]...)
		time.Sleep(10 * time.Second)
		still := func(when string) {
			t.Helper()
			synctest.Wait()
			groups, err := w.Groups(t.Context(), "baggage", bags)
			if sum := w.total("baggage", bags); err != nil || !groups[0].Paused || sum.Stats.Leased != 0 || sum.Lag != 18 {
				t.Fatalf("%s: %+v, %v, %v", when, groups[0], sum, err)
			}
		}
		still("paused")
		w.declare(func(_ string, o *mqv1.SubscribeOptions) { o.Retry.MaxAttempts = nil })
		still("declared anew")
		s.Close(false)
		w.close()
		w.open()
		s = w.join("baggage", bags, 4)
		still("restarted")
		w.publish(bags, 20, 1, 1)
		w.pause("baggage", "", true, bags) // again: nothing changes
		w.pause("baggage", "", false, bags)
		for left := 19; left > 0; {
			ds := w.next(s)
			left -= len(ds)
			w.settle("baggage", bags, broker.Acked, ds...)
		}
		w.publish(departed, 0, 1, 1)
		w.next(w.join("board", departed, 1)) // another group is not concerned
	})
}

// TestAPauseIsInEffectWhenItReturns: whatever comes next is not leased, however busy the shards are.
func TestAPauseIsInEffectWhenItReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 1000)
		for i := range 50 {
			w.publish(bags, 0, 10, 1)
			w.pause("baggage", bags, true, bags)
			leased := w.total("baggage", bags).Stats.Leased
			w.publish(bags, 0, 10, 1)
			synctest.Wait()
			if now := w.total("baggage", bags).Stats.Leased; now != leased {
				t.Fatalf("round %d: %d leased when the pause returned, %d afterwards", i, leased, now)
			}
			w.pause("baggage", bags, false, bags)
			synctest.Wait()
			ds := w.next(s)
			w.settle("baggage", bags, broker.Acked, ds...)
		}
	})
}

// TestAPausedGroupIsPausedInWhatItDeclares: over a restart, until it goes on, in all topics or in one.
func TestAPausedGroupIsPausedInWhatItDeclares(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(w *world) // the second topic is declared
		paused bool
	}{
		{"paused", func(w *world) { w.pause("baggage", "", true, bags) }, true},
		{"paused twice", func(w *world) { w.pause("baggage", "", true, bags); w.pause("baggage", "", true, bags) }, true},
		{"paused topic by topic, then as a whole", func(w *world) { w.pause("baggage", bags, true, bags); w.pause("baggage", "", true, bags) }, true},
		{"paused in one topic", func(w *world) { w.pause("baggage", bags, true, bags) }, false},
		{"resumed", func(w *world) { w.pause("baggage", "", true, bags); w.pause("baggage", "", false, bags) }, false},
		{"resumed in one topic", func(w *world) { w.pause("baggage", "", true, bags); w.pause("baggage", bags, false, bags) }, false},
		{"another group", func(w *world) {}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer func() { w.close() }()
				files := w.files(nil)
				for _, f := range files.File {
					for _, s := range f.GetService() {
						if s.GetName() == "Board" {
							o := proto.GetExtension(s.GetOptions(), mqv1.E_Consumer).(*mqv1.ConsumerOptions)
							o.Group = proto.String("baggage")
							proto.SetExtension(s.Options, mqv1.E_Consumer, o)
						}
					}
				}
				declare := func(rpc string) {
					t.Helper()
					if _, err := w.Declare(t.Context(), broker.Declaration{Descriptors: files, Subscriptions: []string{rpc}}); err != nil {
						t.Fatal(err)
					}
				}
				declare(baggageRPC)
				c.before(w)
				w.close()
				w.open()
				declare(boardRPC)
				w.publish(departed, 0, 1, 1)
				pull := func() int {
					t.Helper()
					slices, err := w.Pull(t.Context(), "baggage", departed, 1, time.Minute, time.Second)
					if err != nil {
						t.Fatal(err)
					}
					return len(deliveries(t, slices))
				}
				groups, err := w.Groups(t.Context(), "baggage", departed)
				if err != nil || groups[0].Paused != c.paused {
					t.Errorf("paused %v, %v, want %v", groups[0].Paused, err, c.paused)
				}
				if n := pull(); n == 1 == c.paused {
					t.Errorf("%d messages came", n)
				}
				if c.paused {
					w.pause("baggage", "", false, bags, departed)
					if n := pull(); n != 1 {
						t.Errorf("%d messages came when it went on", n)
					}
				}
			})
		})
	}
}

func TestPauseRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			group, topic string
			want         broker.Reason
		}{{"nobody", "", broker.GroupUnknown}, {"nobody", bags, broker.GroupUnknown}, {"baggage", "nothing", broker.TopicUnknown}, {"b ad", "", broker.BadName}} {
			if _, err := w.Pause(t.Context(), c.group, c.topic, true); err == nil || broker.Refusal(err).Reason != c.want {
				t.Errorf("group %q, topic %q: %v, want %s", c.group, c.topic, err, c.want)
			}
		}
		w.engine.failCommits.Store(1)
		if _, err := w.Pause(t.Context(), "baggage", bags, true); broker.Refusal(err).Reason != broker.OutcomeUnknown {
			t.Fatalf("a commit that failed: %v", err)
		}
		w.engine.failCommits.Store(-1 << 30)
		w.pause("baggage", bags, true, bags)
	})
}
