package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
)

// TestDeadLettersOfWhatIsServedAreListed: a partition that another sidecar owns keeps no other from it.
func TestDeadLettersOfWhatIsServedAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		coordinator := memcluster.New()
		w := &world{t: t, engine: &faulty{Engine: memengine.New()}, member: coordinator.Join(time.Minute, nil), clock: wall{}}
		w.engine.failCommits.Store(-1 << 30)
		w.open()
		defer w.close()
		w.declare(nil)
		w.bury(40, 20, sameError)
		all := w.letters()
		away := all[0]
		time.Sleep(3 * time.Minute) // the group rests, and owns nothing
		other := coordinator.Join(time.Hour, nil)
		id := func(partition uint32) engine.ShardID {
			return engine.ShardID{Group: "baggage", Topic: 1, Partition: partition}
		}
		if _, err := other.Claim(t.Context(), []engine.ShardID{id(away.Partition)}); err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, d := range all {
			if d.Partition != away.Partition {
				want++
			}
		}
		got := w.letters()
		for _, d := range got {
			if d.Partition == away.Partition {
				t.Errorf("partition %d is listed", d.Partition)
			}
		}
		if len(got) != want || want == 0 || want == len(all) {
			t.Errorf("%d dead letters are listed, want %d of %d", len(got), want, len(all))
		}
		unknown := func(id string) {
			t.Helper()
			if _, _, err := w.DeadLetters(t.Context(), "baggage", bags, id, 10, ""); err == nil || broker.Refusal(err).Reason != broker.PartitionAway {
				t.Errorf("id %q: %v", id, err)
			}
		}
		unknown(away.ID)
		unknown("an id that may be there")
		time.Sleep(3 * time.Minute)
		for p := range uint32(8) {
			if p == away.Partition {
				continue
			}
			if _, err := other.Claim(t.Context(), []engine.ShardID{id(p)}); err != nil {
				t.Fatal(err)
			}
		}
		unknown("")
	})
}
