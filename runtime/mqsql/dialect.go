package mqsql

import (
	"fmt"
	"strconv"
	"strings"
)

// Dialect is the SQL that a database speaks.
type Dialect int

// The dialects.
const (
	// PostgreSQL of version 12 or later.
	PostgreSQL Dialect = iota + 1
	// SQLite of version 3.35 or later. Its connections should have a busy_timeout of some seconds and journal_mode WAL: there is one writer at a time,
	// and the relay is one more.
	SQLite
)

// String returns the dialect's name.
func (d Dialect) String() string {
	switch d {
	case PostgreSQL:
		return "PostgreSQL"
	case SQLite:
		return "SQLite"
	default:
		return fmt.Sprintf("Dialect(%d)", int(d))
	}
}

// words are what the statements of this package say differently.
var words = map[Dialect]*strings.Replacer{
	PostgreSQL: strings.NewReplacer(
		"{NOW}", "(extract(epoch from statement_timestamp()) * 1000)::bigint",
		"{SERIAL}", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		"{BYTES}", "BYTEA",
		"{USE outbox_waiting}", "", "{USE outbox_held}", ""),
	SQLite: strings.NewReplacer(
		"{NOW}", "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
		"{SERIAL}", "INTEGER PRIMARY KEY AUTOINCREMENT",
		"{BYTES}", "BLOB",
		// Without this it reads the rows in the order of their keys, those that were sent too.
		"{USE outbox_waiting}", " INDEXED BY {index}outbox_waiting", "{USE outbox_held}", " INDEXED BY {index}outbox_held"),
}

// statement returns the text of a statement in this dialect, for the tables of that prefix. In the text stand {NOW} for the database's clock in
// milliseconds since 1970, {outbox}, {inbox} and {relay} for the tables, {index} for the start of an index's name, and ? for parameters. There is
// no ? in it that is no parameter.
func (o *options) statement(text string) string {
	_, bare, qualified := strings.Cut(o.prefix, ".")
	if !qualified {
		bare = o.prefix
	}
	text = words[o.dialect].Replace(text)
	text = strings.NewReplacer("{outbox}", o.prefix+"outbox", "{inbox}", o.prefix+"inbox", "{relay}", o.prefix+"relay", "{index}", bare).Replace(text)
	if o.dialect == SQLite {
		return text
	}
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, found := strings.Cut(text, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		text = after
	}
}

// list is n parameters with commas between them, each as in the given text.
func list(n int, each string) string {
	return strings.TrimSuffix(strings.Repeat(each+",", n), ",")
}
