package cluster_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

func shards(n int) []engine.ShardID {
	s := make([]engine.ShardID, n)
	for i := range s {
		s[i] = engine.ShardID{Group: fmt.Sprint("g", i%3), Topic: engine.TopicID(i % 5), Partition: uint32(i)}
	}
	return s
}

func members(n int) []cluster.MemberID {
	m := make([]cluster.MemberID, n)
	for i := range m {
		m[i] = cluster.MemberID(fmt.Sprint("m", i))
	}
	return m
}

func TestAssignHoldsItsPromises(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 2000 {
		ms, ss := members(1+rng.IntN(6)), shards(rng.IntN(40))
		owners := map[engine.ShardID]cluster.MemberID{}
		for _, s := range ss {
			if rng.IntN(4) > 0 { // Some unowned, some owned by members that are gone.
				owners[s] = cluster.MemberID(fmt.Sprint("m", rng.IntN(8)))
			}
		}
		fault := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, round %d, %d members, %d shards: %s", seed, round, len(ms), len(ss), fmt.Sprintf(format, args...))
		}
		before := maps.Clone(owners)
		got := cluster.Assign(ms, ss, owners)

		if len(got) != len(ss) {
			fault("%d shards are assigned", len(got))
		}
		load := map[cluster.MemberID]int{}
		for s, m := range got {
			if !slices.Contains(ms, m) || !slices.Contains(ss, s) {
				fault("%v goes to %s", s, m)
			}
			load[m]++
		}
		low, high := len(ss), 0
		for _, m := range ms {
			low, high = min(low, load[m]), max(high, load[m])
		}
		if high-low > 1 {
			fault("loads %v differ by more than one", load)
		}
		kept := 0
		for s, m := range owners {
			if got[s] == m {
				kept++
			}
		}
		if most := mostKept(ms, ss, owners); kept != most {
			fault("%d shards stay, %d could", kept, most)
		}
		if !maps.Equal(owners, before) {
			fault("owners were changed")
		}
		rng.Shuffle(len(ms), func(i, j int) { ms[i], ms[j] = ms[j], ms[i] })
		rng.Shuffle(len(ss), func(i, j int) { ss[i], ss[j] = ss[j], ss[i] })
		if again := cluster.Assign(ms, append(ss, ss...), owners); !maps.Equal(got, again) {
			fault("another order of arguments gives another answer")
		}
		if stable := cluster.Assign(ms, ss, got); !maps.Equal(got, stable) {
			fault("a balanced assignment moves")
		}
	}
}

// mostKept tries every way to hand out the odd shards.
func mostKept(ms []cluster.MemberID, ss []engine.ShardID, owners map[engine.ShardID]cluster.MemberID) int {
	held := map[cluster.MemberID]int{}
	for _, m := range owners {
		held[m]++
	}
	base, odd, best := len(ss)/len(ms), len(ss)%len(ms), 0
	for set := range 1 << len(ms) {
		kept, used := 0, 0
		for i, m := range ms {
			quota := base
			if set>>i&1 == 1 {
				quota++
				used++
			}
			kept += min(held[m], quota)
		}
		if used == odd {
			best = max(best, kept)
		}
	}
	return best
}

func TestAssignWithoutMembersGivesNothing(t *testing.T) {
	if got := cluster.Assign(nil, shards(3), nil); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestAssignSpreadsATopic(t *testing.T) {
	ss := make([]engine.ShardID, 16)
	for i := range ss {
		ss[i] = engine.ShardID{Group: "g", Topic: 1, Partition: uint32(i)}
	}
	got := cluster.Assign(members(4), ss, nil)
	for i, s := range ss {
		if want := members(4)[i%4]; got[s] != want {
			t.Errorf("%v goes to %s, want %s", s, got[s], want)
		}
	}
}
