package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
)

// entry is one thing that happened to a transfer at a bank.
type entry struct {
	transfer, kind, account string
	amount                  int64
}

// books is what a bank's database says.
type books struct {
	entries []entry
	balance int64 // of all accounts
}

func read(ctx context.Context, db *sql.DB, bank string) (books, error) {
	var b books
	if err := db.QueryRowContext(ctx, `SELECT CAST(sum(balance) AS BIGINT) FROM `+bank+`_accounts`).Scan(&b.balance); err != nil {
		return b, err
	}
	rows, err := db.QueryContext(ctx, `SELECT transfer, kind, account, amount FROM `+bank+`_entries`)
	if err != nil {
		return b, err
	}
	defer rows.Close()
	for rows.Next() {
		var e entry
		if err := rows.Scan(&e.transfer, &e.kind, &e.account, &e.amount); err != nil {
			return b, err
		}
		b.entries = append(b.entries, e)
	}
	return b, rows.Err()
}

// unsettled counts transfers of the north that are neither done nor paid back yet.
func unsettled(ctx context.Context, db *sql.DB) (n int, err error) {
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM north_entries s WHERE kind = 'sent' AND NOT EXISTS (
  SELECT 1 FROM north_entries e WHERE e.transfer = s.transfer AND e.kind <> 'sent')`).Scan(&n)
	return n, err
}

// result is what all transfers came to.
type result struct {
	transfers, refused, duplicates int
}

// check compares the books of both banks in the end, when nothing is on its way any more: each transfer was sent once, credited or refused once, and noted as done or paid back
// once, with the same amount everywhere, and no money was made or lost.
func check(norths, souths books) (result, error) {
	var r result
	var faults []string
	fault := func(format string, args ...any) {
		if len(faults) < 5 {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	type course struct {
		sent, south, end []entry
	}
	all := map[string]*course{}
	of := func(transfer string) *course {
		if all[transfer] == nil {
			all[transfer] = &course{}
		}
		return all[transfer]
	}
	for _, e := range norths.entries {
		if c := of(e.transfer); e.kind == "sent" {
			c.sent = append(c.sent, e)
		} else {
			c.end = append(c.end, e)
		}
	}
	for _, e := range souths.entries {
		c := of(e.transfer)
		c.south = append(c.south, e)
	}
	for id, c := range all {
		for _, happened := range [][]entry{c.sent, c.south, c.end} {
			r.duplicates += max(len(happened)-1, 0)
		}
		if len(c.sent) != 1 || len(c.south) != 1 || len(c.end) != 1 {
			fault("transfer %s was sent %d times, credited or refused %d times, ended %d times", id, len(c.sent), len(c.south), len(c.end))
			continue
		}
		r.transfers++
		sent, there, end := c.sent[0], c.south[0], c.end[0]
		refused := there.kind == "refused"
		if refused {
			r.refused++
		}
		if sent.amount != there.amount || refused != (there.account == closed) || refused != (end.kind == "paid back") || refused && end != (entry{id, "paid back", sent.account, sent.amount}) {
			fault("transfer %s was sent as %+v, %+v, and ended as %+v", id, sent, there, end)
		}
	}
	if sum, begin := norths.balance+souths.balance, int64(2*accounts*deposit); sum != begin {
		fault("there are %d cents, and were %d", sum, begin)
	}
	if len(faults) > 0 {
		return r, fmt.Errorf("duplicates=%d %s", r.duplicates, strings.Join(faults, "; "))
	}
	return r, nil
}

// redelivered counts the deliveries in a journal that were not the first of their message.
func redelivered(path string) (all, again int, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	ids := map[string]bool{}
	for id := range strings.Lines(string(text)) {
		all++
		ids[id] = true
	}
	return all, all - len(ids), nil
}
