package main

import "sync"

// service is one of the consuming services, as the demo expects it to behave.
type service struct {
	name    string // of the command and of the group
	topic   string
	workers int  // processes
	ordered bool // whether flights of one origin are handled in order
	wants   func(flight) bool
	faults  *faults
}

func services() []service {
	any := func(flight) bool { return true }
	late := func(f flight) bool { return f.Delay > 60 }
	return []service{
		{"board", "flights.departed", 1, true, any, faultsOf("board")},
		{"rebooking", "flights.departed", 1, true, late, faultsOf("rebooking")},
		{"baggage", "bags.checked", 3, false, any, faultsOf("baggage")},
	}
}

// wanted is the flights that the service is to handle, and the ids of those that it cannot until it is repaired.
func (s service) wanted(all []flight) (wanted int, hopeless []string) {
	for _, f := range all {
		if s.wants(f) {
			wanted++
			if s.faults.failsAlways(f.Number) {
				hopeless = append(hopeless, flightID(f.Number))
			}
		}
	}
	return wanted, hopeless
}

// history is all that the processes reported. The entries of one process are in its order.
type history struct {
	departed []entry
	checked  []entry
	handled  map[string][]entry // by service
	failed   map[string][]entry // by service
}

// ledger collects reports while they come in. It is safe for concurrent use.
type ledger struct {
	mu struct {
		sync.Mutex
		history
		distinct map[string]map[string]bool // flights handled, by service
		repaired int                        // processes
	}
}

func newLedger() *ledger {
	l := &ledger{}
	l.mu.handled = make(map[string][]entry)
	l.mu.failed = make(map[string][]entry)
	l.mu.distinct = make(map[string]map[string]bool)
	return l
}

// add notes a line of a process. from is its service, empty for the publisher.
func (l *ledger) add(from, line string) error {
	e, err := parseEntry(line)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e.event {
	case departed:
		l.mu.departed = append(l.mu.departed, e)
	case checked:
		l.mu.checked = append(l.mu.checked, e)
	case handled:
		l.mu.handled[from] = append(l.mu.handled[from], e)
		if l.mu.distinct[from] == nil {
			l.mu.distinct[from] = make(map[string]bool)
		}
		l.mu.distinct[from][e.flight] = true
	case failed:
		l.mu.failed[from] = append(l.mu.failed[from], e)
	case repaired:
		l.mu.repaired++
	}
	return nil
}

// counts is where everything stands.
type counts struct {
	departed, checked int
	handled           map[string]int // flights, by service
	failed            int            // attempts, of all services
	repaired          int
}

func (l *ledger) counts() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := counts{departed: len(l.mu.departed), checked: len(l.mu.checked), handled: make(map[string]int), repaired: l.mu.repaired}
	for name, flights := range l.mu.distinct {
		c.handled[name] = len(flights)
	}
	for _, entries := range l.mu.failed {
		c.failed += len(entries)
	}
	return c
}

// history returns what was collected. Nothing may be added afterwards.
func (l *ledger) history() history {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.history
}
