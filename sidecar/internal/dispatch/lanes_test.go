package dispatch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestLaneTranscripts plays testdata/lanes/*: which lane goes next. Commands: new (lanes), publish (lane, n messages of size), join, grant (n, bytes), snooze
// (the last delivery, for ms), at (moves time and ticks).
func TestLaneTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/lanes", func(t *testing.T, path string) {
		var (
			l    *Lanes
			end  []Offset
			now  Instant
			last [2]int64 // lane and offset
		)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			num := func(key string, fallback int) int {
				if d.HasArg(key) {
					d.ScanArgs(t, key, &fallback)
				}
				return fallback
			}
			var out strings.Builder
			switch d.Cmd {
			case "new":
				var parts []*Partition
				for range num("lanes", 2) {
					parts = append(parts, New(Config{
						Epoch: 1, Ordering: Unordered, Lookahead: 1000, MaxUnsettled: 1000, Policy: Policy{Retry: Retry{MaxAttempts: 3}},
					}, Snapshot{}, 0))
				}
				l, end = NewLanes(parts...), make([]Offset, len(parts))
			case "publish":
				lane := num("lane", 0)
				f := &Fetched{}
				for range num("n", 1) {
					f.Messages = append(f.Messages, Message{Offset: end[lane], Size: uint32(num("size", 1))})
					end[lane]++
				}
				f.Next = end[lane]
				_ = l.Lane(lane).Step(now, f)
			case "join":
				_ = l.Step(now, Join{Session: 1})
			case "grant":
				g := &Grant{Session: 1, Messages: num("n", 1), Bytes: int64(num("bytes", 0))}
				if err := l.Grant(now, g); err != nil {
					return err.Error() + "\n"
				}
				for i := l.Len() - 1; i >= 0; i-- {
					if ds := l.Lane(i).Ready(false).Deliver; len(ds) > 0 {
						last = [2]int64{int64(i), int64(ds[0].Offset)}
						fmt.Fprintf(&out, "lane %d: %d from offset %d\n", i, len(ds), ds[0].Offset)
					}
				}
			case "snooze":
				err := l.Lane(int(last[0])).Step(now, Snooze{Token: Token{Epoch: 1, Offset: Offset(last[1]), Lease: 1}, Delay: time.Duration(num("for", 0)) * time.Millisecond})
				if err != nil {
					return err.Error() + "\n"
				}
				for i := range l.Len() {
					l.Lane(i).Ready(true)
				}
			case "at":
				now = Instant(ms(atoi(d.CmdArgs[0].Key)))
				_ = l.Step(now, Tick{})
			}
			n, size, _ := l.Leases(1)
			fmt.Fprintf(&out, "backlog=%d leased=%d bytes=%d", l.Backlog(), n, size)
			if at, ok := l.Wake(); ok {
				fmt.Fprintf(&out, " wake=%v", time.Duration(at))
			}
			return out.String() + "\n"
		})
	})
}
