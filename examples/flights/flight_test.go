package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlightNumberReadsWhatFlightIDWrites(t *testing.T) {
	for _, n := range []int{1, 42, maxFlights} {
		if got := flightNumber(flightID(n)); got != n {
			t.Errorf("flight %d came back as %d", n, got)
		}
	}
	for _, id := range []string{"", "F", "F12", "F000000", "X000001", "F-00001", "F0000012", "F00000x"} {
		if n := flightNumber(id); n != 0 {
			t.Errorf("%q was read as flight %d", id, n)
		}
	}
}

func TestFlightsOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flights.json")
	content := `[{"date":"2001/01/01 00:47","delay":66,"distance":1750,"origin":"DTW","destination":"LAS"},
		{"date":"2001/01/01 01:10","delay":-5,"distance":2399,"origin":"HNL","destination":"SFO"}]`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := flights(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := (flight{2, "2001/01/01 01:10", -5, 2399, "HNL", "SFO"}); len(all) != 2 || all[1] != want {
		t.Errorf("read %v, should be 2 flights, the second %v", all, want)
	}
	if first, err := flights(path, 1); err != nil || len(first) != 1 {
		t.Errorf("asked for one flight, got %v and %v", first, err)
	}
	if _, err := flights(path, 3); err == nil || !strings.Contains(err.Error(), "has 2 flights") {
		t.Errorf("asked for more flights than the file has, got the error %v", err)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for content, want := range map[string]string{
		`[]`:             "has 0 flights",
		`{`:              "unexpected end",
		`[{"delay":1}]`:  "has no origin",
		`[{"delay":"x"}`: "unexpected end",
	} {
		path := filepath.Join(t.TempDir(), "flights.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := flights(path, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, should tell of %q", content, err, want)
		}
	}
	if _, err := flights("", -1); err == nil {
		t.Error("a negative count is accepted")
	}
}

func TestGeneratedFlightsLookLikeRealOnes(t *testing.T) {
	all := generate(defaultFlights)
	origins := byOrigin(all)
	late, sum, busiest := 0, 0, 0
	for i, f := range all {
		if f.Number != i+1 || f.Origin == f.Destination || f.Distance < 60 || f.Scheduled < "2001/01/01" || f.Scheduled > "2001/04/01" {
			t.Fatalf("flight %d is %+v", i+1, f)
		}
		if f.Delay > 60 {
			late++
		}
		sum += f.Distance
	}
	for _, list := range origins {
		busiest = max(busiest, len(list))
	}
	// The totals are part of what the demo prints: they change only on purpose.
	if len(all) != 20_000 || len(origins) != generatedOrigins || late != 1131 || busiest > 1200 || busiest < 900 {
		t.Errorf("%d flights, %d origins, %d late, %d from the busiest", len(all), len(origins), late, busiest)
	}
	if again := generate(defaultFlights); again[19_999] != all[19_999] || again[0] != all[0] {
		t.Error("the same count gave other flights")
	}
}

func TestAirportsDiffer(t *testing.T) {
	seen := make(map[string]int)
	for n := range generatedOrigins {
		code := airport(n)
		if other, twice := seen[code]; twice {
			t.Errorf("airports %d and %d are both %s", other, n, code)
		}
		seen[code] = n
	}
}
