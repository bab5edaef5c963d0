package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// named makes declarations call bags.checked by another name.
func named(name string, aliases ...string) func(string, *mqv1.TopicOptions) {
	return func(was string, o *mqv1.TopicOptions) {
		if was == bags {
			o.Name, o.Aliases = &name, aliases
		}
	}
}

func topicNames(t *testing.T, w *world) (names []string) {
	t.Helper()
	for _, s := range w.Topics(t.Context()) {
		names = append(names, s.Declared.Name)
	}
	return names
}

// TestARenamedTopicKeepsAll: log, position, dead letters and leases stay with the topic, under both names, also after a restart.
func TestARenamedTopicKeepsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.close() }()
		w.declare(nil)
		w.publish(bags, 0, 10, 4)
		old := w.join("baggage", bags, 10)
		var got []delivery
		for len(got) < 10 {
			got = append(got, w.next(old)...)
		}
		w.settle("baggage", bags, broker.Acked, got[:3]...)
		w.settle("baggage", bags, broker.Rejected, got[3])

		w.topics = named("bags.ready", bags)
		if err := w.tryDeclareTopic("air.flights.v1.BagsChecked"); err != nil { // the publisher alone is of the newer release
			t.Fatal(err)
		}
		if names := topicNames(t, w); !slices.Equal(names, []string{"bags.ready", departed}) {
			t.Fatalf("topics %v", names)
		}
		// A lease from before the change is settled after it, under either name.
		if refused := w.settle("baggage", bags, broker.Acked, got[4]); len(refused) > 0 {
			t.Fatalf("under the old name: %v", refused)
		}
		if refused := w.settle("baggage", "bags.ready", broker.Acked, got[5]); len(refused) > 0 {
			t.Fatalf("under the new name: %v", refused)
		}
		check := func(when string) {
			t.Helper()
			synctest.Wait()
			for _, name := range []string{bags, "bags.ready"} {
				groups, err := w.Groups(t.Context(), "", name)
				if err != nil || len(groups) != 1 || groups[0].Topic != "bags.ready" || groups[0].Group != "baggage" {
					t.Fatalf("%s, %s: %v %v", when, name, groups, err)
				}
				if sum := w.total("baggage", name); sum.DeadLetters != 1 || sum.Lag != 4 {
					t.Fatalf("%s, %s: %d dead letters, lag %d; want 1 and 4", when, name, sum.DeadLetters, sum.Lag)
				}
			}
		}
		check("renamed")
		w.close()
		w.open()
		check("after a restart")

		// A consumer of the older release declares and joins by the name that it knows; what it says of the topic changes nothing.
		w.topics = nil
		w.declare(nil)
		if names := topicNames(t, w); !slices.Equal(names, []string{"bags.ready", departed}) {
			t.Fatalf("topics %v after a declaration of the older release", names)
		}
		// It is answered in its own words, since SDKs compare.
		declared, err := w.Declare(t.Context(), broker.Declaration{
			Descriptors: w.files(nil), Topics: []string{"air.flights.v1.BagsChecked"}, Subscriptions: []string{baggageRPC},
		})
		if err != nil || declared.Topics[0].Name != bags || declared.Subscriptions[0].Topic.Name != bags {
			t.Fatalf("declared %+v, %v", declared, err)
		}
		again := w.join("baggage", bags, 10)
		var rest []delivery
		for len(rest) < 4 {
			rest = append(rest, w.next(again)...)
		}
		w.publish(bags, 10, 1, 1)
		w.publish("bags.ready", 11, 1, 1)
		for len(rest) < 6 {
			rest = append(rest, w.next(again)...)
		}
		w.settle("baggage", bags, broker.Acked, rest...)
		if sum := w.total("baggage", bags); sum.Lag != 0 {
			t.Fatalf("lag %d, want 0", sum.Lag)
		}

		// It can be renamed again, and back; the alias that is dropped is free.
		w.topics = named(bags, "bags.ready")
		w.declare(nil)
		w.topics = named(bags)
		w.declare(nil)
		if names := topicNames(t, w); !slices.Equal(names, []string{bags, departed}) {
			t.Fatalf("topics %v", names)
		}
		if _, err := w.Groups(t.Context(), "baggage", "bags.ready"); reason(err) != broker.TopicUnknown {
			t.Fatalf("the alias that was dropped: %v", err)
		}
		w.close()
		w.open()
		if sum := w.total("baggage", bags); sum.Lag != 0 || sum.DeadLetters != 1 {
			t.Fatalf("lag %d, %d dead letters", sum.Lag, sum.DeadLetters)
		}
	})
}

// TestAnAliasIsNotAnotherTopic: two topics cannot become one, and none takes the name of another.
func TestAnAliasIsNotAnotherTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.close() }()
		w.declare(nil)
		for _, test := range []struct {
			what   string
			topics func(string, *mqv1.TopicOptions)
			says   string
		}{
			{"an alias that is another topic", func(name string, o *mqv1.TopicOptions) {
				if name == bags {
					o.Aliases = []string{departed}
				} else {
					other := "flights.left"
					o.Name = &other
				}
			}, "two topics cannot become one"},
			{"a new name with the alias of another message", func(name string, o *mqv1.TopicOptions) {
				fresh, left := "bags.ready", "flights.left"
				if name == bags {
					o.Name, o.Aliases = &fresh, []string{departed}
				} else {
					o.Name = &left
				}
			}, "message: air.v1"},
		} {
			w.topics = test.topics
			err := w.tryDeclareTopic("air.flights.v1.BagsChecked")
			var refused *broker.Error
			if !errors.As(err, &refused) || refused.Reason != broker.TopicIncompatible {
				t.Errorf("%s: %v", test.what, err)
			} else if text := err.Error(); !strings.Contains(text, test.says) && !strings.Contains(text, "message: air.flights.v1.FlightDeparted became") {
				t.Errorf("%s: %v", test.what, err)
			}
			if names := topicNames(t, w); !slices.Equal(names, []string{bags, departed}) {
				t.Errorf("%s: topics %v", test.what, names)
			}
		}
		// A third name that has an alias in common, but not the present name.
		w.topics = named("bags.ready", bags)
		w.declare(nil)
		w.topics = named("bags.third", bags)
		if err := w.tryDeclareTopic("air.flights.v1.BagsChecked"); reason(err) != broker.TopicIncompatible || !strings.Contains(err.Error(), `add the alias "bags.ready"`) {
			t.Errorf("got %v", err)
		}
	})
}
