package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// goodRun is the evidence of a run in which all went well: each event takes a millisecond.
func goodRun(t *testing.T) evidence {
	t.Helper()
	start := time.UnixMilli(1_000_000)
	clock := start
	tick := func() time.Time { clock = clock.Add(time.Millisecond); return clock }
	e := evidence{
		flights: generate(600), start: start, dead: make(map[string][]string), redriven: make(map[string]int),
		history: history{handled: make(map[string][]entry), failed: make(map[string][]entry)},
	}
	published := make(map[int]time.Time)
	for _, f := range e.flights {
		published[f.Number] = tick()
		e.history.departed = append(e.history.departed, entry{event: departed, flight: flightID(f.Number), at: tick()})
		e.history.checked = append(e.history.checked, entry{event: checked, flight: flightID(f.Number), at: tick()})
	}
	for _, s := range services() {
		at := func(event event, f flight, attempt int) entry {
			return entry{event, flightID(f.Number), fmt.Sprintf("0-%d", f.Number), attempt, tick(), published[f.Number]}
		}
		var hopeless []flight
		for _, f := range e.flights {
			if !s.wants(f) {
				continue
			}
			attempt := 1
			switch {
			case s.faults.failsAlways(f.Number):
				e.history.failed[s.name] = append(e.history.failed[s.name], at(failed, f, 1), at(failed, f, 2))
				hopeless = append(hopeless, f)
				continue
			case s.faults.failsOnce(f.Number):
				e.history.failed[s.name] = append(e.history.failed[s.name], at(failed, f, 1))
				attempt = 2
			}
			e.history.handled[s.name] = append(e.history.handled[s.name], at(handled, f, attempt))
		}
		for _, f := range hopeless {
			e.dead[s.name] = append(e.dead[s.name], flightID(f.Number))
			e.redriven[s.name]++
			e.history.handled[s.name] = append(e.history.handled[s.name], at(handled, f, 1))
		}
	}
	return e
}

func TestJudgeAcceptsAGoodRun(t *testing.T) {
	e := goodRun(t)
	v := judge(e, services())
	if len(v.faults) > 0 {
		t.Fatalf("faults: %v", v.faults)
	}
	late, _ := services()[1].wanted(e.flights)
	r := v.rows[0]
	if v.published != 600 || r.handled != 600 || r.lost != 0 || r.duplicates != 0 || r.dead != 1 || r.redriven != 1 || r.retried != 7 || r.rate <= 0 {
		t.Errorf("published %d, board %+v", v.published, r)
	}
	if v.rows[1].handled != late || late == 0 {
		t.Errorf("rebooking handled %d, should be %d", v.rows[1].handled, late)
	}
	line := v.line(1500*time.Millisecond, false)
	want := fmt.Sprintf("demo: ok published=600 board=600 rebooking=%d baggage=600 retried=", late)
	if !strings.HasPrefix(line, want) || !strings.HasSuffix(line, " duplicates=0 lost=0 seconds=1.5") {
		t.Errorf("the line is %q", line)
	}
}

// find returns the place of a flight's first handling.
func find(t *testing.T, entries []entry, id string) int {
	t.Helper()
	i := slices.IndexFunc(entries, func(e entry) bool { return e.flight == id })
	if i < 0 {
		t.Fatalf("%s was not handled", id)
	}
	return i
}

// neighbours returns two flights of one origin, one after the other, of which nothing fails.
func neighbours(t *testing.T, all []flight) (string, string) {
	t.Helper()
	f := faultsOf("board")
	for _, list := range byOrigin(all) {
		for i := 1; i < len(list); i++ {
			a, b := list[i-1].Number, list[i].Number
			if !f.failsAlways(a) && !f.failsAlways(b) && !f.failsOnce(a) && !f.failsOnce(b) {
				return flightID(a), flightID(b)
			}
		}
	}
	t.Fatal("no origin has two flights")
	return "", ""
}

