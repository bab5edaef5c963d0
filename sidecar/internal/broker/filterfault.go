package broker

import (
	"sync"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

// filterWarnEvery is how often a group's log tells at most that its filter fails in a topic.
const filterWarnEvery = time.Minute

// filterFaults is what the log was not told yet of a filter that fails at run time. It is safe for concurrent use.
type filterFaults struct {
	mu struct {
		sync.Mutex
		count int64            // since the last warning
		next  dispatch.Instant // no warning before
	}
}

// note counts a failure. It returns how many there were since the last warning if another one is due, else 0.
func (f *filterFaults) note(now dispatch.Instant) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.count++
	if now < f.mu.next {
		return 0
	}
	n := f.mu.count
	f.mu.count, f.mu.next = 0, now.Add(filterWarnEvery)
	return n
}

// filterFailed counts a message that the group's filter failed with and so refused, and warns of it: an operator would not see that messages are missing.
func (sv *serving) filterFailed(o dispatch.Offset, err error) {
	sv.counted.FilterErrors++
	if n := sv.group.faults.note(sv.broker.now()); n > 0 {
		sv.broker.log.Warn("a filter failed, which refuses the message", "group", sv.group.name, "topic", sv.group.topic.decl.Name,
			"partition", sv.partition, "offset", o, "error", clip(err.Error()), "count", n)
	}
}
