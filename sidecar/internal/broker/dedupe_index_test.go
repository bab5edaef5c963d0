package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestAnIndexMissesNothing: under random additions, removals and forgetting it names the segment of every id that a plain list has, with hashes that collide, and when
// the numbers of segments pass 2^32.
func TestAnIndexMissesNothing(t *testing.T) {
	for _, start := range []uint64{1, 1<<32 - 40, 3<<32 - 3} {
		for seed := range uint64(30) {
			t.Run(fmt.Sprintf("%d from %d", seed, start), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, start))
				type entry struct{ id, number uint64 }
				var all []entry
				x := newIDIndex(1)
				x.first, x.next = start, start
				now := int64(0)
				id := func() uint64 { return uint64(rng.IntN(500))<<32 | uint64(rng.IntN(4)) }
				check := func() {
					t.Helper()
					for _, e := range all {
						found := false
						for number := range func(yield func(uint64) bool) { x.candidates(e.id, yield) } {
							found = found || number == e.number
						}
						if !found {
							t.Fatalf("id %x of segment %d is not found; segments %d to %d", e.id, e.number, x.first, x.next)
						}
					}
					if x.used != len(all) {
						t.Fatalf("%d slots for %d ids", x.used, len(all))
					}
				}
				for range 200 {
					n := rng.IntN(60)
					for range n {
						e := entry{id(), x.next}
						x.add(e.id, e.number)
						all = append(all, e)
					}
					switch rng.IntN(4) {
					case 0: // the commit is refused
						for _, e := range slices.Backward(all[len(all)-n:]) {
							x.remove(e.id, e.number)
						}
						all = all[:len(all)-n]
					default:
						now += int64(rng.IntN(3000))
						x.wrote(x.next, now, 10*time.Second)
					}
					if first, marks := x.over(now, 20*time.Second); marks > 0 {
						x.marks = x.marks[marks:]
						x.forget(first)
						all = slices.DeleteFunc(all, func(e entry) bool { return e.number < first })
					}
					check()
				}
			})
		}
	}
}

// TestAnIndexIsSmall: 11 to 22 bytes for each id, also after most of them are forgotten.
func TestAnIndexIsSmall(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	x := newIDIndex(1)
	perID := func() float64 { return 8 * float64(len(x.slots)) / float64(x.used) }
	for number := range uint64(1000) {
		for range 1000 {
			x.add(rng.Uint64(), x.next)
		}
		x.wrote(x.next, int64(number), time.Minute)
		if number > 2 && (perID() > 22 || perID() < 10) {
			t.Fatalf("%d ids: %.1f bytes each", x.used, perID())
		}
	}
	x.forget(990)
	if x.used != 11_000 || perID() > 43 {
		t.Errorf("%d ids are left, of %.1f bytes each", x.used, perID())
	}
}

// TestAMalformedLedgerIsNoPanic: values that were cut or changed are refused.
func TestAMalformedLedgerIsNoPanic(t *testing.T) {
	id := newID{idOf: idOf{id: 7, content: 8}, route: &routed{order: []uint32{0}, parts: []part{{}}}}
	w := segmentWrite(1, 1, 5, []newID{id}, []engine.Append{{Log: engine.LogID{Partition: 3}}})
	segment := w.AddFirsts(w.Value, func(int) engine.Offset { return 11 })
	if got, err := parseSegment(segment); err != nil || len(got.ids) != 1 || got.ids[0] != (placedID{id: 7, content: 8, partition: 3, offset: 11}) {
		t.Errorf("%+v, %v", got, err)
	}
	p := &producer{answers: []answer{{number: 3, sum: 4, Placement: Placement{Partitions: []uint32{1}, Offsets: []int64{9}, Duplicates: []uint32{0}}}}}
	known := producerWrite([16]byte{}, p, nil, nil).Value
	if got, err := parseProducer(known); err != nil || len(got.answers) != 1 || got.answers[0].Offsets[0] != 9 || len(got.answers[0].Duplicates) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, value := range [][]byte{segment, known} {
		for n := range value {
			_, _ = parseSegment(value[:n])
			_, _ = parseProducer(value[:n])
			_, _, _ = scanSegment(value[:n], func(uint64) {})
			for bit := range 8 {
				bad := slices.Clone(value)
				bad[n] ^= 1 << bit
				_, _ = parseSegment(bad)
				_, _ = parseProducer(bad)
				_, _, _ = scanSegment(bad, func(uint64) {})
			}
		}
		if _, err := parseProducer(value[:len(value)-1]); err == nil {
			t.Error("a producer that was cut short was read")
		}
	}
}
