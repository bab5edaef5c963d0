package main

import (
	"io"
	"testing"
	"time"

	"github.com/typedmq/typedmq/examples/flights/gen/air/baggage/v1/baggagev1mq"
	"github.com/typedmq/typedmq/examples/flights/gen/air/board/v1/boardv1mq"
	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/examples/flights/gen/air/rebooking/v1/rebookingv1mq"
	"github.com/typedmq/typedmq/sidecar/mqtest"
)

// runServices runs the three consumers, with the faults that the demo injects if that is wanted.
func runServices(t *testing.T, inject bool) (s *mqtest.Sidecar, shown *desk) {
	t.Helper()
	s = mqtest.New(t)
	newDesk := func(name string) *desk {
		d := &desk{report: newReport(io.Discard)}
		if inject {
			d.faults = faultsOf(name)
		}
		t.Cleanup(func() { _ = d.report.Close() })
		return d
	}
	shown = newDesk("board")
	worker := s.Worker()
	boardv1mq.RegisterBoardConsumer(worker, &board{shown})
	rebookingv1mq.RegisterRebookingConsumer(worker, &rebooking{newDesk("rebooking")})
	baggagev1mq.RegisterBaggageConsumer(worker, &baggage{newDesk("baggage")})
	return s, shown
}

func publishFlights(t *testing.T, s *mqtest.Sidecar, all []flight) {
	t.Helper()
	report := newReport(io.Discard)
	if err := publishAll(t.Context(), flightsv1mq.NewFlightEventsPublisher(s.Client()), all, report); err != nil {
		t.Fatal(err)
	}
	if err := report.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAHopelessFlightDiesAndIsRedriven: what the demo shows with processes, in some milliseconds.
func TestAHopelessFlightDiesAndIsRedriven(t *testing.T) {
	t.Parallel()
	s, shown := runServices(t, true)
	publishFlights(t, s, generate(60))
	s.Advance(time.Hour) // all retries
	dead := mqtest.DeadLetters[*flightsv1.FlightDeparted](s, "board")
	if len(dead) != 1 || dead[0].Value.GetFlightId() != flightID(1) || dead[0].Attempts != 4 {
		t.Fatalf("dead letters of the board: %v, should be flight 1 after 4 attempts", dead)
	}
	shown.faults.repair()
	if n := mqtest.Redrive[*flightsv1.FlightDeparted](s, "board"); n != 1 {
		t.Errorf("redrove %d", n)
	}
	s.Settle(t)
	mqtest.AssertDeadLetters[*flightsv1.FlightDeparted](t, s, "board")
}

// TestNoFlightIsLostInACrash: the sidecar crashes between a handler's return and its outcome.
func TestNoFlightIsLostInACrash(t *testing.T) {
	t.Parallel()
	s, _ := runServices(t, false)
	s.Settle(t)
	s.CrashAt(mqtest.BeforeSettle)
	publishFlights(t, s, generate(60))
	s.Settle(t)
	stored := map[string]bool{} // what was on its way when the sidecar crashed may be stored twice
	for _, m := range mqtest.Published[*flightsv1.FlightDeparted](s) {
		stored[m.Value.GetFlightId()] = true
	}
	if len(stored) != 60 {
		t.Errorf("%d flights are stored, should be 60", len(stored))
	}
	mqtest.AssertNoDeadLetters(t, s)
}
