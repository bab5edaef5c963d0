//go:build measure

package etcdcluster

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMeasureIdle runs an embedded etcd with one claim, and nothing else, for somebody who measures this process from outside: it makes the file "ready" in the directory
// that ETCD_IDLE names, where its data is too, and goes on until it is killed. mqbench does that, to tell the sidecar's use from its etcd's.
func TestMeasureIdle(t *testing.T) {
	dir := os.Getenv("ETCD_IDLE")
	if dir == "" {
		t.Skip("ETCD_IDLE names no directory")
	}
	c, err := Open(t.Context(), Options{Dir: filepath.Join(dir, "etcd"), Logger: slog.New(slog.DiscardHandler), TTL: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	claimOne(t, c)
	if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {}
}
