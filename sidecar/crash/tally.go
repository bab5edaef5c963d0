package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/sim"
)

// tally is what was done and what came of it. It is safe for concurrent use.
type tally struct {
	mu struct {
		sync.Mutex
		hits       map[string]int // faults by kind
		restarts   []time.Duration
		acked      int // publishes whose acknowledgement the checker held the store to
		events     int
		duplicates map[string]int
		again      int
		violations []string
		lost       int
		stores     int
		flips      map[string]*flipTally
		flipped    int
		silent     int
		silences   []string // of damage that was not told
		nameless   []string // of refusals without the file's name
		reports    []string // of what is wrong
	}
}

// flipTally is what became of the damage done to one kind of file.
type flipTally struct{ harmless, reported, refused, unnamed, silent int }

func newTally() *tally {
	t := &tally{}
	t.mu.hits, t.mu.duplicates, t.mu.flips = map[string]int{}, map[string]int{}, map[string]*flipTally{}
	return t
}

func (t *tally) hit(kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.hits[kind]++
}

func (t *tally) restarted(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.restarts = append(t.mu.restarts, took)
}

// judged takes the checker's verdict on a store.
func (t *tally) judged(name string, h *sim.History, v sim.Verdict, again int, uncaused []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.stores++
	t.mu.events += len(h.Events)
	t.mu.again += again
	for _, e := range h.Events {
		if e.Kind == sim.Published && e.Result == sim.OK {
			t.mu.acked++
		}
	}
	for cause, n := range v.Duplicates {
		t.mu.duplicates[cause] += n
	}
	for _, uid := range uncaused {
		t.mu.violations = append(t.mu.violations, fmt.Sprintf("%s: invariant 4 (%s): uid %d was stored twice, and no fault was near", name, sim.Invariants[4], uid))
	}
	for _, one := range v.Violations {
		text := fmt.Sprintf("%s: invariant %d (%s): %s", name, one.Invariant, sim.Invariants[one.Invariant], one.Text)
		if one.Event >= 0 {
			text += "\n    " + h.Events[one.Event].String()
		}
		t.mu.violations = append(t.mu.violations, text)
		if one.Invariant == 1 || one.Invariant == 18 {
			t.mu.lost++
		}
	}
}

// wrong notes what is neither a loss nor silent, and wrong.
func (t *tally) wrong(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.reports = append(t.mu.reports, fmt.Sprintf(format, args...))
}

// flip takes what became of a damaged file.
func (t *tally) flip(kind string, to func(*flipTally)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.mu.flips[kind]
	if f == nil {
		f = &flipTally{}
		t.mu.flips[kind] = f
	}
	to(f)
	t.mu.flipped++
}

// silent notes damage that was not told: the text says which.
func (t *tally) silent(kind, text string) {
	t.flip(kind, func(f *flipTally) { f.silent++ })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.silent++
	t.mu.silences = append(t.mu.silences, text)
}

// unnamed notes a refusal to start that does not name the damaged file.
func (t *tally) unnamed(kind, text string) {
	t.flip(kind, func(f *flipTally) { f.unnamed++ })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.nameless = append(t.mu.nameless, text)
}

func (t *tally) flipRestarted(took time.Duration) { t.restarted(took) }

// line is the progress in one line.
func (t *tally) line(since time.Time, running []*rig) string {
	acked := 0
	for _, r := range running {
		acked += r.record.acknowledged()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%4.0fs ", time.Since(since).Seconds())
	for _, kind := range slices.Sorted(maps.Keys(t.mu.hits)) {
		fmt.Fprintf(&b, " %s %d,", kind, t.mu.hits[kind])
	}
	fmt.Fprintf(&b, " flips %d, acknowledged %d, stores judged %d, faults found %d", t.mu.flipped, acked, t.mu.stores,
		len(t.mu.violations)+len(t.mu.reports)+t.mu.silent)
	return b.String()
}

// good writes the table, and tells whether nothing was wrong.
func (t *tally) good(w io.Writer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, text := range slices.Concat(t.mu.violations, t.mu.reports, t.mu.silences, t.mu.nameless) {
		fmt.Fprintln(w, text)
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "\nfault\ttimes")
	for _, kind := range slices.Sorted(maps.Keys(t.mu.hits)) {
		fmt.Fprintf(out, "%s\t%d\n", kind, t.mu.hits[kind])
	}
	if len(t.mu.flips) > 0 {
		fmt.Fprintln(out, "\nflips and truncations of\ttimes\tall there\treported, others served\trefused, named\trefused, not named\tsilent")
		for _, kind := range slices.Sorted(maps.Keys(t.mu.flips)) {
			f := t.mu.flips[kind]
			fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%d\t%d\t%d\n", kind, f.harmless+f.reported+f.refused+f.unnamed+f.silent, f.harmless, f.reported, f.refused, f.unnamed, f.silent)
		}
	}
	_ = out.Flush() // to the caller's writer, whose errors nobody can tell of
	if n := len(t.mu.restarts); n > 0 {
		slices.Sort(t.mu.restarts)
		fmt.Fprintf(w, "\n%d restarts: p50 %d ms, max %d ms\n", n, t.mu.restarts[n/2].Milliseconds(), t.mu.restarts[n-1].Milliseconds())
	}
	var causes []string
	for _, cause := range slices.Sorted(maps.Keys(t.mu.duplicates)) {
		causes = append(causes, fmt.Sprintf("%s %d", cause, t.mu.duplicates[cause]))
	}
	fmt.Fprintf(w, "delivered again: %s; published again by the SDK: %d\n", strings.Join(causes, ", "), t.mu.again)
	fmt.Fprintf(w, "%d acknowledged messages of %d stores checked (%d events), lost=%d, silent=%d, other violations=%d\n",
		t.mu.acked, t.mu.stores, t.mu.events, t.mu.lost, t.mu.silent, len(t.mu.violations)-t.mu.lost+len(t.mu.reports))
	return len(t.mu.violations)+len(t.mu.reports)+t.mu.silent == 0
}
