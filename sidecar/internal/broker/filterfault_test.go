package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// TestFaultsOfFiltersAreLogged: one warning for a group, a topic and a minute, with how many there were since the last.
func TestFaultsOfFiltersAreLogged(t *testing.T) {
	divides := func(service string, o *mqv1.SubscribeOptions) {
		if service == "Board" {
			o.Filter = proto.String(`10 / size(msg.destination) > 0`)
		}
	}
	inBubbleWith(t, nil, divides, func(t *testing.T, w *world) {
		s := w.join("board", departed, 10)
		defer s.Close(false)
		stop := beat(s)
		defer stop()
		warnings := func() (all []string) {
			synctest.Wait()
			for line := range strings.Lines(w.logged()) {
				if strings.Contains(line, "filter") {
					all = append(all, line)
				}
			}
			return all
		}
		want := func(n int, last string) {
			t.Helper()
			all := warnings()
			if len(all) != n {
				t.Fatalf("%d warnings, want %d: %s", len(all), n, all)
			}
			for _, part := range []string{"level=WARN", "group=board", "topic=" + departed, "division by zero", last} {
				if !strings.Contains(all[n-1], part) {
					t.Errorf("no %q in %s", part, all[n-1])
				}
			}
		}
		w.publish(departed, 0, 5, 5)
		want(1, "count=1")
		time.Sleep(50 * time.Second)
		w.publish(departed, 5, 5, 5)
		want(1, "count=1")
		time.Sleep(11 * time.Second)
		w.publish(departed, 10, 1, 1)
		want(2, "count=10")
	})
}
