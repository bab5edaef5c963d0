//go:build mutants

package mutant

import (
	"os"
	"sync"
	"sync/atomic"
)

var selected atomic.Pointer[Mutant]

// Variable is the environment variable that puts a bug into a whole process, which the crash harness then has to catch.
const Variable = "TYPEDMQ_MUTANT"

var ofProcess = sync.OnceValue(func() Mutant { return Mutant(os.Getenv(Variable)) })

// On tells whether a bug is the selected one.
func On(m Mutant) bool {
	s := selected.Load()
	if s == nil {
		return ofProcess() == m
	}
	return *s == m
}

// Select puts a bug in, for all that runs in this process from now on. The empty name takes it out.
func Select(m Mutant) { selected.Store(&m) }
