package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fine are the books after one transfer that was credited and one to the closed account.
func fine() (norths, souths books) {
	norths = books{entries: []entry{
		{"a", "sent", "north-1", 5}, {"a", "done", "", 0},
		{"b", "sent", "north-2", 7}, {"b", "paid back", "north-2", 7},
	}, balance: accounts*deposit - 5}
	souths = books{entries: []entry{{"a", "credited", "south-1", 5}, {"b", "refused", closed, 7}}, balance: accounts*deposit + 5}
	return norths, souths
}

func TestCheck(t *testing.T) {
	for says, spoil := range map[string]func(norths, souths *books){
		"":                                 func(_, _ *books) {},
		"there are 399999999 cents":        func(_, souths *books) { souths.balance-- },
		"credited or refused 2 times":      func(_, souths *books) { souths.entries = append(souths.entries, souths.entries[0]) },
		"duplicates=1":                     func(norths, _ *books) { norths.entries = append(norths.entries, norths.entries[1]) },
		"credited or refused 0 times":      func(_, souths *books) { souths.entries = souths.entries[1:] },
		"ended 0 times":                    func(norths, _ *books) { norths.entries = slices.Delete(norths.entries, 1, 2) },
		"was sent 0 times":                 func(norths, _ *books) { norths.entries = norths.entries[1:] },
		"transfer a was sent as":           func(_, souths *books) { souths.entries[0].amount++ },
		"transfer b was sent as":           func(norths, _ *books) { norths.entries[3].kind = "done" },
		"and ended as {transfer:b kind:pa": func(norths, _ *books) { norths.entries[3].account = "north-3" },
	} {
		norths, souths := fine()
		spoil(&norths, &souths)
		r, err := check(norths, souths)
		switch {
		case says == "" && (err != nil || r != result{transfers: 2, refused: 1}):
			t.Errorf("%+v, %v", r, err)
		case says != "" && (err == nil || !strings.Contains(err.Error(), says)):
			t.Errorf("not %q, but %v", says, err)
		}
	}
}

// The statements of the services and the checks, on the database that every run of the demo has.
func TestBooksAreReadAsTheyAreWritten(t *testing.T) {
	db, dialect, err := open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 2 { // what is there stays
		for _, bank := range []string{north, south} {
			if err := create(t.Context(), db, dialect, bank); err != nil {
				t.Fatal(err)
			}
		}
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		account string
		amount  int64
		want    bool
	}{{"north-0", -deposit, true}, {"north-0", -1, false}, {"north-1", 3, true}, {"nobody", 1, false}} {
		if ok, err := move(t.Context(), tx, north, m.account, m.amount); ok != m.want || err != nil {
			t.Errorf("%+v: %v, %v", m, ok, err)
		}
	}
	sent := entry{"t", "sent", "north-1", 3}
	if err := enter(t.Context(), tx, north, sent.transfer, sent.kind, sent.account, sent.amount); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if n, err := unsettled(t.Context(), db); n != 1 || err != nil {
		t.Errorf("%d unsettled, %v", n, err)
	}
	b, err := read(t.Context(), db, north)
	if err != nil || b.balance != (accounts-1)*deposit+3 || !slices.Equal(b.entries, []entry{sent}) {
		t.Errorf("%+v, %v", b, err)
	}
	if err := wipe(t.Context(), db, north); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t.Context(), db, north); err == nil {
		t.Error("the books are still there")
	}
}

func TestRedelivered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, []byte("x\ny\nx\nx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, again, err := redelivered(path); all != 4 || again != 2 || err != nil {
		t.Errorf("%d, %d, %v", all, again, err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, args := range [][]string{nil, {"east"}, {"demo", "more"}, {"north", "-none"}} {
		var out, complaints strings.Builder
		if code := command(t.Context(), args, &out, &complaints); code != 2 || complaints.Len() == 0 && len(args) < 2 {
			t.Errorf("%v: status %d", args, code)
		}
	}
}
