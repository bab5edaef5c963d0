package main

import "time"

// suite is all scenarios and how often each is measured. The quick one measures each once, for a moment, to see that all works: its figures say little.
func suite(all []scenario, quick bool) []planned {
	rounds := map[string]int{
		"raw-disk-1MiB": 5, "raw-disk-64KiB": 5, "raw-frames": 5, "raw-store": 5,
		"publish": 5, "batch": 5, "plain": 5, "queue": 5, "pubsub-1": 5, "pubsub": 5, "pubsub-16": 5,
		"nacks": 3, "publish-tcp": 3, "queue-tcp": 3, "raw-frames-tcp": 3, "publish-1000p": 3, "queue-1000p": 3, "queue-10t": 3, "queue-20c": 3,
		"latency-1k": 3, "latency-20k": 5, "latency-100k": 1, "delayed": 1, "backlog": 1, "idle": 1,
	}
	var plan []planned
	for _, c := range all {
		n := rounds[c.name]
		if n == 0 {
			n = 2
		}
		if quick {
			n = 1
		}
		plan = append(plan, planned{c, n})
	}
	return plan
}

// suited changes the settings for a suite.
func (s settings) suited(quick bool) settings {
	s.rounds, s.time, s.warmup = 5, 1500*time.Millisecond, 600*time.Millisecond
	if quick {
		s.rounds, s.time, s.warmup = 1, 500*time.Millisecond, 400*time.Millisecond
	}
	return s
}
