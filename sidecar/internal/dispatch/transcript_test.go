package dispatch

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestTranscripts plays testdata/*: each rule as a conversation with the machine. Run with -rewrite to record anew, then read the diff.
//
// Commands (one a line, times in milliseconds): new, seen (messages offset:key, appended and fetched), join, leave, beat, grant, ack, nack, reject,
// snooze, release, extend, redrive, discard, seek, grown, want, at (moves time and ticks), reopen (a new machine from what was saved).
// A token is written offset/lease, with epoch 1.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			tr := &transcript{}
			datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string { return tr.play(t, d) })
		})
	}
}

// transcript is a machine, its clock, and what a store would hold.
type transcript struct {
	p     *Partition
	cfg   Config
	now   Instant
	store store
	keys  map[Offset]uint64
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func (tr *transcript) play(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	num := func(key string, fallback int) int {
		if d.HasArg(key) {
			d.ScanArgs(t, key, &fallback)
		}
		return fallback
	}
	text := func(key string) string {
		var s string
		if d.HasArg(key) {
			d.ScanArgs(t, key, &s)
		}
		return s
	}
	token := func() Token {
		tok := Token{Epoch: uint64(num("epoch", 1))}
		fmt.Sscanf(d.CmdArgs[0].Key, "%d/%d", &tok.Offset, &tok.Lease)
		return tok
	}
	step := func(ev Event) {
		if err := tr.p.Step(tr.now, ev); err != nil {
			fmt.Fprintln(&out, "error:", err)
		}
	}
	switch d.Cmd {
	case "new":
		tr.cfg = Config{
			Epoch: 1, Lookahead: num("lookahead", 100), MaxUnsettled: num("unsettled", 1000), MaxParked: num("parked", 0), MaxLosses: uint32(num("losses", 0)),
			Policy: Policy{Retry: Retry{MaxAttempts: uint32(num("attempts", 3)), Initial: ms(100), Max: ms(1000), Coefficient: 2}, DropDead: d.HasArg("drop-dead"), HoldKey: d.HasArg("hold"), BuryExpired: d.HasArg("bury-expired")},
		}
		tr.cfg.Ordering = map[string]Ordering{"": PerKey, "key": PerKey, "partition": PerPartition, "none": Unordered}[text("order")]
		tr.now, tr.store, tr.keys = 0, newStore(), map[Offset]uint64{}
		tr.store.keyOf = func(o Offset) uint64 { return tr.keys[o] }
		tr.p = New(tr.cfg, tr.store.snapshot(), tr.now)
	case "seen":
		var msgs []Message
		next := Offset(0)
		for _, a := range d.CmdArgs {
			var m Message
			key := ""
			if n, _ := fmt.Sscanf(strings.Replace(a.Key, ":", " ", 1), "%d %s", &m.Offset, &key); n == 0 {
				continue
			}
			m.Size = uint32(num("size", 0))
			if d.HasArg("expires") {
				m.Expires = Instant(ms(num("expires", 0)))
			}
			if key == "filtered" {
				m.Filtered = true
			} else if key != "" {
				m.Key = uint64(key[0])
			}
			tr.keys[m.Offset] = m.Key
			msgs = append(msgs, m)
			next = m.Offset + 1
		}
		next = Offset(num("next", int(next)))
		step(Grown{End: next})
		step(&Fetched{Messages: msgs, Next: next})
	case "join":
		step(Join{Session: SessionID(num("s", 1)), Until: tr.now.Add(ms(num("lease", 1000))), Once: d.HasArg("once")})
	case "leave":
		step(Leave{Session: SessionID(num("s", 1)), Crashed: d.HasArg("crashed")})
	case "beat":
		step(Heartbeat{Session: SessionID(num("s", 1)), Until: tr.now.Add(ms(num("lease", 1000)))})
	case "grant":
		g := &Grant{Session: SessionID(num("s", 1)), Messages: num("n", 1), Bytes: int64(num("bytes", 0)), Suspect: d.HasArg("suspect"), Oversize: d.HasArg("oversize")}
		step(g)
		fmt.Fprintf(&out, "used %d", g.Used)
		if g.UsedBytes > 0 {
			fmt.Fprintf(&out, " bytes %d", g.UsedBytes)
		}
		if g.UsedSuspect {
			out.WriteString(" suspect")
		}
		if g.Full {
			out.WriteString(" full")
		}
		out.WriteString("\n")
	case "ack":
		a := &Ack{}
		for _, arg := range d.CmdArgs {
			tok := Token{Epoch: 1}
			if n, _ := fmt.Sscanf(arg.Key, "%d/%d", &tok.Offset, &tok.Lease); n == 2 {
				tok.Epoch = uint64(num("epoch", 1))
				a.Tokens = append(a.Tokens, tok)
			}
		}
		step(a)
		for _, tok := range a.Refused {
			fmt.Fprintf(&out, "refused %d/%d\n", tok.Offset, tok.Lease)
		}
	case "nack":
		step(Nack{Token: token(), Error: text("error"), After: ms(num("after", -1))})
	case "reject":
		step(Reject{Token: token(), Error: text("error"), Reason: Permanent})
	case "snooze":
		step(Snooze{Token: token(), Delay: ms(num("for", 0))})
	case "release":
		step(Release{Token: token()})
	case "extend":
		step(Extend{Token: token(), Until: tr.now.Add(ms(num("for", 0)))})
	case "redrive":
		key := uint64(0)
		if k := text("key"); k != "" {
			key = uint64(k[0])
		}
		m := Message{Offset: Offset(num("o", 0)), Key: key}
		tr.store.redrive(m)
		step(Redrive{Messages: []Message{m}})
	case "discard":
		delete(tr.store.held, Offset(num("o", 0)))
		step(Discard{Offsets: []Offset{Offset(num("o", 0))}})
	case "seek":
		step(Seek{To: Offset(num("to", 0))})
	case "grown":
		step(Grown{End: Offset(num("end", 0))})
	case "want":
		from, n := tr.p.Want()
		fmt.Fprintf(&out, "want %d from %d\n", n, from)
	case "at":
		tr.now = Instant(ms(atoi(d.CmdArgs[0].Key)))
		step(Tick{})
	case "reopen":
		tr.p = New(tr.cfg, tr.store.snapshot(), tr.now)
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	check(t, tr.p)
	r := tr.p.Ready(d.HasArg("flush"))
	printReady(&out, r, tr.now)
	tr.store.apply(r.Save)
	s := tr.p.Stats()
	fmt.Fprintf(&out, "floor=%d ready=%d leased=%d waiting=%d parked=%d above=%d", tr.p.Position(), s.Ready, s.Leased, s.Waiting, s.Parked, s.SettledAbove)
	if s.Held > 0 {
		fmt.Fprintf(&out, " held=%d", s.Held)
	}
	if at, ok := tr.p.Wake(); ok {
		fmt.Fprintf(&out, " wake=%v", time.Duration(at))
	}
	return out.String() + "\n"
}

func atoi(s string) int {
	n := 0
	fmt.Sscanf(s, "%d", &n)
	return n
}

func printReady(out *strings.Builder, r Ready, now Instant) {
	if s := r.Save; s.Needed {
		fmt.Fprintf(out, "save")
		if s.Reset {
			fmt.Fprint(out, " reset")
		}
		if s.FloorMoved {
			fmt.Fprintf(out, " floor=%d", s.Floor)
		}
		for _, b := range s.Blocks {
			fmt.Fprintf(out, " block %d=%v", b.Index, bits(b))
		}
		for _, f := range s.Failures {
			if f.Losses > 0 {
				fmt.Fprintf(out, " failure{%d attempts=%d losses=%d}", f.Offset, f.Attempts, f.Losses)
				continue
			}
			fmt.Fprintf(out, " failure{%d attempts=%d first=%q last=%q in=%v}", f.Offset, f.Attempts, f.FirstError, f.LastError, f.Due.Sub(now))
		}
		if len(s.DropFailures) > 0 {
			fmt.Fprintf(out, " drop-failures=%v", s.DropFailures)
		}
		if len(s.DropRedriven) > 0 {
			fmt.Fprintf(out, " drop-redriven=%v", s.DropRedriven)
		}
		if len(s.DropBlocks) > 0 {
			fmt.Fprintf(out, " drop-blocks=%v", s.DropBlocks)
		}
		for _, b := range s.Burials {
			fmt.Fprintf(out, " bury{%d %v attempts=%d first=%q last=%q redriven=%v", b.Offset, b.Reason, b.Attempts, b.FirstError, b.LastError, b.Redriven)
			if b.Held {
				fmt.Fprint(out, " held")
			}
			fmt.Fprint(out, "}")
		}
		fmt.Fprintln(out)
	}
	for _, d := range r.Deliver {
		fmt.Fprintf(out, "deliver %d/%d to %d attempt=%d", d.Offset, d.Lease, d.Session, d.Attempt)
		if d.Redriven {
			fmt.Fprint(out, " redriven")
		}
		fmt.Fprintln(out)
	}
}

func bits(b Block) (set []int64) {
	for i := range BlockSize {
		if b.Settled.Has(i) {
			set = append(set, b.Index*BlockSize+int64(i))
		}
	}
	return set
}

// store is what the saves amount to.
type store struct {
	floor    Offset
	blocks   map[int64]Bitmap
	failures map[Offset]Failure
	redriven map[Offset]Message
	held     map[Offset]Message
	dead     []Burial
	keyOf    func(Offset) uint64
}

func newStore() store {
	return store{blocks: map[int64]Bitmap{}, failures: map[Offset]Failure{}, redriven: map[Offset]Message{}, held: map[Offset]Message{}}
}

func (st *store) redrive(m Message) {
	delete(st.held, m.Offset)
	st.redriven[m.Offset] = m
}

func (st *store) apply(s Save) {
	if !s.Needed {
		return
	}
	st.floor = s.Floor
	if s.Reset {
		clear(st.blocks)
		clear(st.failures)
	}
	for _, b := range s.Blocks {
		st.blocks[b.Index] = b.Settled
	}
	for _, i := range s.DropBlocks {
		delete(st.blocks, i)
	}
	for _, f := range s.Failures {
		st.failures[f.Offset] = f
	}
	for _, o := range s.DropFailures {
		delete(st.failures, o)
	}
	for _, o := range s.DropRedriven {
		delete(st.redriven, o)
	}
	st.dead = append(st.dead, s.Burials...)
	for _, b := range s.Burials {
		if b.Held {
			st.held[b.Offset] = Message{Offset: b.Offset, Key: st.keyOf(b.Offset)}
		}
	}
}

func (st *store) snapshot() Snapshot {
	snap := Snapshot{Floor: st.floor}
	for i, b := range st.blocks {
		snap.Blocks = append(snap.Blocks, Block{Index: i, Settled: b})
	}
	for _, f := range st.failures {
		snap.Failures = append(snap.Failures, f)
	}
	for _, m := range st.redriven {
		snap.Redriven = append(snap.Redriven, m)
	}
	for _, m := range st.held {
		snap.Held = append(snap.Held, m)
	}
	return snap
}

// heldBy counts what holds keys, by key.
func heldBy(p *Partition) (n int) {
	for _, m := range p.heldKeys {
		n += m
	}
	return n
}

// check compares what the machine counts with a full scan, and its gates with its messages.
func check(t *testing.T, p *Partition) {
	t.Helper()
	var got Stats
	holders := map[uint64]int{}
	visit := func(o Offset, e *entry) {
		switch e.state {
		case ready:
			got.Ready++
		case leased:
			got.Leased++
			if e.key != NoKey && !e.reserved {
				t.Errorf("offset %d is leased without its gate", o)
			}
		case waiting:
			got.Waiting++
		case parked:
			got.Parked++
		case settled:
			if e.redriven {
				t.Errorf("redriven offset %d is settled and kept", o)
			}
		}
		if e.reserved {
			holders[e.key]++
			if g := p.gates.find(e.key); g == nil || g.holder != o {
				t.Errorf("offset %d thinks it holds the gate of %d: %v", o, e.key, g)
			}
		}
		if _, ok := p.failures[o]; ok != e.failed {
			t.Errorf("offset %d: failed=%v, in the map %v", o, e.failed, ok)
		}
	}
	for o, e := range p.redriven {
		visit(o, e)
	}
	for o := p.floor; o < p.cursor; o++ {
		if e := p.pages.entry(o); e == nil || e.state == settled {
			got.SettledAbove++
		} else {
			visit(o, e)
		}
	}
	if p.floor < p.cursor {
		if e := p.pages.entry(p.floor); e == nil || e.state == settled {
			t.Errorf("floor %d is settled", p.floor)
		}
	}
	got.Held = len(p.held)
	if len(p.held) != heldBy(p) {
		t.Errorf("%d dead letters hold keys, by key %v", len(p.held), p.heldKeys)
	}
	if got != p.count {
		t.Errorf("counted %+v, a scan finds %+v", p.count, got)
	}
	p.gates.each(func(key uint64, g *gate) {
		switch {
		case g.holder == none && (holders[key] > 0 || !p.isHeld(key) || g.head == none || p.find(g.head).redriven):
			t.Errorf("gate of %d is closed without need: %+v", key, g)
		case g.holder != none && holders[key] != 1:
			t.Errorf("gate of %d has %d holders", key, holders[key])
		}
		last := none
		for o := g.head; o != none; o = p.find(o).next {
			if e := p.find(o); e.state != parked || e.key != key || o <= last {
				t.Errorf("offset %d in the line of %d: %+v after %d", o, key, *e, last)
			}
			last = o
		}
		if last != g.tail {
			t.Errorf("the line of %d ends at %d, not %d", key, last, g.tail)
		}
	})
}
