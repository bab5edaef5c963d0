package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
)

func TestFaultsStrikeByNumber(t *testing.T) {
	f := faultsOf("board")
	for _, c := range []struct {
		flight  int
		attempt uint32
		fails   bool
	}{
		{1, 1, true}, {1, 2, true}, {4001, 9, true}, // always
		{50, 1, true}, {50, 2, false}, {150, 1, true}, // once
		{2, 1, false}, {100, 1, false}, {401, 1, false},
	} {
		if err := f.strike(c.flight, c.attempt); (err != nil) != c.fails {
			t.Errorf("flight %d, attempt %d: %v", c.flight, c.attempt, err)
		}
	}
	f.repair()
	if err := f.strike(1, 1); err != nil {
		t.Errorf("after the repair: %v", err)
	}
	var none *faults
	if err := none.strike(1, 1); err != nil {
		t.Errorf("without faults: %v", err)
	}
}

func TestAFlightIsHandledOnceTheHandlerIsRepaired(t *testing.T) {
	var out bytes.Buffer
	d := &desk{report: newReport(&out), faults: faultsOf("board")}
	b := &board{d}
	hopeless := &flightsv1.FlightDeparted{FlightId: flightID(1), Origin: "SFO", Destination: "LAX"}
	if err := b.OnDeparted(t.Context(), hopeless); err == nil {
		t.Error("the first attempt succeeded")
	}
	d.obey(strings.NewReader("something else\nrepair\n"))
	if err := b.OnDeparted(t.Context(), hopeless); err != nil {
		t.Error(err)
	}
	if err := d.report.Close(); err != nil {
		t.Fatal(err)
	}
	var events []string
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		event, _, _ := strings.Cut(line, " ")
		events = append(events, event)
	}
	if got := strings.Join(events, " "); got != "failed repaired handled" {
		t.Errorf("reported %s", got)
	}
}

func TestRebookingIsDoneWhenItsHandlerIs(t *testing.T) {
	d := &desk{report: newReport(io.Discard), faults: faultsOf("rebooking")}
	defer d.report.Close()
	r := &rebooking{d}
	if err := r.OnDeparted(t.Context(), &flightsv1.FlightDeparted{FlightId: flightID(2)}); err != nil {
		t.Error(err)
	}
	if err := r.OnDeparted(t.Context(), &flightsv1.FlightDeparted{FlightId: flightID(401)}); err == nil {
		t.Error("a hopeless flight was rebooked")
	}
}
