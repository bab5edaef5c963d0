package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
)

// TestTurns: rounds of scenarios alternate, what fails is left out from then on, with what it had found, and the others go on.
func TestTurns(t *testing.T) {
	var order []string
	fake := func(name string, failAt int) planned {
		n := 0
		return planned{scenario{name: name, measure: func(context.Context, settings, string) ([]measured, error) {
			order = append(order, name)
			if n++; n == failAt {
				return []measured{{part: "before", unit: perSecond, value: 7}}, errors.New("boom")
			}
			return []measured{{unit: perSecond, value: 1}}, nil
		}}, 3}
	}
	plan := []planned{fake("a", 0), fake("b", 2), fake("c", 0)}
	plan[2].rounds = 2
	r := newReport(settings{})
	if err := run(t.Context(), settings{}, plan, r, io.Discard); err != nil {
		t.Fatal(err)
	}
	r.conclude()
	if want := []string{"a", "b", "c", "a", "b", "c", "a"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if b := r.find("b"); b.Error != "boom" || len(b.Rounds) != 1 || r.find("b before").Median != 7 || len(r.find("a").Rounds) != 3 {
		t.Errorf("%+v", b)
	}
}

// TestInterrupt: the end of the context ends a run at once.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	p := planned{scenario{name: "a", measure: func(context.Context, settings, string) ([]measured, error) {
		if n++; n == 2 {
			cancel()
		}
		return []measured{{unit: perSecond, value: 1}}, nil
	}}, 5}
	r := newReport(settings{})
	if err := run(ctx, settings{}, []planned{p}, r, io.Discard); !errors.Is(err, context.Canceled) || n != 2 || len(r.find("a").Rounds) != 1 {
		t.Errorf("%v after %d rounds", err, n)
	}
}
