package sim

import "testing"

// transaction tells of one that acknowledges uid 1, which was delivered under lease 1, and publishes uids 2 and 3 with the keys b and c.
func (s *story) transaction(r Result) {
	s.published(1, 1, "a", 0)
	s.join(1, 1)
	s.receive(sec, 1, 1, "a", 0, 1, 1)
	s.again(r)
}

func (s *story) again(r Result) {
	s.op++
	told := []Event{
		{Kind: Publish, UID: 2, Key: "b", Offset: noOffset}, {Kind: Publish, UID: 3, Key: "c", Offset: noOffset},
		{Kind: Settle, Group: "g", UID: 1, Key: "a", Epoch: 1, Lease: 1, Outcome: Acked},
	}
	for i := range told {
		told[i].Op, told[i].Tx = s.op, 7
		s.add(2*sec, told[i])
	}
	for i, e := range told {
		e.Kind, e.Result = Published, r
		switch {
		case i == 2:
			e.Kind = Settled
		case r == OK:
			e.Offset = int64(i) + 1
		}
		s.add(3*sec, e)
	}
}

// consumed tells that uids 2 and 3 were delivered and acknowledged.
func (s *story) consumed() {
	s.receive(4*sec, 1, 2, "b", 1, 1, 1)
	s.settle(4*sec, 2, "b", 1, 1, Acked, 0, OK)
	s.receive(4*sec, 1, 3, "c", 2, 1, 1)
	s.settle(4*sec, 3, "c", 2, 1, Acked, 0, OK)
}

// TestTheCheckerCatchesTransactions: a bad history for each way in which one can be cut in two.
func TestTheCheckerCatchesTransactions(t *testing.T) {
	one, two, three := Event{UID: 1, Key: "a", Offset: 0}, Event{UID: 2, Key: "b", Offset: 1}, Event{UID: 3, Key: "c", Offset: 2}
	for _, tc := range []struct {
		name      string
		invariant int // 0: the history is good
		tell      func(s *story)
	}{
		{"nothing in one that was confirmed", 0, func(s *story) {
			s.transaction(OK)
			s.consumed()
			s.finish(9*sec, 3, one, two, three)
		}},
		{"nothing in one that was applied, as nobody knew", 0, func(s *story) {
			s.transaction(Unknown)
			s.consumed()
			s.finish(9*sec, 3, one, two, three)
		}},
		{"nothing in one that was not", 0, func(s *story) {
			s.transaction(Unknown)
			s.receive(12*sec, 1, 1, "a", 0, 2, 1)
			s.settle(12*sec, 1, "a", 0, 2, Acked, 0, OK)
			s.finish(13*sec, 1, one)
		}},
		{"nothing in one that was refused", 0, func(s *story) {
			s.transaction(Fail)
			s.receive(12*sec, 1, 1, "a", 0, 2, 1)
			s.settle(12*sec, 1, "a", 0, 2, Acked, 0, OK)
			s.finish(13*sec, 1, one)
		}},
		{"records without each other", 13, func(s *story) {
			s.transaction(Unknown)
			s.receive(4*sec, 1, 2, "b", 1, 1, 1)
			s.settle(4*sec, 2, "b", 1, 1, Acked, 0, OK)
			s.finish(9*sec, 2, one, two)
		}},
		{"records without the acknowledgement", 13, func(s *story) {
			s.transaction(Unknown)
			s.consumed()
			s.receive(12*sec, 1, 1, "a", 0, 2, 1)
			s.settle(12*sec, 1, "a", 0, 2, Acked, 0, OK)
			s.finish(13*sec, 3, one, two, three)
		}},
		{"the acknowledgement without records", 1, func(s *story) {
			s.transaction(Unknown)
			s.finish(9*sec, 1, one)
		}},
		{"records of one that was refused", 13, func(s *story) {
			s.transaction(Fail)
			s.consumed()
			s.receive(12*sec, 1, 1, "a", 0, 2, 1)
			s.settle(12*sec, 1, "a", 0, 2, Acked, 0, OK)
			s.finish(13*sec, 3, one, two, three)
		}},
		{"a confirmed one without records", 13, func(s *story) {
			s.transaction(OK)
			s.finish(9*sec, 1, one)
		}},
		{"one that acknowledges what was acknowledged", 7, func(s *story) {
			s.published(1, 1, "a", 0)
			s.join(1, 1)
			s.receive(sec, 1, 1, "a", 0, 1, 1)
			s.settle(sec, 1, "a", 0, 1, Acked, 0, OK)
			s.again(OK)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := new(story)
			tc.tell(s)
			v := s.verdict(Everything)
			if tc.invariant == 0 {
				if len(v.Violations) > 0 {
					t.Fatalf("violations of a good history: %+v", v.Violations)
				}
				return
			}
			for _, x := range v.Violations {
				if x.Invariant == tc.invariant {
					return
				}
			}
			t.Errorf("not caught by invariant %d; found %+v", tc.invariant, v.Violations)
		})
	}
}
