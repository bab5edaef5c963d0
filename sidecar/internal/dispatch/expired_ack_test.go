package dispatch

import (
	"errors"
	"testing"
	"time"
)

// TestALeaseThatWasGivenUpDoesNotAcknowledgeWhatExpired: the message was put off and expired meanwhile; its old token is not one that settled it.
func TestALeaseThatWasGivenUpDoesNotAcknowledgeWhatExpired(t *testing.T) {
	p := New(Config{
		Epoch: 1, Ordering: Unordered, MaxLosses: 8, Lookahead: 10, MaxUnsettled: 10, MaxParked: 10,
		Policy: Policy{Retry: Retry{MaxAttempts: 5, Initial: time.Second, Max: time.Second, Coefficient: 1}},
	}, Snapshot{}, 1)
	step := func(now Instant, ev Event) {
		t.Helper()
		if err := p.Step(now, ev); err != nil {
			t.Fatal(err)
		}
	}
	step(1, Grown{End: 1})
	step(1, Join{Session: 1, Until: Instant(time.Hour)})
	step(1, &Fetched{Messages: []Message{{Offset: 0, Size: 1, Expires: Instant(2 * time.Second)}}, Next: 1})
	step(1, &Grant{Session: 1, Messages: 1, Bytes: 10})
	token := Token{Epoch: 1, Offset: 0, Lease: p.Ready(false).Deliver[0].Lease}
	step(2, Nack{Token: token, After: 3 * time.Second})
	late := Instant(4 * time.Second)
	step(late, Tick{})
	step(late, &Grant{Session: 1, Messages: 1, Bytes: 10})
	if p.Tally().Expired != 1 {
		t.Fatal("the message did not expire")
	}
	ack := Ack{Tokens: []Token{token}}
	step(late, &ack)
	if len(ack.Refused) != 1 {
		t.Error("an acknowledgement of what expired was confirmed")
	}
	if err := p.Step(late, Nack{Token: token}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a nack of it: %v", err)
	}
}
