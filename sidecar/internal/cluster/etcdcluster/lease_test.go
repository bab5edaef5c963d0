package etcdcluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
)

const ttl = 10 * time.Second

// fakeEtcd grants leases and does with renewals what the test says. Its time is the bubble's.
type fakeEtcd struct {
	mu      sync.Mutex
	granted clientv3.LeaseID
	renewal func(ctx context.Context) (ttl int64, err error)
	gone    bool // the member's key
	silent  bool // grants fail too
	deleted chan clientv3.WatchResponse
}

func (f *fakeEtcd) client(ctx context.Context) *clientv3.Client {
	client := clientv3.NewCtxClient(ctx)
	client.KV, client.Lease, client.Watcher = fakeKV{f: f}, fakeLease{f: f}, fakeWatcher{f: f}
	return client
}

func (f *fakeEtcd) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

type fakeLease struct {
	clientv3.Lease
	f *fakeEtcd
}

func (l fakeLease) Grant(context.Context, int64) (*clientv3.LeaseGrantResponse, error) {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	if l.f.silent {
		return nil, context.DeadlineExceeded
	}
	l.f.granted++
	return &clientv3.LeaseGrantResponse{ID: l.f.granted, TTL: int64(ttl / time.Second)}, nil
}

func (l fakeLease) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	l.f.mu.Lock()
	renewal := l.f.renewal
	l.f.mu.Unlock()
	seconds, err := renewal(ctx)
	if err != nil {
		return nil, err
	}
	return &clientv3.LeaseKeepAliveResponse{ID: id, TTL: seconds}, nil
}

func (l fakeLease) TimeToLive(context.Context, clientv3.LeaseID, ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return &clientv3.LeaseTimeToLiveResponse{TTL: -1}, nil
}

func (l fakeLease) Revoke(context.Context, clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	return &clientv3.LeaseRevokeResponse{}, nil
}

type fakeKV struct {
	clientv3.KV
	f *fakeEtcd
}

func (k fakeKV) Put(context.Context, string, string, ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	return &clientv3.PutResponse{}, nil
}

func (k fakeKV) Get(context.Context, string, ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	k.f.mu.Lock()
	defer k.f.mu.Unlock()
	if k.f.gone {
		return &clientv3.GetResponse{}, nil
	}
	return &clientv3.GetResponse{Kvs: []*mvccpb.KeyValue{{}}}, nil
}

func (k fakeKV) Txn(context.Context) clientv3.Txn { return fakeTxn{} }

// fakeTxn succeeds.
type fakeTxn struct{}

func (t fakeTxn) If(...clientv3.Cmp) clientv3.Txn  { return t }
func (t fakeTxn) Then(...clientv3.Op) clientv3.Txn { return t }
func (t fakeTxn) Else(...clientv3.Op) clientv3.Txn { return t }
func (t fakeTxn) Commit() (*clientv3.TxnResponse, error) {
	return &clientv3.TxnResponse{Succeeded: true, Header: &etcdserverpb.ResponseHeader{Revision: 1}}, nil
}

type fakeWatcher struct {
	clientv3.Watcher
	f *fakeEtcd
}

func (w fakeWatcher) Watch(ctx context.Context, _ string, _ ...clientv3.OpOption) clientv3.WatchChan {
	events := make(chan clientv3.WatchResponse)
	go func() {
		defer close(events)
		select {
		case r := <-w.f.deleted:
			events <- r
		case <-ctx.Done():
		}
	}()
	return events
}

// answered renews at once.
func answered(context.Context) (int64, error) { return int64(ttl / time.Second), nil }

