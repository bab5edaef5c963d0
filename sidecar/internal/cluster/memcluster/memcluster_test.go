package memcluster_test

import (
	"errors"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/clustertest"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

func TestConformance(t *testing.T) {
	clustertest.Run(t, func(*testing.T) clustertest.Harness {
		coordinator := memcluster.New()
		return clustertest.Harness{
			Join:   func(*testing.T) cluster.Cluster { return coordinator.Join(10*time.Second, nil) },
			Expire: func(_ *testing.T, member cluster.Cluster) { member.(*memcluster.Member).Expire() },
		}
	})
}

func TestACutMemberHoldsNothingUntilHealed(t *testing.T) {
	now := time.Unix(1000, 0)
	coordinator := memcluster.New()
	a := coordinator.Join(10*time.Second, func() time.Time { return now })
	b := coordinator.Join(10*time.Second, nil)
	shard := engine.ShardID{Group: "g", Topic: 1}
	if _, err := a.Claim(t.Context(), []engine.ShardID{shard}); err != nil {
		t.Fatal(err)
	}
	if got := a.Deadline(); !got.Equal(now.Add(10 * time.Second)) {
		t.Errorf("deadline %v, want ten seconds from now", got)
	}
	lost := a.Lost()
	a.Cut()
	<-lost
	if got := a.Deadline(); !got.Equal(now) {
		t.Errorf("deadline %v after the loss, want the instant of the loss", got)
	}
	if _, err := a.Claim(t.Context(), nil); !errors.Is(err, cluster.ErrUnavailable) {
		t.Errorf("claim while cut off: %v", err)
	}
	if claims, err := b.Claim(t.Context(), []engine.ShardID{shard}); err != nil || len(claims) != 1 {
		t.Errorf("the other member claims %v, %v", claims, err)
	}
	a.Heal()
	if claims, err := a.Claim(t.Context(), []engine.ShardID{shard}); err != nil || len(claims) != 0 {
		t.Errorf("after healing: %v, %v", claims, err)
	}
	select {
	case <-a.Lost():
		t.Error("the new lease is lost")
	default:
	}
}
