// Package process tells what another process of this machine, or this one, has used: processor time and memory. It knows nothing of what the process does.
package process

import (
	"errors"
	"time"
)

// ErrUnknown is returned where the system does not tell.
var ErrUnknown = errors.New("not known on this system")

// Used is the processor time of this process and of another, in user and kernel mode, over all threads.
type Used struct{ Self, Other time.Duration }

// Meter returns a function that tells what both have used since Meter was called. What the system does not tell is 0.
func Meter(pid int) func() Used {
	self, other := now(), of(pid)
	return func() Used { return Used{now() - self, of(pid) - other} }
}

func now() time.Duration { return of(0) }

func of(pid int) time.Duration {
	d, err := CPU(pid)
	if err != nil {
		return 0
	}
	return d
}
