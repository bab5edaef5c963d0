package main

import (
	"errors"
	"sync/atomic"
)

// faults decides which attempts at which flights fail, by the flight's number alone, so that the sums are known beforehand.
type faults struct {
	once   int // one flight in so many fails at its first attempt
	always int // one flight in so many fails at every attempt until the handler is repaired

	repaired atomic.Bool
}

// faultsOf returns the faults of a service. Rebooking sees few flights, so more of them are hopeless.
func faultsOf(service string) *faults {
	if service == "rebooking" {
		return &faults{once: 100, always: 400}
	}
	return &faults{once: 100, always: 4000}
}

func (f *faults) failsOnce(flight int) bool   { return flight%f.once == 50 }
func (f *faults) failsAlways(flight int) bool { return flight%f.always == 1 }

// strike returns the error of an attempt that is to fail. On nil faults nothing fails.
func (f *faults) strike(flight int, attempt uint32) error {
	switch {
	case f == nil:
		return nil
	case f.failsOnce(flight) && attempt == 1:
		return errors.New("injected: fails once")
	case f.failsAlways(flight) && !f.repaired.Load():
		return errors.New("injected: fails until repaired")
	default:
		return nil
	}
}

func (f *faults) repair() { f.repaired.Store(true) }
