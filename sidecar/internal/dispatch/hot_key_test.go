package dispatch

import (
	"testing"
	"time"
)

// TestBlockedKeyStopsNoOther puts 100,000 messages behind a message of their key that waits for its next attempt, and has as many of other keys handled
// meanwhile. They wait in memory by their entries alone.
func TestBlockedKeyStopsNoOther(t *testing.T) {
	const behind = 100_000
	p := New(Config{
		Epoch: 1, Lookahead: 1024, MaxUnsettled: 200_000,
		Policy: Policy{Retry: Retry{MaxAttempts: 8, Initial: time.Hour, Max: time.Hour, Coefficient: 1}},
	}, Snapshot{}, 0)
	_ = p.Step(0, Join{Session: 1})
	_ = p.Step(0, Grown{End: 1 + 2*behind})
	handled := 0
	for {
		from, n := p.Want()
		f := &Fetched{Next: from}
		for ; len(f.Messages) < n && f.Next <= 2*behind; f.Next++ {
			key := uint64(1)
			if f.Next%2 == 1 {
				key = 2 + uint64(f.Next)%1000
			}
			f.Messages = append(f.Messages, Message{Offset: f.Next, Key: key})
		}
		_ = p.Step(0, f)
		_ = p.Step(0, &Grant{Session: 1, Messages: 256})
		delivered := p.Ready(false).Deliver
		if n == 0 && len(delivered) == 0 {
			break
		}
		var a Ack
		for _, d := range delivered {
			tok := Token{Epoch: 1, Offset: d.Offset, Lease: d.Lease}
			if d.Offset == 0 {
				_ = p.Step(0, Nack{Token: tok, Error: "blocked", After: -1})
				continue
			}
			a.Tokens = append(a.Tokens, tok)
		}
		handled += len(a.Tokens)
		_ = p.Step(0, &a)
	}
	if s := p.Stats(); handled != behind || s.Parked != behind || s.Waiting != 1 {
		t.Fatalf("%d messages of other keys were handled of %d: %+v", handled, behind, s)
	}
	check(t, p)
}

// TestFewMessagesKeepFewPages leaves one message in 300 unsettled: they are kept without the pages of their neighbours, and settle as any other.
func TestFewMessagesKeepFewPages(t *testing.T) {
	const total = 300_000
	p := New(Config{
		Epoch: 1, Ordering: Unordered, Lookahead: 1024, MaxUnsettled: 200_000,
		Policy: Policy{Retry: Retry{MaxAttempts: 8, Initial: time.Hour, Max: time.Hour, Coefficient: 1}},
	}, Snapshot{}, 0)
	_ = p.Step(0, Join{Session: 1})
	pump := func(now Instant) (acked []Token) {
		for {
			from, n := p.Want()
			f := &Fetched{Next: from}
			for ; len(f.Messages) < n && f.Next < total; f.Next++ {
				f.Messages = append(f.Messages, Message{Offset: f.Next})
			}
			_ = p.Step(now, f)
			_ = p.Step(now, &Grant{Session: 1, Messages: 256})
			delivered := p.Ready(false).Deliver
			if len(delivered) == 0 {
				return acked
			}
			var a Ack
			for _, d := range delivered {
				tok := Token{Epoch: 1, Offset: d.Offset, Lease: d.Lease}
				if now == 0 && d.Offset%300 == 0 {
					_ = p.Step(now, Snooze{Token: tok, Delay: time.Hour})
				} else {
					a.Tokens = append(a.Tokens, tok)
				}
			}
			_ = p.Step(now, &a)
			acked = append(acked, a.Tokens...)
		}
	}
	_ = p.Step(0, Grown{End: total})
	pump(0)
	if p.pages.used > packAbove+8 {
		t.Fatalf("%d pages for %d messages", p.pages.used, p.Stats().Waiting)
	}
	check(t, p)
	late := pump(Instant(2 * time.Hour))
	if p.Position() != total || len(late) != total/300 {
		t.Fatalf("position %d after %d late messages", p.Position(), len(late))
	}
	again := &Ack{Tokens: late[len(late)-1:]}
	_ = p.Step(0, again)
	if len(again.Refused) > 0 {
		t.Errorf("a repeated ack was refused: %v", again.Refused)
	}
	check(t, p)
}