// unanswered hangs as a dead connection does.
func unanswered(ctx context.Context) (int64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// inBubble joins a member to a fake etcd, in fake time that begins at the grant.
func inBubble(t *testing.T, run func(t *testing.T, f *fakeEtcd, c *Cluster, begin time.Time)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeEtcd{renewal: answered, deleted: make(chan clientv3.WatchResponse)}
		begin := time.Now()
		c, err := Connect(t.Context(), f.client(t.Context()), Options{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		run(t, f, c, begin)
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func after(begin time.Time) time.Duration { return time.Since(begin).Round(time.Millisecond) }

func TestARenewedLeaseIsKept(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *fakeEtcd, c *Cluster, begin time.Time) {
		select {
		case <-c.Lost():
			t.Errorf("lost after %v", after(begin))
		case <-time.After(time.Hour):
		}
		if left := time.Until(c.Deadline()); left < ttl/2 || left > ttl {
			t.Errorf("%v are left", left)
		}
	})
}

func TestTheLeaseEndsAtTheDeadlineThoughEtcdNeverAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeEtcd, c *Cluster, begin time.Time) {
		f.set(func() { f.renewal, f.silent = unanswered, true })
		if d := c.Deadline().Sub(begin); d != ttl {
			t.Errorf("the deadline is %v after the grant, want %v", d, ttl)
		}
		lost := c.Lost()
		<-lost
		if d := after(begin); d != ttl {
			t.Errorf("lost after %v, want %v", d, ttl)
		}
		if _, err := c.Claim(t.Context(), nil); !errors.Is(err, cluster.ErrLost) {
			t.Errorf("claim: %v", err)
		}

		name := c.Self()
		time.Sleep(time.Minute) // of the bubble
		if c.Lost() != lost || c.Self() != name {
			t.Error("there is a new lease, and nobody gave one")
		}
		f.set(func() { f.renewal, f.silent = answered, false })
		time.Sleep(2 * maxBackoff)
		synctest.Wait()
		if c.Lost() == lost || c.Self() == name {
			t.Error("no new lease though etcd answers again")
		}
		if _, err := c.Claim(t.Context(), nil); err != nil {
			t.Errorf("claim under the new lease: %v", err)
		}
	})
}

func TestTheDeadlineIsCountedFromBeforeTheRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeEtcd, c *Cluster, begin time.Time) {
		f.set(func() {
			f.renewal = func(context.Context) (int64, error) {
				time.Sleep(2 * time.Second)
				return int64(ttl / time.Second), nil
			}
		})
		time.Sleep(ttl/3 + 2*time.Second)
		synctest.Wait()
		if got, want := c.Deadline().Sub(begin), ttl/3+ttl; got != want {
			t.Errorf("the deadline is %v after the grant, want %v", got, want)
		}
	})
}

func TestTheShorterOfTheLivesAskedForAndGivenIsBelieved(t *testing.T) {
	for given, want := range map[int64]time.Duration{3600: ttl, 10: ttl, 7: 7 * time.Second} {
		inBubble(t, func(t *testing.T, f *fakeEtcd, c *Cluster, begin time.Time) {
			f.set(func() { f.renewal = func(context.Context) (int64, error) { return given, nil } })
			time.Sleep(2*ttl/3 + time.Second)
			synctest.Wait()
			if got, want := c.Deadline().Sub(begin), 2*(ttl/3)+want; got != want {
				t.Errorf("renewed for %d s the deadline is %v after the grant, want %v", given, got, want)
			}
		})
	}
}

func TestALossIsLearntEarly(t *testing.T) {
	for name, end := range map[string]func(f *fakeEtcd){
		"renewal": func(f *fakeEtcd) {
			f.set(func() { f.renewal = func(context.Context) (int64, error) { return 0, rpctypes.ErrLeaseNotFound } })
		},
		"poll": func(f *fakeEtcd) { f.set(func() { f.gone = true }) },
		"watch": func(f *fakeEtcd) {
			f.deleted <- clientv3.WatchResponse{Events: []*clientv3.Event{{Type: clientv3.EventTypeDelete}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fakeEtcd, c *Cluster, begin time.Time) {
				lost := c.Lost()
				end(f)
				<-lost
				if d := after(begin); d > ttl/3 {
					t.Errorf("lost after %v, want at most %v", d, ttl/3)
				}
				f.set(func() { f.renewal, f.gone = answered, false })
			})
		})
	}
}

func TestConnectGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeEtcd{silent: true}
		if _, err := Connect(t.Context(), f.client(t.Context()), Options{}); !errors.Is(err, cluster.ErrUnavailable) {
			t.Errorf("connect: %v", err)
		}
	})
}
