package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/runtime/mq"
	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

// A check is only worth something if it fails: each is shown a history that is as it should be, and then the same with one fault at a time.

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }

// expect compares an error with what it is to say, "" for none.
func expect(t *testing.T, err error, says string) {
	t.Helper()
	if says == "" && err != nil {
		t.Errorf("unexpected: %v", err)
	}
	if says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
		t.Errorf("the error is %v, and should say %q", err, says)
	}
}

func TestCheckRetries(t *testing.T) {
	flaky := func() []handling {
		call := func(attempt uint32, from, to int, err error) handling {
			return handling{id: "flaky-0", meta: mq.Meta{Attempt: attempt}, begin: at(from), end: at(to), err: err}
		}
		return []handling{call(1, 0, 1, errOutage), call(2, 221, 222, errOutage), call(3, 650, 651, nil)}
	}
	for says, spoil := range map[string]func([]handling) []handling{
		"":                              func(h []handling) []handling { return h },
		"was delivered 2 times, not 3":  func(h []handling) []handling { return h[:2] },
		"delivery 2 is attempt 3":       func(h []handling) []handling { h[1].meta.Attempt = 3; return h },
		"199ms after delivery 1":        func(h []handling) []handling { h[1].begin = at(200); return h },
		"1.241s after delivery 1":       func(h []handling) []handling { h[1].begin = at(1242); return h },
		"delivery 1 ended with <nil>":   func(h []handling) []handling { h[0].err = nil; return h },
		"delivery 2 ended with strange": func(h []handling) []handling { h[1].err = errors.New("strange"); return h },
	} {
		waits, err := checkRetries(spoil(flaky()), map[string]int{"flaky": 1})
		expect(t, err, says)
		if says == "" && (waits["flaky 1"][0] != 220*time.Millisecond || waits["flaky 2"][0] != 428*time.Millisecond) {
			t.Errorf("waits %v", waits)
		}
	}
}

// A snooze, RetryAfter and Permanent are not like other errors.
func TestCourses(t *testing.T) {
	for kind, want := range map[string]string{"plain": "1", "flaky": "1 2 3", "busy": "1 2", "stolen": "1", "pending": "1 1 1 1"} {
		var attempts []string
		for _, s := range course(kind) {
			attempts = append(attempts, fmt.Sprint(s.attempt))
		}
		if got := strings.Join(attempts, " "); got != want {
			t.Errorf("attempts at %s: %s, not %s", kind, got, want)
		}
	}
}

// entered is how the invoices are handled if all is well.
func entered() (all []handling, letters []*adminv1.DeadLetter) {
	moment := 0
	for c, line := range invoices() {
		call := func(n int, id string, attempt uint32, err error) {
			moment++
			all = append(all, handling{
				id: numbered(customerName(c), int32(n)), begin: at(moment), err: err,
				meta: mq.Meta{ID: id, Key: []byte(customerName(c)), Attempt: attempt},
			})
		}
		for i := range line {
			n, id := i+1, fmt.Sprintf("%d-%d", c, i)
			if hasStrange(c) && n == strangeAt || hasCreditNote(c) && n == creditNoteAt {
				call(n, id, 1, errors.New("cannot"))
				call(n, id, 2, errors.New("cannot"))
				letters = append(letters, &adminv1.DeadLetter{Id: id})
			}
			call(n, id, 1, nil)
		}
	}
	return all, letters
}

func TestCheckInvoices(t *testing.T) {
	find := func(all []handling, id string) int {
		return slices.IndexFunc(all, func(h handling) bool { return h.id == id })
	}
	for says, spoil := range map[string]func([]handling) []handling{
		"": func(h []handling) []handling { return h },
		"customer-0/5 came when it was the turn of customer-0/4": func(h []handling) []handling { // not held
			i := find(h, "customer-0/4")
			return slices.Insert(h, i+2, h[i+3])
		},
		"customer-0/4 came as attempt 3": func(h []handling) []handling { // attempts go on
			h[find(h, "customer-0/4")+2].meta.Attempt = 3
			return h
		},
		"was redriven as 77-7": func(h []handling) []handling {
			h[find(h, "customer-0/4")+2].meta.ID = "77-7"
			return h
		},
		"5 of 6 invoices of customer-9": func(h []handling) []handling { return h[:len(h)-1] },
		"was the turn of customer-9/7":  func(h []handling) []handling { return append(h, h[len(h)-1]) },
	} {
		all, letters := entered()
		held, err := checkInvoices(spoil(all), letters)
		expect(t, err, says)
		if want := 2*(perCustomer-strangeAt) + 3*(perCustomer-creditNoteAt); says == "" && held != want {
			t.Errorf("%d were held, not %d", held, want)
		}
	}
	all, letters := entered()
	_, err := checkInvoices(all, append(letters, &adminv1.DeadLetter{Id: "8-8"}))
	expect(t, err, "1 dead letters were not redriven")
}

