package sqltest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// postgres is a server of the test binary's own, on a socket in a temporary directory. It ends with this process, however that ends.
type postgres struct {
	dir    string
	server *exec.Cmd
	stdin  io.Closer
	output bytes.Buffer
	names  atomic.Int64
}

// program finds one of PostgreSQL's programs, which Debian does not put into the path.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return "", fmt.Errorf("there is no program %s: install PostgreSQL, in Debian the package postgresql", name)
	}
	return found[len(found)-1], nil
}

// startPostgres returns the error errNoPostgres, with the reason, where there is none.
func startPostgres() (_ *postgres, err error) {
	initdb, err := program("initdb")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPostgres, err)
	}
	server, err := program("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPostgres, err)
	}
	p := &postgres{}
	if p.dir, err = os.MkdirTemp("", "mqsql-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	// It refuses to run as root.
	var as *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			return nil, fmt.Errorf("%w: it does not run as root, and there is no other user: %w", errNoPostgres, err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		if err := os.Chown(p.dir, uid, gid); err != nil {
			return nil, err
		}
		as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	data := filepath.Join(p.dir, "data")
	create := exec.Command(initdb, "--pgdata", data, "--auth", "trust", "--username", "postgres", "--no-sync", "--encoding", "UTF8", "--locale", "C")
	create.SysProcAttr, create.Dir = as, p.dir
	if out, err := create.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	// The shell ends the server and cleans up when its standard input ends, as it does when this process is gone.
	const script = `"$@" & server=$!; cat > /dev/null; kill -QUIT $server; wait $server; rm -rf "$0"`
	p.server = exec.Command("sh", "-c", script, p.dir, server, "-D", data, "-k", p.dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200")
	p.server.SysProcAttr, p.server.Dir, p.server.Stdout, p.server.Stderr = as, p.dir, &p.output, &p.output
	if p.stdin, err = p.server.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.server.Start(); err != nil {
		return nil, err
	}
	db, err := sql.Open("pgx", p.dsn("postgres"))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for err = db.PingContext(ctx); err != nil && ctx.Err() == nil; err = db.PingContext(ctx) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not answer: %w", err)
	}
	return p, nil
}

var errNoPostgres = errors.New("PostgreSQL is not tested")

func (p *postgres) dsn(database string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s", p.dir, database)
}

// create returns the name of a new database.
func (p *postgres) create(ctx context.Context) (string, error) {
	db, err := sql.Open("pgx", p.dsn("postgres"))
	if err != nil {
		return "", err
	}
	defer db.Close()
	name := fmt.Sprintf("test%d", p.names.Add(1))
	_, err = db.ExecContext(ctx, "CREATE DATABASE "+name)
	return name, err
}

func (p *postgres) stop() {
	if p.stdin != nil {
		_ = p.stdin.Close()
		_ = p.server.Wait()
	}
	_ = os.RemoveAll(p.dir)
}
