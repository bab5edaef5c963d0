// Package clustertest is the conformance suite of cluster.Cluster: what every implementation must do, tested through the contract alone.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Harness is a fresh coordinator.
type Harness struct {
	// Join adds a member. The suite closes it.
	Join func(t *testing.T) cluster.Cluster
	// Expire ends a member's lease at the coordinator, without asking the member. The member gets a new one by itself.
	Expire func(t *testing.T, member cluster.Cluster)
}

// Run runs the suite. Each test gets a harness of its own.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"a claim is exclusive", claimIsExclusive},
		{"a claim made again is the same", claimAgain},
		{"epochs grow", epochsGrow},
		{"many shards at once", manyShards},
		{"members racing for shards", racing},
		{"an old claim cannot be released", staleRelease},
		{"owners are told by group and topic", owners},
		{"members are told", membersAreTold},
		{"an expired lease frees its claims", expiry},
		{"the deadline does not move back", deadline},
		{"close releases all", closing},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := open(t)
			join := h.Join
			h.Join = func(t *testing.T) cluster.Cluster {
				t.Helper()
				c := join(t)
				t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
				return c
			}
			test.run(t, h)
		})
	}
}

func shards(group string, n int) []engine.ShardID {
	s := make([]engine.ShardID, n)
	for i := range s {
		s[i] = engine.ShardID{Group: group, Topic: 7, Partition: uint32(i)}
	}
	return s
}

func claim(t *testing.T, c cluster.Cluster, shards ...engine.ShardID) map[engine.ShardID]engine.Epoch {
	t.Helper()
	claims, err := c.Claim(t.Context(), shards)
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	return byShard(t, claims)
}

func byShard(t *testing.T, claims []cluster.Claim) map[engine.ShardID]engine.Epoch {
	t.Helper()
	m := make(map[engine.ShardID]engine.Epoch)
	for _, c := range claims {
		if _, twice := m[c.Shard]; twice || c.Epoch == 0 {
			t.Errorf("claim %v is given twice or has no epoch", c)
		}
		m[c.Shard] = c.Epoch
	}
	return m
}

func release(t *testing.T, c cluster.Cluster, claims map[engine.ShardID]engine.Epoch) {
	t.Helper()
	var list []cluster.Claim
	for shard, epoch := range claims {
		list = append(list, cluster.Claim{Shard: shard, Epoch: epoch})
	}
	if err := c.Release(t.Context(), list); err != nil {
		t.Fatalf("release: %v", err)
	}
}

func claimIsExclusive(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	s := shards("g", 4)
	if got := claim(t, a, s[0], s[1]); len(got) != 2 {
		t.Fatalf("claimed %v of two free shards", got)
	}
	got := claim(t, b, s...)
	if len(got) != 2 || got[s[2]] == 0 || got[s[3]] == 0 {
		t.Errorf("the second member holds %v, want the two free shards", got)
	}
	if got := claim(t, b); len(got) != 0 {
		t.Errorf("claimed %v by asking for nothing", got)
	}
}

func claimAgain(t *testing.T, h Harness) {
	a := h.Join(t)
	s := shards("g", 3)
	first := claim(t, a, s[0], s[1])
	again := claim(t, a, s...)
	if len(again) != 3 || again[s[0]] != first[s[0]] || again[s[1]] != first[s[1]] {
		t.Errorf("claims are %v, then %v", first, again)
	}
}

func epochsGrow(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	s := shards("g", 2)
	last := map[engine.ShardID]engine.Epoch{}
	for round := range 6 {
		c := a
		if round%2 == 1 {
			c = b
		}
		got := claim(t, c, s...)
		for _, shard := range s {
			if got[shard] <= last[shard] {
				t.Fatalf("round %d: epoch of %v is %d after %d", round, shard, got[shard], last[shard])
			}
			last[shard] = got[shard]
		}
		release(t, c, got)
	}
}

func manyShards(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	s := shards("g", 300)
	got := claim(t, b, s[10], s[100], s[299])
	if len(got) != 3 {
		t.Fatalf("claimed %d of 3", len(got))
	}
	all := claim(t, a, s...)
	if len(all) != 297 {
		t.Errorf("claimed %d of 297 free shards", len(all))
	}
	owners, err := a.Owners(t.Context(), "g", 7)
	if err != nil || len(owners) != 300 {
		t.Errorf("%d owners, %v; want 300", len(owners), err)
	}
	release(t, a, all)
	if got := claim(t, b, s...); len(got) != 300 {
		t.Errorf("claimed %d of 300 after the release", len(got))
	}
}

func racing(t *testing.T, h Harness) {
	const members = 4
	s := shards("g", 20)
	var (
		wg     sync.WaitGroup
		claims [members][]cluster.Claim
		errs   [members]error
	)
	joined := make([]cluster.Cluster, members)
	for i := range joined {
		joined[i] = h.Join(t)
	}
	for i, c := range joined {
		wg.Go(func() { claims[i], errs[i] = c.Claim(t.Context(), s) })
	}
	wg.Wait()
	winners := map[engine.ShardID]int{}
	for i := range members {
		if errs[i] != nil {
			t.Errorf("member %d: %v", i, errs[i])
		}
		for shard := range byShard(t, claims[i]) {
			winners[shard]++
		}
	}
	for _, shard := range s {
		if winners[shard] != 1 {
			t.Errorf("%v has %d owners", shard, winners[shard])
		}
	}
}

