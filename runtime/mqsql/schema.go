package mqsql

import (
	"context"
	"database/sql"
	"fmt"
)

// States of a row of the outbox.
const (
	waiting  = 0 // to be sent
	retrying = 1 // to be sent from retry_at on; rows of its key wait for it
	parked   = 2 // refused; rows of its key wait for it
	sent     = 3
)

// tables are one statement each. Times are milliseconds since 1970 by the database's clock. The indexes are partial, so that rows that were sent cost
// what looks for others nothing.
var tables = []string{
	`CREATE TABLE IF NOT EXISTS {outbox} (
  seq        {SERIAL},
  id         TEXT NOT NULL,
  topic      TEXT NOT NULL,
  message    TEXT NOT NULL,
  key        {BYTES},
  record     {BYTES} NOT NULL,
  state      SMALLINT NOT NULL DEFAULT 0,
  attempts   INTEGER NOT NULL DEFAULT 0,
  retry_at   BIGINT NOT NULL DEFAULT 0,
  error      TEXT,
  created_at BIGINT NOT NULL,
  done_at    BIGINT
)`,
	`CREATE INDEX IF NOT EXISTS {index}outbox_waiting ON {outbox} (seq) WHERE state < 2`,
	`CREATE INDEX IF NOT EXISTS {index}outbox_held ON {outbox} (topic, key, seq) WHERE state > 0 AND state < 3`,
	`CREATE INDEX IF NOT EXISTS {index}outbox_sent ON {outbox} (done_at) WHERE state = 3`,
	`CREATE TABLE IF NOT EXISTS {relay} (
  name       TEXT PRIMARY KEY,
  owner      TEXT NOT NULL,
  epoch      BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
)`,
	`CREATE TABLE IF NOT EXISTS {inbox} (
  consumers  TEXT NOT NULL,
  topic      TEXT NOT NULL,
  id         TEXT NOT NULL,
  handled_at BIGINT NOT NULL,
  PRIMARY KEY (consumers, topic, id)
)`,
	`CREATE INDEX IF NOT EXISTS {index}inbox_handled ON {inbox} (handled_at)`,
}

// Schema returns the statements that create the tables of outbox and inbox, where they do not exist, each with a semicolon and a line's end after it: what one
// puts into a migration. It takes [WithPrefix].
func Schema(d Dialect, opts ...Option) string {
	o := newOptions(d, opts)
	var text string
	for _, table := range tables {
		text += o.statement(table) + ";\n"
	}
	return text
}

// CreateTables creates the tables, in one transaction, as [Schema] says.
func CreateTables(ctx context.Context, db *sql.DB, d Dialect, opts ...Option) error {
	o := newOptions(d, opts)
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("mqsql: create tables: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if d == PostgreSQL {
		// IF NOT EXISTS alone fails in one of two processes that start at the same time. The number is this package's own.
		if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(7310576014417359)`); err != nil {
			return fmt.Errorf("mqsql: create tables: %w", err)
		}
	}
	for _, table := range tables {
		if _, err := tx.ExecContext(ctx, o.statement(table)); err != nil {
			return fmt.Errorf("mqsql: create tables: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("mqsql: create tables: %w", err)
	}
	return nil
}
