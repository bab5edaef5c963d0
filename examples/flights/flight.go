package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// flight is one departure.
type flight struct {
	Number      int    // from 1, its place in the input
	Scheduled   string // "2001/01/01 00:47"
	Delay       int    // minutes, negative if early
	Distance    int    // miles
	Origin      string
	Destination string
}

// maxFlights bounds the input. A flight's number has six digits in its id.
const maxFlights = 999_999

// flightID is the id under which the flight of that number travels.
func flightID(number int) string { return fmt.Sprintf("F%06d", number) }

// flightNumber is the number in a flight's id, 0 if it is none.
func flightNumber(id string) int {
	digits, found := strings.CutPrefix(id, "F")
	n, err := strconv.Atoi(digits)
	if !found || len(digits) != 6 || err != nil || n < 1 {
		return 0
	}
	return n
}

// flights returns count flights from the file at path, or generated ones if path is empty. A count of 0 stands for all of the
// file, or for 20,000.
func flights(path string, count int) ([]flight, error) {
	switch {
	case count < 0 || count > maxFlights:
		return nil, fmt.Errorf("count %d: must be 0 to %d", count, maxFlights)
	case path == "" && count == 0:
		return generate(defaultFlights), nil
	case path == "":
		return generate(count), nil
	}
	all, err := readFlights(path)
	if err != nil {
		return nil, err
	}
	if count > len(all) {
		return nil, fmt.Errorf("count %d: %s has %d flights", count, path, len(all))
	}
	if count > 0 {
		all = all[:count]
	}
	return all, nil
}

// readFlights reads a JSON array of {date, delay, distance, origin, destination}.
func readFlights(path string) ([]flight, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rows []struct {
		Date        string `json:"date"`
		Delay       int    `json:"delay"`
		Distance    int    `json:"distance"`
		Origin      string `json:"origin"`
		Destination string `json:"destination"`
	}
	if err := json.Unmarshal(content, &rows); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) == 0 || len(rows) > maxFlights {
		return nil, fmt.Errorf("%s has %d flights: must be 1 to %d", path, len(rows), maxFlights)
	}
	all := make([]flight, len(rows))
	for i, row := range rows {
		if row.Origin == "" {
			return nil, fmt.Errorf("%s: flight %d has no origin", path, i+1)
		}
		all[i] = flight{i + 1, row.Date, row.Delay, row.Distance, row.Origin, row.Destination}
	}
	return all, nil
}

// byOrigin splits flights by their origin and keeps the order within each.
func byOrigin(all []flight) map[string][]flight {
	origins := make(map[string][]flight)
	for _, f := range all {
		origins[f.Origin] = append(origins[f.Origin], f)
	}
	return origins
}
