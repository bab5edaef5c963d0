package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/typedmq/typedmq/runtime/mqsql"
)

// The accounts that either bank has, and what is on each in the beginning, in cents.
const (
	accounts = 20
	deposit  = 10_000_000
)

// closed is the account of the southern bank that takes no money: transfers to it are paid back.
const closed = "south-7"

// open opens a bank's database: a file of SQLite, or the URL of one of PostgreSQL.
func open(where string) (*sql.DB, mqsql.Dialect, error) {
	if strings.HasPrefix(where, "postgres://") || strings.HasPrefix(where, "postgresql://") || strings.Contains(where, "host=") {
		db, err := sql.Open("pgx", where)
		return db, mqsql.PostgreSQL, err
	}
	db, err := sql.Open("sqlite", "file:"+where+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	return db, mqsql.SQLite, err
}

// prefix is what the names of a bank's tables begin with, so that both fit into one database.
func prefix(bank string) string { return bank + "_" }

// create makes the bank's tables and accounts, where they do not exist.
func create(ctx context.Context, db *sql.DB, d mqsql.Dialect, bank string) error {
	if err := mqsql.CreateTables(ctx, db, d, mqsql.WithPrefix(prefix(bank))); err != nil {
		return err
	}
	statements := []string{
		`CREATE TABLE IF NOT EXISTS ` + bank + `_accounts (id TEXT PRIMARY KEY, balance BIGINT NOT NULL CHECK (balance >= 0))`,
		// What happened to transfers, a row each time: that there is one of each is what is to be shown, so no constraint makes sure of it.
		`CREATE TABLE IF NOT EXISTS ` + bank + `_entries (transfer TEXT NOT NULL, kind TEXT NOT NULL, account TEXT NOT NULL, amount BIGINT NOT NULL)`,
		`CREATE INDEX IF NOT EXISTS ` + bank + `_entries_transfer ON ` + bank + `_entries (transfer)`,
	}
	for i := range accounts {
		statements = append(statements, fmt.Sprintf(`INSERT INTO %s_accounts VALUES ('%s', %d) ON CONFLICT DO NOTHING`, bank, account(bank, i), deposit))
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// wipe drops the bank's tables.
func wipe(ctx context.Context, db *sql.DB, bank string) error {
	for _, table := range []string{"accounts", "entries", "outbox", "inbox", "relay"} {
		if _, err := db.ExecContext(ctx, `DROP TABLE IF EXISTS `+bank+`_`+table); err != nil {
			return err
		}
	}
	return nil
}

func account(bank string, i int) string { return fmt.Sprintf("%s-%d", bank, i) }

// move puts an amount on an account, or takes it off one, and returns whether there was enough on it.
func move(ctx context.Context, tx *sql.Tx, bank, account string, amount int64) (bool, error) {
	result, err := tx.ExecContext(ctx, `UPDATE `+bank+`_accounts SET balance = balance + $1 WHERE id = $2 AND balance + $1 >= 0`, amount, account)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// enter notes what happened to a transfer.
func enter(ctx context.Context, tx *sql.Tx, bank, transfer, kind, account string, amount int64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO `+bank+`_entries VALUES ($1, $2, $3, $4)`, transfer, kind, account, amount)
	return err
}
