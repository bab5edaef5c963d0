// Package sidecar is the composition root: the one place that knows which engine and which cluster a sidecar runs on.
//
//	                    HTTP/1.1 and h2c on loopback and a Unix socket
//	                                     │
//	server ── Connect handlers, strict codecs, the table from reasons to codes
//	   │
//	broker ── topics, groups, sessions; one goroutine per owned partition
//	   │    └── dispatch: the pure machine of a partition
//	   ├── engine:  pebbleengine in <data-dir>/store
//	   └── cluster: etcdcluster, embedded, in <data-dir>/etcd
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/etcdcluster"
	"github.com/typedmq/typedmq/sidecar/internal/config"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
	"github.com/typedmq/typedmq/sidecar/internal/server"
	"github.com/typedmq/typedmq/sidecar/internal/telemetry"
)

// ErrDataDir says that the data directory cannot be used. The error around it says why and what to do.
var ErrDataDir = errors.New("data directory cannot be used")

// Sidecar is a running sidecar.
type Sidecar struct {
	log     *slog.Logger
	drain   time.Duration
	engine  *pebbleengine.Engine
	cluster *etcdcluster.Cluster
	broker  *broker.Broker
	http    *http.Server
	addr    string
	socket  string
	serving sync.WaitGroup
	scrub   scrubbing
	memory  memory
	failed  chan error // holds the first fatal error
}

