package main

import (
	"fmt"
	"slices"
	"time"
)

// evidence is what the demo judges by.
type evidence struct {
	flights  []flight
	history  history
	start    time.Time           // when the publisher was started
	dead     map[string][]string // flights of the dead letters before the repair, by service
	redriven map[string]int      // dead letters given back, by service
	outage   *outage             // nil if the sidecar was not killed
}

// outage is the time without a sidecar.
type outage struct{ killed, back time.Time }

// verdict is the outcome of a run.
type verdict struct {
	published int // flights of which both messages are durable
	rows      []row
	faults    []string // what does not reconcile; empty if the run is good
	// Duplicates by cause.
	again   int           // handled before the sidecar was killed, but the acknowledgement died with it
	resent  int           // published twice, since the answer to the first died with the sidecar
	unruled int           // without a cause
	oldest  time.Duration // the longest time before the kill at which one of again was handled first
}

// maxUnsettled is how long before the kill an acknowledgement may have been given and yet not be durable. It is sent at once
// and synced within milliseconds; the rest is for a machine that has other things to do.
const maxUnsettled = 2 * time.Second

// row is the sum of a service.
type row struct {
	service    string
	wanted     int
	handled    int // flights
	retried    int // attempts after the first
	dead       int // messages that became dead letters
	redriven   int
	duplicates int // handlings of a flight after the first
	lost       int
	rate       float64 // flights a second from the start to the last that was handled, dead letters apart
}

// judge compares what happened with what should have.
func judge(e evidence, services []service) verdict {
	var v verdict
	v.checkPublished(e)
	for _, s := range services {
		v.rows = append(v.rows, v.judgeService(e, s))
	}
	return v
}

func (v *verdict) fault(format string, args ...any) {
	v.faults = append(v.faults, fmt.Sprintf(format, args...))
}

// checkPublished finds flights that were not reported as durable exactly once on each topic.
func (v *verdict) checkPublished(e evidence) {
	departures, bags := tally(e.history.departed), tally(e.history.checked)
	for _, f := range e.flights {
		id := flightID(f.Number)
		if d, b := len(departures[id]), len(bags[id]); d != 1 || b != 1 {
			v.fault("publisher: %s departed %d times and had its bags checked %d times", id, d, b)
			continue
		}
		v.published++
	}
	if extra := len(departures) + len(bags) - 2*len(e.flights); extra > 0 {
		v.fault("publisher: %d messages of flights that do not exist", extra)
	}
}

func (v *verdict) judgeService(e evidence, s service) row {
	wanted, hopeless := s.wanted(e.flights)
	r := row{service: s.name, wanted: wanted, dead: len(e.dead[s.name]), redriven: e.redriven[s.name]}
	handlings, failures := tally(e.history.handled[s.name]), tally(e.history.failed[s.name])

	var last time.Time
	regular := 0
	for _, f := range e.flights {
		id := flightID(f.Number)
		times := handlings[id]
		delete(handlings, id)
		v.checkFailures(e, s, f, failures[id])
		delete(failures, id)
		switch {
		case !s.wants(f) && len(times) > 0:
			v.fault("%s: %s was handled and should have been filtered out", s.name, id)
			continue
		case !s.wants(f):
			continue
		case len(times) == 0:
			r.lost++
			v.fault("%s: %s was lost", s.name, id)
			continue
		}
		r.handled++
		r.duplicates += len(times) - 1
		v.checkDuplicates(e.outage, s, times)
		if !s.faults.failsAlways(f.Number) {
			regular++
			last = later(last, times[0].at)
		}
	}
	if strangers := len(handlings) + len(failures); strangers > 0 {
		v.fault("%s: %d flights came that do not exist", s.name, strangers)
	}
	for _, list := range [][]entry{e.history.handled[s.name], e.history.failed[s.name]} {
		for _, attempt := range list {
			if attempt.attempt > 1 {
				r.retried++
			}
		}
	}
	v.checkDeadLetters(e, s, hopeless)
	if s.ordered {
		v.checkOrder(e, s)
	}
	if elapsed := last.Sub(e.start).Seconds(); regular > 0 && elapsed > 0 {
		r.rate = float64(regular) / elapsed
	}
	return r
}

