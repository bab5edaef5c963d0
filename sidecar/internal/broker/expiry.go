package broker

import (
	"time"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

// expiry tells when records are not worth a delivery any more.
type expiry struct {
	ttl    time.Duration // the topic's, 0 for none
	origin time.Time     // the time of day at instant 0
}

// expiry is that of the topic as it is declared now.
func (sv *serving) expiry() expiry {
	decl := sv.group.topic.decl
	if t, err := sv.broker.topic(sv.group.topicName()); err == nil {
		decl = t.decl
	}
	return expiry{ttl: decl.TTL, origin: sv.broker.wall().Add(-time.Duration(sv.broker.now()))}
}

// of is when a record expires that entered the log at a time, 0 for never. The shorter of the topic's and its own bound counts.
func (e expiry) of(appendMS int64, ownMS uint64) dispatch.Instant {
	ttl := e.ttl
	if ownMS > 0 {
		own := time.Duration(min(ownMS, uint64(topic.MaxAge/time.Millisecond))) * time.Millisecond
		if ttl == 0 || own < ttl {
			ttl = own
		}
	}
	if ttl == 0 {
		return 0
	}
	return max(1, dispatch.Instant(time.UnixMilli(appendMS).Add(ttl).Sub(e.origin)))
}
