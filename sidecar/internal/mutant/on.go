//go:build mutants

package mutant

import "sync/atomic"

var selected atomic.Pointer[Mutant]

// On tells whether a bug is the selected one.
func On(m Mutant) bool {
	s := selected.Load()
	return s != nil && *s == m
}

// Select puts a bug in, for all that runs in this process from now on. The empty name takes it out.
func Select(m Mutant) { selected.Store(&m) }
