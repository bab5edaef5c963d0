package sidecar

import "testing"

// TestMemoryIsGivenBackAtRest: soon after work has ended, once more when what was kept for a while is gone, and not again until there was work.
func TestMemoryIsGivenBackAtRest(t *testing.T) {
	var r rest
	allocated, looks := uint64(0), 0
	look := func(bytes uint64) bool {
		allocated += bytes
		looks++
		return r.look(allocated)
	}
	for range 3 { // bursts
		for range 5 {
			if look(memoryQuiet + 1) {
				t.Fatal("given back while there is work")
			}
		}
		var given []int
		looks = 0
		for range 10 * memoryAgain {
			if look(memoryQuiet) {
				given = append(given, looks)
			}
		}
		if len(given) != 2 || given[0] != 1 || given[1] != 1+memoryAgain {
			t.Fatalf("at rest given back with looks %v, want 1 and %d", given, 1+memoryAgain)
		}
	}
}
