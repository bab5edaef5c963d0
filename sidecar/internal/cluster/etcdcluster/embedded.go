package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// ErrLocked says that a live process runs its etcd in the directory.
var ErrLocked = errors.New("the directory is in use by another process")

// Open runs an etcd of one member in this process and joins it. Nobody else can: it listens on no socket, its client calls it directly.
//
// The leases of earlier processes are revoked at once, so that their claims do not stand in the way for a TTL after a crash. That is safe because the
// lock on the directory, which the system frees only when its process is gone, shows that no earlier process is alive.
//
// Errors: ErrLocked, and those of the file system and of etcd, naming the directory.
func Open(ctx context.Context, options Options) (*Cluster, error) {
	options = options.withDefaults()
	server, err := startServer(ctx, options.Dir, options.Logger)
	if err != nil {
		return nil, fmt.Errorf("etcd in %s: %w", options.Dir, err)
	}
	if err := revokeAll(ctx, server.client); err != nil {
		return nil, errors.Join(fmt.Errorf("etcd in %s: %w", options.Dir, err), server.close())
	}
	c, err := Connect(ctx, server.client, options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("etcd in %s: %w", options.Dir, err), server.close())
	}
	c.after = server.close
	return c, nil
}

// server is an etcd in this process.
type server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	lock   *fileutil.LockedFile
}

func startServer(ctx context.Context, dir string, logger *slog.Logger) (*server, error) {
	if dir == "" {
		return nil, errors.New("no directory is given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_WRONLY, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	if err := setAsideDamaged(ctx, dir, logger); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	etcd, err := start(configuration(dir, logger))
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &server{etcd: etcd, client: v3client.New(etcd.Server), lock: lock}
	select {
	case <-etcd.Server.ReadyNotify():
		if err := syncDirs(dir); err != nil {
			return nil, errors.Join(err, s.close())
		}
		return s, nil
	case err := <-etcd.Err():
		return nil, errors.Join(err, s.close())
	case <-ctx.Done():
		return nil, errors.Join(cluster.ErrUnavailable, ctx.Err(), s.close())
	}
}

// setAsideDamaged moves an etcd away that would panic in a goroutine of its own, or hand out what was never written: it trusts its database. Another one is
// one that has a database and no write-ahead log, since the power went while it was made: it would leave every request unanswered whose number the
// database already has. Nothing is lost by a new one, and its epochs are above those of the old one.
func setAsideDamaged(ctx context.Context, dir string, logger *slog.Logger) error {
	old := filepath.Join(dir, "etcd")
	if _, err := os.Stat(filepath.Join(old, "member")); err != nil {
		return nil // there is none
	}
	var findings []string
	if _, err := check(ctx, dir, func(f engine.Finding) { findings = append(findings, fmt.Sprintf("%s: %s", f.Place, f.What)) }); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(old, "member", "wal", "*.wal"))
	if err != nil {
		return err
	}
	if len(logs) == 0 {
		findings = append(findings, "etcd/member/wal: the write-ahead log is missing")
	}
	if len(findings) == 0 {
		return nil
	}
	aside := fmt.Sprintf("%s.aside-%d", old, time.Now().UnixNano())
	logger.Error("etcd is damaged; it is moved aside and made anew", "finding", findings[0], "findings", len(findings), "dir", old, "aside", aside)
	return os.Rename(old, aside)
}

// syncDirs makes the names of all that etcd made durable. It syncs its files, and trusts the file system with some of their names.
func syncDirs(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // one of etcd's that come and go
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// start turns etcd's panics about damaged files into errors, as far as they happen here.
func start(cfg *embed.Config) (_ *embed.Etcd, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("etcd panicked: %v", p)
		}
	}()
	return embed.StartEtcd(cfg)
}

func (s *server) close() error {
	err := s.client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	s.etcd.Close()
	return errors.Join(err, s.lock.Close())
}

// configuration is for one member that starts fast, keeps little, and talks to nobody.
func configuration(dir string, logger *slog.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.Name = "self"

	// No listener: peers there are none, and the only client is in this process. The URL is a name in the member list, nothing more.
	name := url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	cfg.AdvertisePeerUrls = []url.URL{name}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.EnableGRPCGateway = false

	// A member alone elects itself after one election time-out: make it short. Nothing else depends on it.
	cfg.TickMs, cfg.ElectionMs = 20, 200

	cfg.QuotaBackendBytes = 64 << 20
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 2000, 100
	cfg.MaxSnapFiles, cfg.MaxWalFiles = 2, 2
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModeRevision, "1000"
	cfg.MaxTxnOps = 128

	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(slogCore{logger: logger}, zap.WithFatalHook(zapcore.WriteThenPanic)))
	return cfg
}

// revokeAll ends every lease that etcd holds, and with it the claims under it. Afterwards there is neither member nor owner.
func revokeAll(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	old, err := client.Leases(ctx)
	if err != nil {
		return unavailable("list leases of earlier processes", err)
	}
	for _, l := range old.Leases {
		if _, err := client.Revoke(ctx, l.ID); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return unavailable("revoke a lease of an earlier process", err)
		}
	}
	// What is left belongs to no lease, which a flipped bit can do to it: then nobody could ever claim that shard again.
	for _, prefix := range []string{memberPrefix, ownerRoot} {
		if _, err := client.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
			return unavailable("forget members of earlier processes", err)
		}
	}
	return nil
}

// slogCore gives etcd's messages to slog, from warnings on.
type slogCore struct {
	logger *slog.Logger
	fields []zapcore.Field
}

func (c slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{logger: c.logger, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) && !expected(entry.Message) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// expected tells of warnings that every start of a member alone gives, and that ask nothing of anybody.
func expected(message string) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.", // It runs neither.
		"simple token is not cryptographically signed",                        // There are no users.
		"Failed to detect schema version", "failed to update storage version", // Tried again once there was a snapshot.
		"failed to update cluster version": // Tried again, unless the server stops.
		return true
	}
	return false
}

func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(encoder)
	}
	level := slog.LevelWarn
	if entry.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.logger.Log(context.Background(), level, entry.Message, "from", "etcd", "fields", encoder.Fields)
	return nil
}

func (c slogCore) Sync() error { return nil }
