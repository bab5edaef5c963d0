package main

import (
	"fmt"
	"slices"
	"strings"
)

// compare tells what of a stock is missing or different in another one, in lines that begin with the place it is about, "topic/partition: " or
// "group of topic/partition: ".
func (s *stock) compare(now *stock) (differ []string) {
	differ = append(differ, compareLogs(words, s.words, now.words)...)
	differ = append(differ, compareLogs(tasks, s.tasks, now.tasks)...)
	for place, was := range s.bounds {
		if is := now.bounds[place]; is != was {
			differ = append(differ, fmt.Sprintf("%s: goes from %q and went from %q", place, is, was))
		}
	}
	type shard struct {
		group, topic string
		partition    uint32
	}
	positions := map[shard]standing{}
	for _, p := range now.positions {
		positions[shard{p.group, p.topic, p.partition}] = p
	}
	for _, was := range s.positions {
		is, ok := positions[shard{was.group, was.topic, was.partition}]
		switch {
		case !ok:
			differ = append(differ, fmt.Sprintf("%s of %s/%d: is gone", was.group, was.topic, was.partition))
		case is.position != was.position || is.end != was.end || is.lag != was.lag || is.dead != was.dead || is.fault != was.fault:
			differ = append(differ, fmt.Sprintf("%s of %s/%d: stands at %d of %d with %d to go and %d dead letters, and stood at %d of %d with %d and %d; fault %q",
				was.group, was.topic, was.partition, is.position, is.end, is.lag, is.dead, was.position, was.end, was.lag, was.dead, is.fault))
		}
	}
	for _, was := range s.dead {
		if !slices.Contains(now.dead, was) {
			differ = append(differ, fmt.Sprintf("%s of %s/%d: dead letter of uid %d at %d is gone or different", was.group, was.topic, was.partition, was.uid, was.offset))
		}
	}
	for _, is := range now.dead {
		if !slices.Contains(s.dead, is) {
			differ = append(differ, fmt.Sprintf("%s of %s/%d: dead letter of uid %d at %d was not there so", is.group, is.topic, is.partition, is.uid, is.offset))
		}
	}
	for _, was := range s.scheduled {
		if !slices.Contains(now.scheduled, was) {
			differ = append(differ, "schedule: "+was+" is gone")
		}
	}
	for _, is := range now.scheduled {
		if !slices.Contains(s.scheduled, is) {
			differ = append(differ, "schedule: "+is+" was not there so")
		}
	}
	slices.Sort(differ)
	return differ
}

func compareLogs(topic string, was, is []stored) (differ []string) {
	type spot struct {
		partition uint32
		offset    int64
	}
	there := map[spot]stored{}
	for _, m := range is {
		there[spot{m.partition, m.offset}] = m
	}
	gone := map[uint32]int{}
	for _, m := range was {
		now, ok := there[spot{m.partition, m.offset}]
		delete(there, spot{m.partition, m.offset})
		switch {
		case !ok:
			gone[m.partition]++
		case now != m:
			differ = append(differ, fmt.Sprintf("%s/%d: offset %d holds uid %d (as published: %v) and held uid %d", topic, m.partition, m.offset, now.uid, now.good, m.uid))
		}
	}
	for p, n := range gone {
		differ = append(differ, fmt.Sprintf("%s/%d: %d messages are gone", topic, p, n))
	}
	for at, m := range there {
		differ = append(differ, fmt.Sprintf("%s/%d: offset %d holds uid %d and was not there", topic, at.partition, at.offset, m.uid))
	}
	return differ
}

// unsaid is those differences of which the sidecar says nothing: no fault where they are, and no line in its log that covers them.
func (s *stock) unsaid(differ []string, log string) (left []string) {
	whole := map[string]error{words: s.wordsFault, tasks: s.tasksFault}
	// This line says of all groups that their state may be old, and that logs that came back short are quarantined.
	old := strings.Contains(log, "acknowledged commits are missing from the store")
	for _, d := range differ {
		place, what, _ := strings.Cut(d, ": ")
		group, partition, ofGroup := strings.Cut(place, " of ")
		if !ofGroup {
			partition = place
		}
		topic, _, _ := strings.Cut(partition, "/")
		said := slices.ContainsFunc(s.faults, func(f string) bool {
			return strings.HasPrefix(f, place+": ") || strings.HasPrefix(f, partition+": ") || group == "schedule" && strings.HasPrefix(f, "schedule: ") ||
				strings.HasPrefix(f, "dead letters of "+group+": ") && ofGroup
		})
		switch {
		case said:
		case old && (ofGroup || group == "schedule"):
		case whole[topic] != nil && !ofGroup && strings.HasSuffix(what, "messages are gone"): // not read, because another partition cannot be
		default:
			left = append(left, d)
		}
	}
	return left
}
