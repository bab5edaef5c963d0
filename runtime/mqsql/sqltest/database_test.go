package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/typedmq/typedmq/runtime/mqsql"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashingRelay); path != "" {
		relayThatIsKilled(path) // see crash_test.go
		return
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // relays have a lot to say here
	code := m.Run()
	if server.started != nil {
		server.started.stop()
	}
	os.Exit(code)
}

// server is the PostgreSQL of all tests, once the first needs it.
var server struct {
	sync.Once
	started *postgres
	err     error
}

// database is one of a test's own, with the tables in it.
type database struct {
	*sql.DB
	dialect mqsql.Dialect
	driver  string
	dsn     string
}

// onEach runs a test on each kind of database.
func onEach(t *testing.T, test func(t *testing.T, db *database)) {
	t.Run("SQLite", func(t *testing.T) { t.Parallel(); test(t, newSQLite(t)) })
	t.Run("PostgreSQL", func(t *testing.T) { t.Parallel(); test(t, newPostgres(t)) })
}

func newSQLite(t testing.TB) *database {
	return open(t, mqsql.SQLite, "sqlite", "file:"+filepath.Join(t.TempDir(), "db")+"?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
}

func newPostgres(t testing.TB) *database {
	server.Do(func() { server.started, server.err = startPostgres() })
	if errors.Is(server.err, errNoPostgres) {
		t.Skip(server.err)
	}
	if server.err != nil {
		t.Fatal(server.err)
	}
	name, err := server.started.create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return open(t, mqsql.PostgreSQL, "pgx", server.started.dsn(name))
}

func open(t testing.TB, d mqsql.Dialect, driver, dsn string) *database {
	db := &database{dialect: d, driver: driver, dsn: dsn}
	db.DB = db.another(t)
	if err := mqsql.CreateTables(t.Context(), db.DB, d); err != nil {
		t.Fatal(err)
	}
	return db
}

// another opens the database once more, as another process would.
func (db *database) another(t testing.TB) *sql.DB {
	again, err := sql.Open(db.driver, db.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

// tx runs f in a transaction.
func (db *database) tx(t testing.TB, f func(ctx context.Context, tx *sql.Tx) error) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := f(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// number reads one number.
func (db *database) number(t testing.TB, query string) (n int64) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", query, err))
	}
	return n
}
