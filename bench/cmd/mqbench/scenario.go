package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// scenario is one thing that is measured.
type scenario struct {
	name  string
	about string
	base  string          // the scenario that its result is compared with; empty for none
	set   func(*settings) // what it does not leave to the user; nil for nothing
	measure
}

// measure measures once, on a store of its own. A name is for files.
type measure func(ctx context.Context, s settings, name string) ([]measured, error)

// measured is one result of one round. CPU is what one of the unit's things costs, in nanoseconds, or 0.
type measured struct {
	part            string // of the scenario, if it has several results
	unit            string
	value           float64
	client, sidecar float64
	turn            int    // of several that the scenario has itself
	base            string // what it is compared with, if the scenario does not say it
}

// only is a round with one result, or none if there is an error.
func only(m measured, err error) ([]measured, error) {
	if err != nil {
		return nil, err
	}
	return []measured{m}, nil
}

// The units.
const (
	perSecond           = "messages/s"
	deliveriesPerSecond = "deliveries/s"
	milliseconds        = "ms"
	mebibytes           = "MiB"
	mebibytesPerSecond  = "MiB/s"
	percentOfCore       = "% of a core"
)

// catalogue is all scenarios there are, in the order of the table.
func catalogue() []scenario {
	all := []scenario{
		{name: "raw-disk-1MiB", about: "writes of 1 MiB to a file, each synced", measure: rawDisk(1 << 20)},
		{name: "raw-disk-64KiB", about: "writes of 64 KiB to a file, each synced", measure: rawDisk(64 << 10)},
		{name: "raw-frames", about: "Connect frames with the bytes of 256 records, and nothing else", measure: rawFrames},
		{name: "raw-store", about: "chunks of 256 records into Pebble, each synced, and nothing else", measure: rawStore},
		{name: "publish", about: "8 callers of PublishAsync, 1,024 messages each on their way", measure: publishOnly(callers, settings.batch, jobsAsync)},
		{name: "batch", about: "8 callers of PublishBatch with 1,024 messages", base: "publish", measure: publishOnly(callers, settings.batch, jobsBatched)},
		{name: "plain", about: "64 goroutines that call Publish, one message at a time", measure: publishOnly(64, single, jobsOne)},
		{name: "queue", about: "published and handled at once by one group of a QUEUE", measure: endToEnd(queueFlow)},
		{name: "pubsub-1", about: "published and handled at once by 1 group", base: "queue", measure: endToEnd(fan(1))},
		{name: "pubsub", about: "published and handled at once by 4 groups", base: "pubsub-1", measure: endToEnd(fan(4))},
		{name: "pubsub-16", about: "published and handled at once by 16 groups", base: "pubsub-1", measure: endToEnd(fan(16))},
		{name: "nacks", about: "queue, with 1 in 1,000 calls of the handler failing", base: "queue", measure: endToEnd(queueFlow.failing(1000))},
	}
	tcp := func(s *settings) { s.tcp = true }
	all = append(all,
		scenario{name: "publish-tcp", about: "publish, over TCP", base: "publish", set: tcp, measure: publishOnly(callers, settings.batch, jobsAsync)},
		scenario{name: "queue-tcp", about: "queue, over TCP", base: "queue", set: tcp, measure: endToEnd(queueFlow)},
	)
	all = append(all,
		scenario{name: "raw-frames-tcp", about: "raw-frames, over TCP", base: "raw-frames", set: tcp, measure: rawFrames},
		scenario{name: "publish-1000p", about: "publish, to 1,000 partitions", base: "publish", measure: publishOnly(callers, settings.batch, wideAsync)},
		scenario{name: "queue-1000p", about: "queue, of 1,000 partitions", base: "queue", measure: endToEnd(wideFlow)},
		scenario{name: "queue-10t", about: "queue, over 10 topics", base: "queue", measure: endToEnd(tenTopics)},
		scenario{name: "queue-20c", about: "queue, from 10 connections to 10 others", base: "queue", measure: manyToMany(queueFlow, 10)},
	)
	oneKey := func(s *settings) { s.keys = 1 }
	all = append(all,
		scenario{name: "publish-1key", about: "publish, all messages of one key", base: "publish", set: oneKey, measure: publishOnly(callers, settings.batch, jobsAsync)},
		scenario{name: "queue-1key", about: "queue, all messages of one key: one is handled at a time", base: "queue", set: oneKey, measure: endToEnd(queueFlow)},
		scenario{name: "publish-nokey", about: "publish, to a topic without keys", base: "publish", measure: publishOnly(callers, settings.batch, looseAsync)},
		scenario{name: "queue-nokey", about: "queue, of a topic without keys", base: "queue", measure: endToEnd(looseFlow)},
	)
	for _, size := range []struct {
		name  string
		bytes int
	}{{"64B", 64}, {"4KiB", 4 << 10}, {"64KiB", 64 << 10}} {
		set := func(s *settings) { s.size = size.bytes }
		all = append(all,
			scenario{name: "publish-" + size.name, about: "publish, bodies of " + size.name, base: "publish", set: set, measure: publishOnly(callers, settings.batch, jobsAsync)},
			scenario{name: "queue-" + size.name, about: "queue, bodies of " + size.name, base: "queue", set: set, measure: endToEnd(queueFlow)},
		)
	}
	for _, rate := range []int{1000, 20_000, 100_000} {
		name := fmt.Sprintf("latency-%dk", rate/1000)
		all = append(all, scenario{name: name, about: fmt.Sprintf("from when a message is to be published until its handler has it, at %d/s", rate), measure: latency(rate)})
	}
	return append(all,
		scenario{name: "delayed", about: "messages (-delayed) that are scheduled, and then all due at once", measure: delayedAll},
		scenario{name: "backlog", about: "queue on top of a backlog (-backlog), which is drained afterwards", measure: backlogged},
		scenario{name: "idle", about: "a sidecar with a connected consumer and nothing to do", measure: idle},
	)
}

// choose returns the scenarios of a list of names.
func choose(all []scenario, names string) ([]scenario, error) {
	var out []scenario
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(c scenario) bool { return c.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("-run: there is no scenario %q; mqbench -list names them", name)
		}
		out = append(out, all[i])
	}
	return out, nil
}
