package main

import (
	"math/rand/v2"
	"sort"
	"time"
)

const (
	defaultFlights   = 20_000
	generatedOrigins = 220
)

// generate returns flights that look like a quarter of a year of departures. The same count gives the same flights, and a
// smaller one the first of them, but for their schedule.
func generate(count int) []flight {
	random := rand.New(rand.NewPCG(2001, 1))
	busy := newTraffic(generatedOrigins)
	start := time.Date(2001, time.January, 1, 0, 0, 0, 0, time.UTC)
	const span = 90 * 24 * time.Hour

	all := make([]flight, count)
	for i := range all {
		from, to := busy.pick(random), busy.pick(random)
		if to == from {
			to = (from + 1) % generatedOrigins
		}
		all[i] = flight{
			Number:      i + 1,
			Scheduled:   start.Add(span / time.Duration(count) * time.Duration(i)).Format("2006/01/02 15:04"),
			Delay:       delay(random),
			Distance:    distance(from, to),
			Origin:      airport(from),
			Destination: airport(to),
		}
	}
	return all
}

// delay is in minutes. Most flights leave about on time, some a little late, and a twentieth by more than an hour.
func delay(random *rand.Rand) int {
	switch class := random.Float64(); {
	case class < 0.62:
		return int(random.NormFloat64()*5 - 4)
	case class < 0.90:
		return int(random.ExpFloat64() * 15)
	default:
		return min(20+int(random.ExpFloat64()*60), 520)
	}
}

// distance is in miles, the same both ways.
func distance(a, b int) int { return 60 + (min(a, b)*7919+max(a, b)*104_729)%2500 }

// airport is the three-letter code of an airport. The factor is odd and no multiple of 13, so that codes differ.
func airport(n int) string {
	n = (n*2747 + 1971) % (26 * 26 * 26)
	return string([]byte{byte('A' + n/676), byte('A' + n/26%26), byte('A' + n%26)})
}

// traffic chooses airports: the first is the busiest, by a twentieth of all flights.
type traffic struct{ upTo []float64 }

func newTraffic(airports int) traffic {
	t := traffic{make([]float64, airports)}
	sum := 0.0
	for i := range t.upTo {
		sum += 1 / float64(i+5)
		t.upTo[i] = sum
	}
	return t
}

func (t traffic) pick(random *rand.Rand) int {
	return sort.SearchFloat64s(t.upTo, random.Float64()*t.upTo[len(t.upTo)-1])
}
