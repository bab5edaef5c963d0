package engine

import "strings"

// Finding is one thing that a check of a store found wrong.
type Finding struct {
	// Place is the file, the log or the shard: "MARKS", "log 3/0/0", "shard billing@3/0".
	Place string
	// At is where in it: an offset or a key. Empty: all of it.
	At string
	// What is wrong, and what to Do about it.
	What, Do string
	// Topic is whose log or shard it is, 0 if it is no topic's.
	Topic TopicID
}

// String is the finding on one line: "log 3/0/0 at 1200: chunk fails its checksum; restore a backup".
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.Place)
	if f.At != "" {
		b.WriteString(" at " + f.At)
	}
	b.WriteString(": " + f.What)
	if f.Do != "" {
		b.WriteString("; " + f.Do)
	}
	return b.String()
}