// checkFailures finds attempts that failed and should not have, and the reverse. After a crash an attempt may count without
// a trace, or fail again without counting.
func (v *verdict) checkFailures(e evidence, s service, f flight, failures []entry) {
	once, always := s.faults.failsOnce(f.Number), s.faults.failsAlways(f.Number)
	switch {
	case !s.wants(f), !once && !always:
		if len(failures) > 0 {
			v.fault("%s: %s failed for no reason", s.name, flightID(f.Number))
		}
	case once && len(failures) != 1 && e.outage == nil:
		v.fault("%s: %s failed %d times, should fail once", s.name, flightID(f.Number), len(failures))
	case always && len(failures) < 2 && e.outage == nil:
		v.fault("%s: %s was given up after %d attempts", s.name, flightID(f.Number), len(failures))
	}
}

// checkDuplicates accounts for every handling of a flight after the first. Only the death of the sidecar may cause one.
func (v *verdict) checkDuplicates(o *outage, s service, times []entry) {
	slices.SortFunc(times, func(a, b entry) int { return a.at.Compare(b.at) })
	for i := 1; i < len(times); i++ {
		before, after := times[i-1], times[i]
		switch {
		case o != nil && before.place == after.place && o.spoils(before.at, after.at):
			v.again++
			v.oldest = max(v.oldest, o.killed.Sub(before.at))
		case o != nil && before.place != after.place && o.divides(before.published, after.published):
			v.resent++
		default:
			v.unruled++
			v.fault("%s: %s was handled twice, as message %s and as %s", s.name, before.flight, before.place, after.place)
		}
	}
}

// spoils reports whether the outage can have undone what was acknowledged at one time, so that it was handled at another.
func (o *outage) spoils(before, after time.Time) bool {
	return before.After(o.killed.Add(-maxUnsettled)) && before.Before(o.back) && after.After(o.killed)
}

// divides reports whether one of two messages was published before the sidecar was killed and the other after it. The times
// of messages are in milliseconds.
func (o *outage) divides(a, b time.Time) bool {
	if b.Before(a) {
		a, b = b, a
	}
	killed := o.killed.Truncate(time.Millisecond)
	return !a.After(killed) && !b.Before(killed)
}

// checkDeadLetters compares the dead letters with the flights that had to become some.
func (v *verdict) checkDeadLetters(e evidence, s service, hopeless []string) {
	dead := slices.Clone(e.dead[s.name])
	slices.Sort(dead)
	if e.outage != nil { // a flight that was published twice dies twice
		dead = slices.Compact(dead)
	}
	if !slices.Equal(dead, hopeless) {
		v.fault("%s: dead letters are %v, should be %v", s.name, dead, hopeless)
	}
	if n := e.redriven[s.name]; n != len(e.dead[s.name]) {
		v.fault("%s: %d of %d dead letters were redriven", s.name, n, len(e.dead[s.name]))
	}
}

// checkOrder finds flights that were first handled before one of their origin that was published earlier. A dead letter gives
// up its place, so those are left out.
func (v *verdict) checkOrder(e evidence, s service) {
	position := make(map[string]int, len(e.history.departed)) // among all departures; only order within an origin matters
	for i, d := range e.history.departed {
		position[d.flight] = i
	}
	latest := make(map[string]entry) // by origin
	seen := make(map[string]bool)
	for _, h := range e.history.handled[s.name] {
		number := flightNumber(h.flight)
		if seen[h.flight] || number == 0 || number > len(e.flights) || s.faults.failsAlways(number) {
			continue
		}
		seen[h.flight] = true
		origin := e.flights[number-1].Origin
		if before, ok := latest[origin]; ok && position[h.flight] < position[before.flight] {
			v.fault("%s: %s came after %s, it left %s before", s.name, h.flight, before.flight, origin)
			continue
		}
		latest[origin] = h
	}
}

// tally groups entries by flight.
func tally(entries []entry) map[string][]entry {
	flights := make(map[string][]entry, len(entries))
	for _, e := range entries {
		flights[e.flight] = append(flights[e.flight], e)
	}
	return flights
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
