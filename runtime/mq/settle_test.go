package mq

import (
	"bytes"
	"slices"
	"testing"
)

// TestTakenAcknowledgementsAreNotOverwritten: the space of one call's tokens is that of a later call's, but not while it is under way, however often
// settle is woken for nothing.
func TestTakenAcknowledgementsAreNotOverwritten(t *testing.T) {
	s := &session{consumer: &consumer{}, wake: make(chan struct{}, 1)}
	next := int64(0)
	var want []byte
	report := func(n int) {
		for range n {
			s.reportLocked(&delivery{token: (*[tokenBytes]byte)(token(next))}, nil)
			want = append(want, token(next)...)
			next++
		}
	}
	var got, spare []byte
	take := func(meanwhile int) int {
		batch, _ := s.take(spare)
		copied := slices.Clone(batch.acks)
		report(meanwhile)
		if !bytes.Equal(batch.acks, copied) {
			t.Fatalf("%d acknowledgements were overwritten", batch.count())
		}
		got = append(got, batch.acks...)
		if len(batch.acks) > 0 {
			spare = batch.acks[:0]
		}
		return batch.count()
	}
	for _, n := range []int{1, 3, 700, 2, maxSettledAcks + 5, 9, 1} {
		report(n)
		take(2)
		for take(0) > 0 {
		}
		take(3) // there is nothing
		take(3)
	}
	for {
		batch, _ := s.take(nil)
		if got = append(got, batch.acks...); batch.count() == 0 {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d tokens were taken of %d, or others", len(got)/tokenBytes, len(want)/tokenBytes)
	}
}

// TestHandledFindsTheLastOfEachMessage against a map.
func TestHandledFindsTheLastOfEachMessage(t *testing.T) {
	table, twin := newHandled(20), make(map[place]*delivery)
	for i := range 20_000 {
		p := place{partition: uint32(i * 7 % 3), priority: uint32(i * 5 % 2), offset: int64(i * i % 97)}
		if table.find(p) != twin[p] {
			t.Fatalf("%v: the table and the map differ", p)
		}
		if d := twin[p]; d != nil {
			table.remove(d)
			table.remove(d) // it is not there any more
			delete(twin, p)
		} else {
			twin[p] = &delivery{place: p}
			table.add(twin[p])
		}
	}
	if len(twin) < 50 {
		t.Fatalf("only %d messages are left", len(twin))
	}
}
