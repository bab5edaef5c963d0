package etcdcluster

import (
	"log/slog"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/clustertest"
)

func startForTest(t *testing.T, dir string) *server {
	t.Helper()
	s, err := startServer(t.Context(), dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Errorf("close of etcd: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) clustertest.Harness {
		begin := time.Now()
		s := startForTest(t, t.TempDir())
		t.Logf("etcd started in %v", time.Since(begin))
		return clustertest.Harness{
			Join: func(t *testing.T) cluster.Cluster {
				c, err := Connect(t.Context(), s.client, Options{})
				if err != nil {
					t.Fatal(err)
				}
				return c
			},
			Expire: func(t *testing.T, member cluster.Cluster) { revokeLease(t, s.client, member) },
		}
	})
}

func revokeLease(t *testing.T, client *clientv3.Client, member cluster.Cluster) {
	t.Helper()
	if _, err := client.Revoke(t.Context(), member.(*Cluster).present().id); err != nil {
		t.Fatal(err)
	}
}
