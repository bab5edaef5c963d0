package mqsql

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/typedmq/typedmq/runtime/mq"
)

func TestStatement(t *testing.T) {
	const text = `SELECT {NOW}, ? FROM {outbox} o{USE outbox_waiting}, {inbox}, {relay} WHERE seq = ?`
	for _, c := range []struct {
		dialect Dialect
		prefix  string
		want    string
	}{
		{SQLite, "mq_", `SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), ? FROM mq_outbox o INDEXED BY mq_outbox_waiting, mq_inbox, mq_relay WHERE seq = ?`},
		{PostgreSQL, "app.q_", `SELECT (extract(epoch from statement_timestamp()) * 1000)::bigint, $1 FROM app.q_outbox o, app.q_inbox, app.q_relay WHERE seq = $2`},
		{PostgreSQL, "", `SELECT (extract(epoch from statement_timestamp()) * 1000)::bigint, $1 FROM outbox o, inbox, relay WHERE seq = $2`},
	} {
		if got := newOptions(c.dialect, []Option{WithPrefix(c.prefix)}).statement(text); got != c.want {
			t.Errorf("%v:\n%s\n%s", c.dialect, got, c.want)
		}
	}
	for _, d := range []Dialect{SQLite, PostgreSQL} {
		if s := Schema(d, WithPrefix("app.q_")); strings.ContainsAny(s, "{}?") || strings.Count(s, ";\n") != len(tables) || strings.Contains(s, "INDEX IF NOT EXISTS app.") {
			t.Errorf("%v: %s", d, s)
		}
	}
}

func TestWhatIsNoPrefixOrDialect(t *testing.T) {
	for _, f := range []func(){
		func() { Schema(SQLite, WithPrefix("mq; DROP TABLE x; --")) },
		func() { Schema(SQLite, WithPrefix("a.b.c")) },
		func() { Schema(SQLite, WithPrefix("1")) },
		func() { Schema(SQLite, WithPrefix(strings.Repeat("x", 41))) },
		func() { Schema(0) },
		func() { NewOutbox(nil, 7) },
		func() { NewInbox(nil, 3) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("it was taken")
				}
			}()
			f()
		}()
	}
}

func TestLines(t *testing.T) {
	all := lines([]row{
		{seq: 1, topic: "t", key: []byte("a")}, {seq: 2, topic: "t"}, {seq: 3, topic: "u", key: []byte("a")}, {seq: 4, topic: "t", key: []byte("a")}, {seq: 5, topic: "t"},
	})
	var got []string
	for _, line := range all {
		text := ""
		for _, r := range line {
			text += fmt.Sprint(r.seq)
		}
		got = append(got, text)
	}
	if s := strings.Join(got, " "); s != "14 2 3 5" {
		t.Error(s)
	}
}

// What a refusal means for a row: it is parked, it is tried again, or nobody knows whether it was published.
func TestRefusals(t *testing.T) {
	refused := func(code connect.Code, reason string) error {
		return fmt.Errorf("publish: %w", &mq.Error{Code: code, Reason: reason})
	}
	for _, c := range []struct {
		err            error
		final, refused bool
	}{
		{refused(connect.CodeInvalidArgument, "SCHEMA_MISMATCH"), true, true},
		{refused(connect.CodeInvalidArgument, "BAD_ANNOTATION"), false, true},
		{refused(connect.CodeResourceExhausted, "MESSAGE_TOO_LARGE"), true, true},
		{refused(connect.CodeResourceExhausted, "DISK_FULL"), false, true},
		{refused(connect.CodeAlreadyExists, "DEDUPE_CONFLICT"), true, true},
		{refused(connect.CodeFailedPrecondition, "TOPIC_INCOMPATIBLE"), false, true},
		{refused(connect.CodeUnavailable, "DRAINING"), false, true},
		{fmt.Errorf("%w: %w", mq.ErrUnknownOutcome, refused(connect.CodeInvalidArgument, "")), false, false},
		{mq.ErrUnknownOutcome, false, false},
		{mq.ErrClosed, false, false},
		{errors.New("the connection broke"), false, false},
		{errNotLinked, false, true},
	} {
		if a := (answer{err: c.err}); a.final() != c.final || a.refused() != c.refused {
			t.Errorf("%v: final %v, refused %v", c.err, a.final(), a.refused())
		}
	}
	if _, err := descriptor("nobody.knows.v1.This"); !errors.Is(err, errNotLinked) {
		t.Error(err)
	}
}

func TestRetryIn(t *testing.T) {
	const first, last = 500 * time.Millisecond, time.Minute
	for refusals, limit := range map[int]time.Duration{0: first, 1: 2 * first, 6: 64 * first, 7: last, 31: last, 1000: last} {
		for range 100 {
			if d := retryIn(refusals, first, last); d < limit/2 || d > limit {
				t.Fatalf("after %d: %v", refusals, d)
			}
		}
	}
	if d := retryIn(40, time.Hour, 100*time.Hour); d < 50*time.Hour {
		t.Errorf("%v", d)
	}
}

func TestNudge(t *testing.T) {
	o := NewOutbox(nil, SQLite)
	o.Nudge() // nobody listens
	one, stop := o.listen()
	other, stopOther := o.listen()
	defer stopOther()
	o.Nudge()
	o.Nudge()
	for _, c := range []<-chan struct{}{one, other} {
		if len(c) != 1 {
			t.Errorf("%d signals", len(c))
		}
	}
	<-one
	stop()
	o.Nudge()
	if len(one) != 0 {
		t.Error("who has stopped was nudged")
	}
}

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pauses{first: time.Second, most: time.Minute}
		for n := range 40 {
			if p.loud() != (n&(n-1) == 0) {
				t.Errorf("loud at %d", n)
			}
			limit := time.Minute
			if n < 6 {
				limit = time.Second << n
			}
			began := time.Now()
			if p.wait(t.Context(), nil) || time.Since(began) < limit/2 || time.Since(began) > limit {
				t.Errorf("pause %d: %v", n, time.Since(began))
			}
		}
		p.reset()
		wake := make(chan struct{}, 1)
		wake <- struct{}{}
		began := time.Now()
		if !p.wait(t.Context(), wake) || time.Since(began) != 0 {
			t.Error("it was not woken")
		}
	})
}

func TestTogether(t *testing.T) {
	rows := func(n, bytes int) []row {
		all := make([]row, n)
		for i := range all {
			all[i].record = make([]byte, bytes)
		}
		return all
	}
	r := NewOutbox(nil, SQLite).Relay(&mq.Client{})
	for _, c := range []struct{ rows, bytes, want int }{{1, 10, 1}, {7, 10, 1}, {8, 10, 8}, {1000, 10, mostTogether}, {20, 100 << 10, 10}, {20, 1 << 20, 1}, {20, 2 << 20, 1}} {
		if got := r.together(rows(c.rows, c.bytes)); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	r.noTx.Store(true)
	if r.together(rows(100, 10)) != 1 {
		t.Error("an older sidecar gets a transaction")
	}
}
