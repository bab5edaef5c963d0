// Package compat says which changes of a declared topic or subscription break somebody: what a sidecar refuses when a topic is declared again, and
// what the check of buf refuses before that.
//
// It compares what package topic read. It does no I/O, keeps no state, and does not look at the fields of messages: that is buf's own check.
package compat

import "fmt"

// Difference is a way in which a newer declaration contradicts an older one.
type Difference struct {
	// What names the setting as the annotations do: "partitions", "retry.max_attempts".
	What     string
	Old, New string
}

func (d Difference) String() string { return fmt.Sprintf("%s: %s became %s", d.What, d.Old, d.New) }