func TestInvoicesBefore(t *testing.T) {
	for _, c := range []struct {
		strange, credit bool
		want            int
	}{{true, true, 5*6 + 2*3 + 3*1}, {true, false, 8*6 + 2*3}, {false, false, 60}} {
		if got := invoicesBefore(c.strange, c.credit); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestCheckThumbnails(t *testing.T) {
	uploads := []*scenariosv1.Picture{{PictureId: "a"}, {PictureId: "b", Format: "broken"}, {PictureId: "c"}}
	for _, c := range []struct {
		attempts map[string][]string
		says     string
		again    int
	}{
		{map[string][]string{"a": {"1"}, "c": {"1", "1"}}, "", 1},
		{map[string][]string{"a": {"1"}}, "c was not handled", 0},
		{map[string][]string{"a": {"1"}, "c": {"2"}}, "c was handled as attempt 2", 0},
		{map[string][]string{"a": {"1"}, "b": {"1"}, "c": {"1"}}, "b was handled", 0},
	} {
		again, err := checkThumbnails(c.attempts, uploads)
		expect(t, err, c.says)
		if again != c.again {
			t.Errorf("%d handled again, not %d", again, c.again)
		}
	}
}

func TestCheckReminders(t *testing.T) {
	killed, back := at(int(away.Milliseconds())), at(3500)
	for says, spoil := range map[string]func(map[string]*handling, map[string]*planned){
		"":          func(map[string]*handling, map[string]*planned) {},
		"was lost":  func(h map[string]*handling, _ map[string]*planned) { delete(h, "deliver_at-4500-7") },
		"too early": func(h map[string]*handling, _ map[string]*planned) { h["field-4500-3"].begin = at(4500) },
		"too late":  func(h map[string]*handling, _ map[string]*planned) { h["delay-4500-3"].begin = at(9000) },
		"was cancelled and came": func(_ map[string]*handling, p map[string]*planned) {
			p["field-4500-3"].cancelled = true
		},
		"tell how late they come": func(h map[string]*handling, p map[string]*planned) {
			for id := range p {
				if p[id].way == "field" {
					p[id].cancelled = true
					delete(h, id)
				}
			}
		},
	} {
		all := plan(noon)
		handled, plans := map[string]*handling{}, map[string]*planned{}
		for _, p := range all {
			plans[p.id] = p
			handled[p.id] = &handling{id: p.id, begin: p.due.Add(7 * time.Millisecond)}
			if p.way == "rpc" {
				handled[p.id].begin = p.due.Add(p.delay)
			}
		}
		handled["deliver_at-2500-0"].begin = at(8000) // nobody could deliver it in time
		spoil(handled, plans)
		list := []handling{*handled["deliver_at-2500-0"]} // twice
		for _, h := range handled {
			list = append(list, *h)
		}
		came, err := checkReminders(all, list, killed, back)
		expect(t, err, says)
		if says == "" && (came.overdue != overdue || came.again != 1 || len(came.late) != punctual || came.late[9] != 7*time.Millisecond) {
			t.Errorf("overdue %d, again %d, measured %d, late %v", came.overdue, came.again, len(came.late), came.late[9])
		}
	}
}

// runs lists n times each urgency, in turn.
func runs(pairs ...int) (began []int) {
	for i := 0; i < len(pairs); i += 2 {
		began = append(began, slices.Repeat([]int{pairs[i]}, pairs[i+1])...)
	}
	return began
}

func TestCheckOvertaking(t *testing.T) {
	expect(t, checkOvertaking(runs(urgent, 100, normal, 40, canWait, 300)), "")
	expect(t, checkOvertaking(runs(canWait, 1, urgent, 100)), "a job of priority 1 began before one of priority 3")
	expect(t, checkOvertaking(runs(urgent, 98, normal, 1, urgent, 1)), "a job of priority 2 began before one of priority 3")
	expect(t, checkOvertaking(runs(urgent, 98, canWait, 1, normal, 1)), "a job of priority 1 began before one of priority 2")
}

func TestCheckStarvation(t *testing.T) {
	for _, c := range []struct {
		began          []int
		longest, turns int
		says           string
	}{
		{runs(urgent, 20, canWait, 1, urgent, 256, canWait, 1, urgent, 9, canWait, 18), 256, 2, ""},
		{runs(urgent, 257, canWait, 1, urgent, 9), 0, 0, "257 urgent jobs"},
		{runs(urgent, 20, canWait, 1, urgent, 300), 0, 0, "300 urgent jobs"},
	} {
		longest, turns, err := checkStarvation(c.began)
		expect(t, err, c.says)
		if longest != c.longest || turns != c.turns {
			t.Errorf("longest %d, turns %d", longest, turns)
		}
	}
	if got := urgencies([]handling{{id: "3-17"}, {id: "1-2"}}); !slices.Equal(got, []int{urgent, canWait}) {
		t.Errorf("urgencies %v", got)
	}
}

func TestCheckFiltered(t *testing.T) {
	all := purchases(200)
	for _, i := range interests() {
		done := map[string]int{}
		var wanted, other string
		n := 0
		for _, p := range all {
			if i.wants(p) {
				n++
				wanted = p.order.GetOrderId()
				done[wanted] = 1
			} else {
				other = p.order.GetOrderId()
			}
		}
		if n < 5 || n > len(all)-5 {
			t.Errorf("%s wants %d of %d", i.group, n, len(all))
		}
		got, err := checkFiltered(i, all, done)
		expect(t, err, "")
		if got != n {
			t.Errorf("%s wants %d, not %d", i.group, n, got)
		}
		done[wanted] = 2
		_, err = checkFiltered(i, all, done)
		expect(t, err, "2 times, not 1")
		delete(done, wanted)
		_, err = checkFiltered(i, all, done)
		expect(t, err, "0 times, not 1")
		done[wanted], done[other] = 1, 1
		_, err = checkFiltered(i, all, done)
		expect(t, err, "1 times, not 0")
	}
}

// What is skipped stands at the end of every partition, or the scenario would not show that positions are not pinned.
func TestTheLastOrdersAreWantedByNobody(t *testing.T) {
	for _, p := range purchases(10)[10:] {
		for _, i := range interests() {
			if i.wants(p) {
				t.Errorf("%s wants %v", i.group, p.order)
			}
		}
	}
}

func TestCheckFresh(t *testing.T) {
	expect(t, checkFresh(map[string]int{"fresh-0": 1, "fresh-1": 1}, 2), "")
	expect(t, checkFresh(map[string]int{"fresh-0": 1, "fresh-1": 1, "rpc-3": 1}, 2), "rpc-3 was handled, though it had expired")
	expect(t, checkFresh(map[string]int{"fresh-0": 1}, 2), "fresh-1 was handled 0 times")
	expect(t, checkFresh(map[string]int{"fresh-0": 2, "fresh-1": 1}, 2), "fresh-0 was handled 2 times")
}

func TestCheckKeys(t *testing.T) {
	failed := errors.New("failed")
	call := func(key string, n int32, from, to int, err error) handling {
		return handling{id: numbered(key, n), meta: mq.Meta{Key: []byte(key)}, begin: at(from), end: at(to), err: err}
	}
	good := func() []handling {
		return []handling{
			call("a", 1, 0, 9, nil), call("b", 1, 3, 5, failed), call("b", 1, 6, 7, nil), call("b", 2, 8, 9, nil), call("a", 2, 10, 20, nil),
		}
	}
	for says, spoil := range map[string]func([]handling) []handling{
		"":                                     func(h []handling) []handling { return h },
		"b/2 came when it was the turn of b/1": func(h []handling) []handling { return slices.Delete(h, 2, 3) }, // overtakes what failed
		"a/2 came when it was the turn of a/1": func(h []handling) []handling { return h[1:] },
		"b/1 came when it was the turn of b/2": func(h []handling) []handling { h[1].err = nil; return h }, // delivered again
		"a/2 came while a/1 was handled":       func(h []handling) []handling { h[4].begin = at(8); return h },
	} {
		keys, errs, err := checkKeys(spoil(good()))
		expect(t, err, says)
		if says == "" && (keys != 2 || errs != 1) {
			t.Errorf("%d keys, %d errors", keys, errs)
		}
	}
}

func TestCheckPartitions(t *testing.T) {
	failed := errors.New("failed")
	call := func(partition uint32, offset int64, from, to int, err error) handling {
		return handling{id: "step", meta: mq.Meta{Partition: partition, Offset: offset}, begin: at(from), end: at(to), err: err}
	}
	good := func() []handling {
		return []handling{call(0, 0, 0, 1, nil), call(1, 0, 0, 5, failed), call(0, 1, 1, 2, nil), call(1, 0, 6, 7, nil), call(1, 1, 8, 9, nil)}
	}
	for says, spoil := range map[string]func([]handling) []handling{
		"": func(h []handling) []handling { return h },
		"partition 1: offset 1 came when it was the turn of 0": func(h []handling) []handling { return slices.Delete(h, 3, 4) },
		"partition 0: offset 1 came when it was the turn of 0": func(h []handling) []handling { return h[1:] },
		"came while step was handled":                          func(h []handling) []handling { h[4].begin = at(6); return h },
	} {
		partitions, err := checkPartitions(spoil(good()))
		expect(t, err, says)
		if says == "" && partitions != 2 {
			t.Errorf("%d partitions", partitions)
		}
	}
}

func TestCheckVisits(t *testing.T) {
	good := func() map[string]int {
		return map[string]int{"morning-0": 2, "morning-1": 2, "evening-0": 3, "evening-1": 3, "night-0": 1}
	}
	day := []part{{"morning", 2, 2}, {"evening", 2, 3}, {"night", 1, 1}}
	expect(t, checkVisits(good(), day), "")
	for id := range good() {
		done := good()
		done[id]++
		expect(t, checkVisits(done, day), id)
		done[id] -= 2
		expect(t, checkVisits(done, day), id)
	}
}

func TestQuantile(t *testing.T) {
	var all []time.Duration
	for i := range 200 {
		all = append(all, time.Duration(200-i))
	}
	for q, want := range map[float64]time.Duration{0.5: 100, 0.99: 198, 1: 200, 0.001: 1} {
		if got := quantile(all, q); got != want {
			t.Errorf("quantile %v is %d, not %d", q, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("of nothing")
	}
}

func TestFigures(t *testing.T) {
	var f figures
	f.add("n", 3)
	f.milliseconds("ms", 1500*time.Microsecond)
	f.span("waits_ms", []time.Duration{30 * time.Millisecond, 10 * time.Millisecond})
	if got := verdict("retry", f, nil); got != "retry: ok n=3 ms=2 waits_ms=10..30" {
		t.Error(got)
	}
	if got := verdict("retry", f, errors.New("two\nlines")); got != "retry: FAILED two lines" {
		t.Error(got)
	}
}

func TestChoose(t *testing.T) {
	names := func(list []scenario) string {
		var all []string
		for _, s := range list {
			all = append(all, s.name)
		}
		return strings.Join(all, " ")
	}
	everything := names(scenarios())
	for args, want := range map[string]string{"all": everything, "ttl retry": "retry ttl", "order": "order", "order all": everything} {
		got, err := choose(strings.Fields(args))
		if err != nil || names(got) != want {
			t.Errorf("%s: %s, %v", args, names(got), err)
		}
	}
	for args, says := range map[string]string{"": "which scenario?", "ttl tll": `no scenario "tll"`} {
		_, err := choose(strings.Fields(args))
		expect(t, err, says)
	}
}

func TestJournalTellsInWhichOrderCallsBegan(t *testing.T) {
	var j journal
	release := make(chan struct{})
	began := make(chan struct{})
	done := make(chan error)
	go func() {
		done <- j.handle(t.Context(), "first", func() error { close(began); <-release; return nil })
	}()
	<-began
	_ = j.handle(t.Context(), "second", func() error { return errors.New("no") })
	if j.begun() != 2 {
		t.Errorf("%d begun", j.begun())
	}
	close(release)
	<-done
	var order []string
	for _, h := range j.all() {
		order = append(order, h.id)
	}
	if !slices.Equal(order, []string{"first", "second"}) || j.done()["first"] != 1 || j.done()["second"] != 0 {
		t.Errorf("%v, %v", order, j.done())
	}
}

func TestGate(t *testing.T) {
	var g gate
	expect(t, g.pass(t.Context()), "")
	g.shut()
	passed := make(chan error)
	go func() { passed <- g.pass(t.Context()) }()
	select {
	case <-passed:
		t.Error("passed a closed gate")
	default:
	}
	g.open()
	expect(t, <-passed, "")
}

func TestCheckNewest(t *testing.T) {
	expect(t, checkNewest(map[string]int{"2": 1, "3": 1}, 2, 4), "")
	expect(t, checkNewest(map[string]int{"1": 1, "2": 1, "3": 1}, 2, 4), "message 1 of 4 was handled 1 times, not 0")
	expect(t, checkNewest(map[string]int{"2": 1}, 2, 4), "message 3 of 4 was handled 0 times, not 1")
	expect(t, checkNewest(map[string]int{"2": 1, "3": 2}, 2, 4), "message 3 of 4 was handled 2 times, not 1")
}

func TestBankFigures(t *testing.T) {
	measured, err := bankFigures("bank: ok transfers=3 kills=2", nil)
	expect(t, err, "")
	if got := verdict("bank", measured, nil); got != "bank: ok transfers=3 kills=2" {
		t.Error(got)
	}
	_, err = bankFigures("bank: FAILED duplicates=1", errors.New("exit status 1"))
	expect(t, err, "duplicates=1")
	_, err = bankFigures("bank: ok transfers=3", errors.New("killed"))
	expect(t, err, "killed")
}
