package dispatch

import (
	"math/rand/v2"
	"testing"
)

// TestGatesAreAMap: keys that collide, wrap around and go in any order are found as in a map.
func TestGatesAreAMap(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var gs gates
		twin := map[uint64]Offset{}
		keys := make([]uint64, 40+seed*20)
		for i := range keys {
			keys[i] = 1 + rng.Uint64N(1<<(6+seed*3))
			if i%3 == 0 { // of a hash close to the end of the table
				for hashOf(keys[i]) < 0xf0000000 {
					keys[i] = 1 + rng.Uint64()
				}
			}
		}
		most := 0
		for step := range 20_000 {
			key := keys[rng.IntN(len(keys))]
			g := gs.find(key)
			want, there := twin[key]
			switch {
			case (g != nil) != there || there && (g.holder != want || g.tail != want+1):
				t.Fatalf("seed %d, step %d: gate of %d is %v, want %d, %v", seed, step, key, g, want, there)
			case there && rng.IntN(2) == 0:
				gs.drop(key)
				delete(twin, key)
			case there:
				g.holder, g.tail = Offset(step), Offset(step)+1
				twin[key] = Offset(step)
			default:
				g = gs.add(key)
				if *g != (gate{none, none, none, none}) {
					t.Fatalf("seed %d, step %d: a new gate is %v", seed, step, *g)
				}
				g.holder, g.tail = Offset(step), Offset(step)+1
				twin[key] = Offset(step)
			}
			most = max(most, len(twin))
			if gs.count != len(twin) || len(gs.all) > most {
				t.Fatalf("seed %d, step %d: %d gates in a list of %d, want %d, at most %d", seed, step, gs.count, len(gs.all), len(twin), most)
			}
		}
		gs.each(func(key uint64, g *gate) {
			if want, there := twin[key]; !there || g.holder != want {
				t.Errorf("seed %d: visited %d, which is %v", seed, key, *g)
			}
			gs.drop(key)
			delete(twin, key)
		})
		if len(twin) != 0 || gs.count != 0 {
			t.Errorf("seed %d: %d were not visited, %d are left", seed, len(twin), gs.count)
		}
	}
}

// TestGatesOfManyKeysAreLetGo: what a burst of keys took is not kept.
func TestGatesOfManyKeysAreLetGo(t *testing.T) {
	var gs gates
	for key := range uint64(100_000) {
		gs.add(key + 1)
	}
	for key := range uint64(100_000) {
		gs.drop(key + 1)
	}
	if gs.slots != nil || gs.all != nil || gs.find(1) != nil {
		t.Errorf("%d slots and a list of %d are kept for nothing", len(gs.slots), len(gs.all))
	}
	if gs.add(1).holder != none || gs.find(1) == nil {
		t.Error("a key after that has no gate")
	}
}
