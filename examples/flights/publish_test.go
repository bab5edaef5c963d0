package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/runtime/mq"
)

// fakePublisher keeps what is published, and refuses one flight.
type fakePublisher struct {
	refuse string

	mu struct {
		sync.Mutex
		departures map[string][]string // flights by origin
		bags       map[string]int
	}
}

func (p *fakePublisher) Departed(ctx context.Context, f *flightsv1.FlightDeparted, _ ...mq.PublishOption) (mq.Receipt, error) {
	if f.GetFlightId() == p.refuse {
		return mq.Receipt{}, errors.New("refused")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.departures[f.GetOrigin()] = append(p.mu.departures[f.GetOrigin()], f.GetFlightId())
	return mq.Receipt{}, ctx.Err()
}

func (p *fakePublisher) CheckedIn(ctx context.Context, b *flightsv1.BagsChecked, _ ...mq.PublishOption) (mq.Receipt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.bags[b.GetFlightId()]++
	return mq.Receipt{}, ctx.Err()
}

func newFakePublisher(refuse string) *fakePublisher {
	p := &fakePublisher{refuse: refuse}
	p.mu.departures = make(map[string][]string)
	p.mu.bags = make(map[string]int)
	return p
}

func TestPublishAllKeepsTheOrderOfAnOrigin(t *testing.T) {
	all := generate(500)
	var out bytes.Buffer
	publisher, report := newFakePublisher(""), newReport(&out)
	if err := publishAll(t.Context(), publisher, all, report); err != nil {
		t.Fatal(err)
	}
	for origin, list := range byOrigin(all) {
		var want []string
		for _, f := range list {
			want = append(want, flightID(f.Number))
		}
		if got := publisher.mu.departures[origin]; strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: published %v, should be %v", origin, got, want)
		}
	}
	if len(publisher.mu.bags) != len(all) {
		t.Errorf("the bags of %d flights were checked, should be %d", len(publisher.mu.bags), len(all))
	}
	if err := report.Close(); err != nil {
		t.Fatal(err)
	}
	for _, event := range []event{departed, checked} {
		if n := strings.Count(out.String(), string(event)+" F"); n != len(all) {
			t.Errorf("reported %d times that a flight %s, should be %d", n, event, len(all))
		}
	}
}

func TestPublishAllEndsWithTheFirstRefusal(t *testing.T) {
	report := newReport(io.Discard)
	defer report.Close()
	err := publishAll(t.Context(), newFakePublisher(flightID(3)), generate(500), report)
	if err == nil || !strings.Contains(err.Error(), "flight F000003: refused") {
		t.Errorf("the error is %v", err)
	}
}