func staleRelease(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	s := shards("g", 1)
	old := claim(t, a, s...)
	release(t, a, old)
	release(t, a, old)
	held := claim(t, b, s...)
	release(t, a, old)
	if got := claim(t, a, s...); len(got) != 0 {
		t.Errorf("the release of an old claim freed a new one")
	}
	release(t, a, held)
	if got := claim(t, a, s...); len(got) != 0 {
		t.Errorf("a member released another's claim")
	}
	release(t, b, held)
	claim(t, a, s...)
	release(t, a, old)
	if got := claim(t, b, s...); len(got) != 0 {
		t.Errorf("a member's old claim released its present one")
	}
}

func owners(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	for _, group := range []string{"g", "g2", "g/7", "a b%2F"} {
		claim(t, a, shards(group, 2)[0])
		claim(t, b, shards(group, 2)[1])
	}
	other := engine.ShardID{Group: "g", Topic: 77, Partition: 0}
	claim(t, a, other)
	for _, group := range []string{"g", "g2", "g/7", "a b%2F"} {
		got, err := b.Owners(t.Context(), group, 7)
		s := shards(group, 2)
		if err != nil || len(got) != 2 || got[s[0]] != a.Self() || got[s[1]] != b.Self() {
			t.Errorf("owners of %q are %v, %v", group, got, err)
		}
	}
	if got, err := b.Owners(t.Context(), "nobody", 7); err != nil || len(got) != 0 {
		t.Errorf("owners of an unknown group are %v, %v", got, err)
	}
}

func membersAreTold(t *testing.T, h Harness) {
	a := h.Join(t)
	if got, err := a.Members(t.Context()); err != nil || !slices.Equal(got, []cluster.MemberID{a.Self()}) {
		t.Errorf("members are %v, %v; want %s alone", got, err, a.Self())
	}
	b := h.Join(t)
	want := []cluster.MemberID{a.Self(), b.Self()}
	slices.Sort(want)
	if got, err := a.Members(t.Context()); err != nil || !slices.Equal(got, want) || a.Self() == b.Self() {
		t.Errorf("members are %v, %v; want %v", got, err, want)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Members(t.Context()); err != nil || !slices.Equal(got, []cluster.MemberID{a.Self()}) {
		t.Errorf("members are %v, %v after the other closed", got, err)
	}
}

func expiry(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	s := shards("g", 3)
	old, name, lost := claim(t, a, s...), a.Self(), a.Lost()
	select {
	case <-lost:
		t.Fatal("the lease is lost from the start")
	default:
	}
	h.Expire(t, a)
	<-lost
	got := claim(t, b, s...)
	for _, shard := range s {
		if got[shard] <= old[shard] {
			t.Errorf("epoch of %v is %d after %d", shard, got[shard], old[shard])
		}
	}
	held := false
	for !held {
		// A new lease comes by itself. Until then the member says that it is lost.
		claims, err := a.Claim(t.Context(), s)
		switch {
		case errors.Is(err, cluster.ErrLost):
			runtime.Gosched()
		case err != nil:
			t.Fatalf("claim after the loss: %v", err)
		default:
			held = true
			if len(claims) != 0 {
				t.Errorf("the member that lost its lease holds %v", claims)
			}
		}
	}
	select {
	case <-a.Lost():
		t.Error("the new lease is lost")
	default:
	}
	if a.Self() == name {
		t.Errorf("the new lease has the old one's name %s", name)
	}
	release(t, a, old)
	if got := claim(t, b, s...); len(got) != len(s) {
		t.Errorf("the old claims of the member that lost its lease released new ones: %v", got)
	}
	free := shards("other", 1)
	if got := claim(t, a, free...); len(got) != 1 {
		t.Errorf("the member with the new lease cannot claim: %v", got)
	}
}

func deadline(t *testing.T, h Harness) {
	a := h.Join(t)
	last := a.Deadline()
	for i := range 200 {
		claim(t, a, engine.ShardID{Group: fmt.Sprint(i % 3), Topic: 1})
		now := a.Deadline()
		if now.Before(last) {
			t.Fatalf("the deadline moved back by %v", last.Sub(now))
		}
		last = now
	}
}

func closing(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	s := shards("g", 3)
	old := claim(t, a, s...)
	lost := a.Lost()
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-lost
	got := claim(t, b, s...)
	for _, shard := range s {
		if got[shard] <= old[shard] {
			t.Errorf("epoch of %v is %d after %d", shard, got[shard], old[shard])
		}
	}
	if _, err := a.Claim(t.Context(), s); !errors.Is(err, cluster.ErrLost) {
		t.Errorf("claim after close: %v", err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Errorf("second close: %v", err)
	}
}
