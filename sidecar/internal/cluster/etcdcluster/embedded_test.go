package etcdcluster

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

var shard = engine.ShardID{Group: "billing", Topic: 7, Partition: 3}

func openForTest(t *testing.T, dir string) *Cluster {
	t.Helper()
	c, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func claimOne(t *testing.T, c cluster.Cluster) engine.Epoch {
	t.Helper()
	claims, err := c.Claim(t.Context(), []engine.ShardID{shard})
	if err != nil || len(claims) != 1 {
		t.Fatalf("claim: %v, %v", claims, err)
	}
	return claims[0].Epoch
}

// die ends a member as kill -9 does: etcd stops, and the lease is neither renewed nor revoked.
func die(t *testing.T, c *Cluster) {
	t.Helper()
	c.stop()
	<-c.stopped
	if err := c.after(); err != nil {
		t.Fatal(err)
	}
}

func TestAClaimOfADeadProcessDoesNotDelayTheNext(t *testing.T) {
	dir := t.TempDir()
	var last engine.Epoch
	for round := range 3 {
		c := openForTest(t, dir)
		epoch := claimOne(t, c)
		if epoch <= last {
			t.Fatalf("round %d: epoch %d after %d", round, epoch, last)
		}
		last = epoch
		if members, err := c.Members(t.Context()); err != nil || len(members) != 1 || members[0] != c.Self() {
			t.Errorf("round %d: members are %v, %v", round, members, err)
		}
		die(t, c)
	}
}

func TestAClaimWithoutALeaseDoesNotStandForEver(t *testing.T) {
	dir := t.TempDir()
	c := openForTest(t, dir)
	first := claimOne(t, c)
	// A flipped bit in the number of a lease makes such a key.
	for _, key := range []string{ownerKey(shard), memberKey("0f80a203d44ea904")} {
		if _, err := c.client.Put(t.Context(), key, seal(key, "0f80a203d44ea904")); err != nil {
			t.Fatal(err)
		}
	}
	die(t, c)
	c = openForTest(t, dir)
	defer die(t, c)
	if second := claimOne(t, c); second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	if members, err := c.Members(t.Context()); err != nil || len(members) != 1 {
		t.Errorf("members are %v, %v", members, err)
	}
}

func TestAnEtcdWithoutALogIsMovedAside(t *testing.T) {
	dir := t.TempDir()
	c := openForTest(t, dir)
	first := claimOne(t, c)
	for range 20 { // so that the database has numbers that a new log reaches late
		if _, err := c.client.Put(t.Context(), "/typedmq/test", "x"); err != nil {
			t.Fatal(err)
		}
	}
	die(t, c)
	logs, err := filepath.Glob(filepath.Join(dir, "etcd", "member", "wal", "*.wal"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("logs: %q, %v", logs, err)
	}
	for _, name := range logs {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	c = openForTest(t, dir)
	defer die(t, c)
	if second := claimOne(t, c); second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	if aside, err := filepath.Glob(filepath.Join(dir, "etcd.aside-*", "member", "snap", "db")); err != nil || len(aside) != 1 {
		t.Errorf("moved aside: %q, %v", aside, err)
	}
}

func TestADamagedEtcdIsMovedAside(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, member string){
		"a database that was cut short": func(t *testing.T, member string) { // bbolt maps it, and would fault in a goroutine of etcd's
			if err := os.Truncate(filepath.Join(member, "snap", "db"), 3*4096); err != nil {
				t.Fatal(err)
			}
		},
		"a value with a flipped bit": func(t *testing.T, member string) {
			flipAfter(t, filepath.Join(member, "snap", "db"), "/typedmq/epoch-base")
		},
		"a log with a flipped bit": func(t *testing.T, member string) {
			logs, err := filepath.Glob(filepath.Join(member, "wal", "*.wal"))
			if err != nil || len(logs) != 1 {
				t.Fatalf("logs: %q, %v", logs, err)
			}
			flipAfter(t, logs[0], "/typedmq/epoch-base")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := openForTest(t, dir)
			first := claimOne(t, c)
			die(t, c)
			damage(t, filepath.Join(dir, "etcd", "member"))
			var log bytes.Buffer
			c, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			if second := claimOne(t, c); second <= first {
				t.Errorf("epoch %d after %d", second, first)
			}
			die(t, c)
			if !strings.Contains(log.String(), "etcd is damaged") {
				t.Errorf("it logged: %s", log.String())
			}
			if aside, err := filepath.Glob(filepath.Join(dir, "etcd.aside-*", "member")); err != nil || len(aside) != 1 {
				t.Errorf("moved aside: %q, %v", aside, err)
			}
		})
	}
}

// flipAfter flips a bit behind every place where a text stands.
func flipAfter(t *testing.T, name, text string) {
	t.Helper()
	all, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for at := 0; ; n++ {
		i := bytes.Index(all[at:], []byte(text))
		if i < 0 {
			break
		}
		at += i + len(text)
		all[at+12] ^= 1
	}
	if n == 0 {
		t.Fatalf("%s does not hold %q", name, text)
	}
	if err := os.WriteFile(name, all, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEpochsGrowEvenWhenEtcdIsSetUpAnew(t *testing.T) {
	dir := t.TempDir()
	c := openForTest(t, dir)
	first := claimOne(t, c)
	die(t, c)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	c = openForTest(t, dir)
	defer die(t, c)
	if second := claimOne(t, c); second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	c := openForTest(t, dir)
	if _, err := Open(t.Context(), Options{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := openForTest(t, dir)
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSaysWhyItCannot(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file} {
		if _, err := Open(t.Context(), Options{Dir: dir}); err == nil {
			t.Errorf("open of %q succeeded", dir)
		}
	}
}

func TestTheEmbeddedServerListensNowhere(t *testing.T) {
	s := startForTest(t, t.TempDir())
	if len(s.etcd.Peers) != 0 || len(s.etcd.Clients) != 0 {
		t.Errorf("%d peer listeners and %d client listeners", len(s.etcd.Peers), len(s.etcd.Clients))
	}
}

func TestAQuietStart(t *testing.T) {
	var log bytes.Buffer
	c, err := Open(t.Context(), Options{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	claimOne(t, c)
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log.Len() > 0 {
		t.Errorf("a start and a stop logged:\n%s", log.String())
	}
}

func TestALeaseThatIsNotRenewedEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lease of one second")
	}
	s := startForTest(t, t.TempDir())
	a, err := Connect(t.Context(), s.client, Options{TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Connect(t.Context(), s.client, Options{TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	old := claimOne(t, a)
	gone := s.client.Watch(t.Context(), ownerKey(shard), clientv3.WithFilterPut())
	a.stop()
	<-a.stopped
	promise := a.Deadline()
	<-gone
	if now := time.Now(); now.Before(promise) {
		t.Errorf("etcd freed the claim %v before the member's deadline", promise.Sub(now))
	}
	if !a.present().over() {
		t.Error("the member still believes in its lease")
	}
	if epoch := claimOne(t, b); epoch <= old {
		t.Errorf("epoch %d after %d", epoch, old)
	}
	select {
	case <-b.Lost():
		t.Error("the member that renews lost its lease")
	default:
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedValuesAreFound(t *testing.T) {
	s := startForTest(t, t.TempDir())
	join := func() *Cluster {
		c, err := Connect(t.Context(), s.client, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := join(), join()
	defer b.Close(t.Context())
	epoch := claimOne(t, a)

	// One bit of the stored name, under the same lease.
	key := ownerKey(shard)
	value := []byte(seal(key, string(a.Self())))
	value[5] ^= 1
	if _, err := s.client.Put(t.Context(), key, string(value), clientv3.WithLease(a.present().id)); err != nil {
		t.Fatal(err)
	}
	if owners, err := b.Owners(t.Context(), shard.Group, shard.Topic); !errors.Is(err, cluster.ErrCorrupt) {
		t.Errorf("owners with a damaged value: %v, %v", owners, err)
	}
	if claims, err := b.Claim(t.Context(), []engine.ShardID{shard}); err != nil || len(claims) != 0 {
		t.Errorf("another member claims a shard whose owner is damaged: %v, %v", claims, err)
	}
	if again := claimOne(t, a); again <= epoch {
		t.Errorf("the owner's claim is epoch %d after %d", again, epoch)
	}
	if owners, err := b.Owners(t.Context(), shard.Group, shard.Topic); err != nil || owners[shard] != a.Self() {
		t.Errorf("owners after the owner claimed anew: %v, %v", owners, err)
	}

	// A sound value under another key.
	if _, err := s.client.Put(t.Context(), memberKey("somebody"), seal(memberKey(a.Self()), string(a.Self()))); err != nil {
		t.Fatal(err)
	}
	if members, err := a.Members(t.Context()); !errors.Is(err, cluster.ErrCorrupt) {
		t.Errorf("members with a damaged value: %v, %v", members, err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