// Start opens the data directory, joins the cluster, and listens. It returns when the sidecar is ready. ctx bounds the start only.
// Errors: ErrDataDir; what keeps it from listening.
func Start(ctx context.Context, cfg config.Config, log *slog.Logger) (_ *Sidecar, err error) {
	s := &Sidecar{log: log, drain: cfg.DrainTimeout, failed: make(chan error, 1)}
	if err := errors.Join(makeDurably(cfg.DataDir), syncDir(cfg.DataDir)); err != nil {
		return nil, fmt.Errorf("%w: %w; create it or choose another with --data-dir", ErrDataDir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if err := s.openData(ctx, cfg); err != nil {
		return nil, err
	}
	limits := broker.DefaultLimits()
	limits.MessageBytes = cfg.MaxMessageBytes
	s.broker, err = broker.New(ctx, broker.Options{Engine: s.engine, Cluster: s.cluster, Clock: wallClock{}, Logger: log, Limits: limits})
	if err != nil {
		return nil, err
	}
	s.scrub.start(ctx, s.engine, cfg.ScrubRate)
	s.memory.begin(s.engine, log)
	handler := server.Handler(s.broker, log, s.ready, telemetry.LogFailures(log))
	if cfg.Profile {
		handler = telemetry.Profiles(handler)
	}
	s.http = server.HTTPServer(handler, log)
	if err := s.listen(ctx, cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// makeDurably makes a directory, and those above it that are missing, so that they survive a power cut. The name of one that is there is synced
// too: whoever made it may have been killed before that.
func makeDurably(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := makeDurably(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return errors.Join(err, os.MkdirAll(dir, 0o700)) // which says what is wrong
	}
	if err := syncDir(parent); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil // It is not ours: somebody else made the directory.
}

// syncDir makes the names in a directory durable, if its file system knows how.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// openData opens the store, then etcd: the store's lock guards the whole directory.
func (s *Sidecar) openData(ctx context.Context, cfg config.Config) error {
	err := restored(cfg.DataDir)
	if err != nil {
		return err
	}
	s.engine, err = pebbleengine.Open(filepath.Join(cfg.DataDir, storeDir), pebbleengine.Options{
		Logger: s.log, OnFatal: s.fail, MinFreeBytes: int64(cfg.MinFreeBytes), BallastBytes: int64(cfg.BallastBytes),
	})
	if err != nil {
		return dataDirError(err)
	}
	above, err := s.epochsAbove(ctx, filepath.Join(cfg.DataDir, etcdDir))
	if err != nil {
		return dataDirError(err)
	}
	s.cluster, err = etcdcluster.Open(ctx, etcdcluster.Options{Dir: filepath.Join(cfg.DataDir, etcdDir), Logger: s.log, TTL: cfg.LeaseTTL, Above: above})
	if err != nil {
		return dataDirError(err)
	}
	return nil
}

// epochsAbove is what a new etcd's epochs have to be above: those that the store has seen under an earlier one. It costs a look at every claim, so it is asked for
// only where there is no etcd yet.
func (s *Sidecar) epochsAbove(ctx context.Context, dir string) (engine.Epoch, error) {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	return s.engine.HighestEpoch(ctx)
}

// dataDirError adds what to do.
func dataDirError(err error) error {
	action := "check its owner, its permissions and the space on its disk"
	switch {
	case errors.Is(err, pebbleengine.ErrLocked), errors.Is(err, etcdcluster.ErrLocked):
		action = "stop the other sidecar or choose another directory with --data-dir"
	case errors.Is(err, pebbleengine.ErrNewerFormat):
		action = "use the version that wrote it, or a later one"
	case errors.Is(err, pebbleengine.ErrFormat):
		action = fmt.Sprintf("if no newer version has used it, write the line %q into that file, and run mq check", pebbleengine.FormatLine())
	case errors.Is(err, pebbleengine.ErrNotAStore):
		action = "choose an empty directory with --data-dir"
	case errors.As(err, new(*pebbleengine.UnsoundError)):
		action = "keep a copy of the directory, then restore a backup"
	case errors.As(err, new(*pebbleengine.DamageError)):
		action = "keep a copy of the directory, then restore a backup; nothing in it was changed"
	}
	return fmt.Errorf("%w: %w; %s", ErrDataDir, err, action)
}

// listen opens the TCP address and the Unix socket.
func (s *Sidecar) listen(ctx context.Context, cfg config.Config) error {
	var listening net.ListenConfig
	tcp, err := listening.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", cfg.Listen, err)
	}
	s.addr = tcp.Addr().String()
	listeners := []net.Listener{tcp}
	if cfg.Socket != "" && cfg.Socket != config.NoSocket {
		unix, err := s.listenUnix(ctx, cfg.Socket)
		if err != nil {
			return errors.Join(err, tcp.Close())
		}
		s.socket = cfg.Socket
		listeners = append(listeners, unix)
	}
	for _, l := range listeners {
		s.serving.Go(func() {
			if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				s.fail(fmt.Errorf("serve on %s: %w", l.Addr(), err))
			}
		})
	}
	return nil
}

// listenUnix replaces the socket file that a killed sidecar left: the lock on the data directory shows that no live one uses it, unless the
// path lies elsewhere, so a file that somebody answers on is left alone.
func (s *Sidecar) listenUnix(ctx context.Context, path string) (net.Listener, error) {
	var dialer net.Dialer
	if c, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen on %s: another process answers there; choose another path with --socket", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	var listening net.ListenConfig
	l, err := listening.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// Addr is the TCP address, "127.0.0.1:7070".
func (s *Sidecar) Addr() string { return s.addr }

// Socket is the path of the Unix socket, empty if there is none.
func (s *Sidecar) Socket() string { return s.socket }

// Failed yields the error after which the sidecar can no longer do its work, such as a failed sync of its disk.
func (s *Sidecar) Failed() <-chan error { return s.failed }

func (s *Sidecar) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// ready tells why the sidecar should get no new work, nil if it should.
func (s *Sidecar) ready() error {
	switch {
	case s.broker.Draining():
		return errors.New("draining")
	case time.Now().After(s.cluster.Deadline()):
		return errors.New("the lease with the coordinator is over; renewing")
	}
	_, full := s.engine.Space()
	return full
}

// Shutdown drains: consumers get nothing new and have the drain timeout to settle what they hold; publishing works until that is
// over. Then everything is released and closed. ctx ends the wait early.
func (s *Sidecar) Shutdown(ctx context.Context) error {
	drainCtx, cancel := context.WithTimeout(ctx, s.drain)
	defer cancel()
	s.broker.Drain(drainCtx)
	return s.close(ctx)
}

// close ends what was started, in reverse order. Nothing of it waits longer than a few seconds.
func (s *Sidecar) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var errs []error
	if s.http != nil {
		calls, cancel := context.WithTimeout(ctx, time.Second)
		if s.broker != nil {
			errs = append(errs, s.broker.Close(ctx)) // ends streams, so that the server can shut down
		}
		if s.http.Shutdown(calls) != nil {
			_ = s.http.Close()
		}
		cancel()
		s.serving.Wait()
	} else if s.broker != nil {
		errs = append(errs, s.broker.Close(ctx))
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Close(ctx))
	}
	s.memory.end()
	s.scrub.end()
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	return errors.Join(errs...)
}

// wallClock is the time of the operating system.
type wallClock struct{}

// Now implements broker.Clock.
func (wallClock) Wall() time.Time { return time.Now() }
func (wallClock) Now() time.Time  { return time.Now() }

// AfterFunc implements broker.Clock.
func (wallClock) AfterFunc(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