func TestJudgeCatches(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*testing.T, *evidence)
		want  string
		sums  string // in the last line
	}{
		"a lost flight": {func(t *testing.T, e *evidence) {
			i := find(t, e.history.handled["baggage"], "F000017")
			e.history.handled["baggage"] = slices.Delete(e.history.handled["baggage"], i, i+1)
		}, "baggage: F000017 was lost", " duplicates=0 lost=1 "},
		"a flight handled twice": {func(t *testing.T, e *evidence) {
			h := e.history.handled["board"]
			e.history.handled["board"] = append(h, h[find(t, h, "F000017")])
		}, "board: F000017 was handled twice", " duplicates=1 lost=0 "},
		"a flight handled twice, as two messages": {func(t *testing.T, e *evidence) {
			h := e.history.handled["baggage"]
			again := h[find(t, h, "F000017")]
			again.place = "1-1"
			e.history.handled["baggage"] = append(h, again)
		}, "baggage: F000017 was handled twice", ""},
		"flights of an origin in the wrong order": {func(t *testing.T, e *evidence) {
			a, b := neighbours(t, e.flights)
			h := e.history.handled["board"]
			i, j := find(t, h, a), find(t, h, b)
			h[i], h[j] = h[j], h[i]
		}, "came after", ""},
		"a flight that should be filtered out": {func(t *testing.T, e *evidence) {
			i := slices.IndexFunc(e.flights, func(f flight) bool { return f.Delay == 60 || f.Delay < 0 })
			stray := e.history.handled["rebooking"][0]
			stray.flight = flightID(e.flights[i].Number)
			e.history.handled["rebooking"] = append(e.history.handled["rebooking"], stray)
		}, "should have been filtered out", ""},
		"a flight from nowhere": {func(t *testing.T, e *evidence) {
			stray := e.history.handled["board"][0]
			stray.flight = "F999999"
			e.history.handled["board"] = append(e.history.handled["board"], stray)
		}, "do not exist", ""},
		"a flight that was not published": {func(t *testing.T, e *evidence) {
			e.history.checked = e.history.checked[1:]
		}, "F000001 departed 1 times and had its bags checked 0 times", ""},
		"a flight published twice": {func(t *testing.T, e *evidence) {
			e.history.departed = append(e.history.departed, e.history.departed[7])
		}, "F000008 departed 2 times", ""},
		"a flight that fails for no reason": {func(t *testing.T, e *evidence) {
			e.history.failed["board"] = append(e.history.failed["board"], entry{event: failed, flight: "F000017"})
		}, "F000017 failed for no reason", ""},
		"a flight that should have failed": {func(t *testing.T, e *evidence) {
			f := e.history.failed["board"]
			i := find(t, f, "F000050")
			e.history.failed["board"] = slices.Delete(f, i, i+1)
		}, "F000050 failed 0 times", ""},
		"a dead letter that is missing": {func(t *testing.T, e *evidence) {
			e.dead["board"] = nil
			e.redriven["board"] = 0
		}, "dead letters are [], should be [F000001]", ""},
		"a dead letter too many": {func(t *testing.T, e *evidence) {
			e.dead["board"] = append(e.dead["board"], "F000017")
			e.redriven["board"]++
		}, "dead letters are [F000001 F000017]", ""},
		"a dead letter that is listed twice": {func(t *testing.T, e *evidence) {
			e.dead["board"] = append(e.dead["board"], "F000001")
			e.redriven["board"]++
		}, "dead letters are [F000001 F000001]", ""},
		"a dead letter that was not redriven": {func(t *testing.T, e *evidence) {
			e.redriven["board"] = 0
		}, "0 of 1 dead letters were redriven", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := goodRun(t)
			c.spoil(t, &e)
			v := judge(e, services())
			if !slices.ContainsFunc(v.faults, func(f string) bool { return strings.Contains(f, c.want) }) {
				t.Errorf("faults %v, should tell of %q", v.faults, c.want)
			}
			if line := v.line(time.Second, false); !strings.HasPrefix(line, "demo: FAILED published=") || !strings.Contains(line, c.sums) {
				t.Errorf("the line is %q", line)
			}
		})
	}
}

func TestDuplicatesNeedTheOutageAsCause(t *testing.T) {
	killed := time.UnixMilli(2_000_000)
	o := &outage{killed: killed, back: killed.Add(time.Second)}
	ms := time.Millisecond
	for name, c := range map[string]struct {
		samePlace       bool
		first, second   time.Duration // of the handlings, from the kill
		before, after   time.Duration // of the publishings
		again, resent   int
		withoutAnOutage bool
	}{
		"its acknowledgement died":              {samePlace: true, first: -5 * ms, second: 2000 * ms, again: 1},
		"handled while the sidecar was away":    {samePlace: true, first: 5 * ms, second: 2000 * ms, again: 1},
		"acknowledged long before the kill":     {samePlace: true, first: -2500 * ms, second: 2000 * ms},
		"again before the kill":                 {samePlace: true, first: -9 * ms, second: -5 * ms},
		"again, long after the sidecar is back": {samePlace: true, first: 1500 * ms, second: 2000 * ms},
		"resent":                                {first: -5 * ms, second: 2000 * ms, before: -6 * ms, after: 1100 * ms, resent: 1},
		"resent, handled in the other order":    {first: 1200 * ms, second: 2000 * ms, before: 1100 * ms, after: -6 * ms, resent: 1},
		"published twice before the kill":       {first: -5 * ms, second: 2000 * ms, before: -9 * ms, after: -6 * ms},
		"published twice after it":              {first: 1200 * ms, second: 2000 * ms, before: 1100 * ms, after: 1150 * ms},
		"no outage":                             {samePlace: true, first: -5 * ms, second: 2000 * ms, withoutAnOutage: true},
	} {
		t.Run(name, func(t *testing.T) {
			times := []entry{
				{flight: "F000001", place: "0-1", at: killed.Add(c.first), published: killed.Add(c.before)},
				{flight: "F000001", place: "0-2", at: killed.Add(c.second), published: killed.Add(c.after)},
			}
			if c.samePlace {
				times[1].place = times[0].place
			}
			slices.Reverse(times) // the reports of several processes come in any order
			cause := o
			if c.withoutAnOutage {
				cause = nil
			}
			var v verdict
			v.checkDuplicates(cause, services()[0], times)
			if v.again != c.again || v.resent != c.resent || v.unruled != 1-c.again-c.resent || len(v.faults) != v.unruled {
				t.Errorf("%d again, %d resent, %d without a cause, faults %v", v.again, v.resent, v.unruled, v.faults)
			}
		})
	}
}

func TestComplaintsAreFew(t *testing.T) {
	var v verdict
	for i := range 25 {
		v.fault("fault %d", i)
	}
	if c := v.complaints(); len(c) != 11 || c[10] != "and 15 more" {
		t.Errorf("%d complaints: %v", len(c), c)
	}
}
