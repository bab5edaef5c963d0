package mqsql

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"regexp"
	"time"
)

// Option configures what it says, and has no effect on the rest.
type Option func(*options)

type options struct {
	dialect Dialect
	prefix  string
	log     *slog.Logger

	owner      string
	lease      time.Duration
	poll       time.Duration
	firstRetry time.Duration
	lastRetry  time.Duration
	timeout    time.Duration
	retention  time.Duration
	page       int
	lines      int

	window time.Duration
}

func newOptions(d Dialect, all []Option) *options {
	o := &options{
		dialect: d, prefix: "mq_", log: slog.Default(),
		lease: 10 * time.Second, poll: time.Second, firstRetry: 500 * time.Millisecond, lastRetry: time.Minute, timeout: 30 * time.Second,
		retention: 24 * time.Hour, page: 500, lines: 256,
		window: 14 * 24 * time.Hour,
	}
	o.add(all)
	if words[d] == nil {
		panic(fmt.Sprintf("mqsql: %v: must be PostgreSQL or SQLite", d))
	}
	if !prefixes.MatchString(o.prefix) {
		panic(fmt.Sprintf("mqsql: prefix %q: must be at most 40 letters, digits and underscores, perhaps after the name of a schema and a dot", o.prefix))
	}
	return o
}

func (o *options) add(all []Option) {
	for _, option := range all {
		option(o)
	}
}

var prefixes = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,40}\.)?([A-Za-z_][A-Za-z0-9_]{0,39})?$`)

// WithPrefix is what the names of tables begin with: letters, digits and underscores, in PostgreSQL also the name of a schema and a dot before them.
// Default: "mq_". Everything that works on the same tables has to be given the same. Whoever takes it makes sure of its form and panics otherwise.
func WithPrefix(prefix string) Option { return func(o *options) { o.prefix = prefix } }

// WithLogger is where relays and inboxes log. Default: slog.Default. Payloads, keys and headers are not logged.
func WithLogger(logger *slog.Logger) Option { return func(o *options) { o.log = logger } }

// WithRelayName names a relay. A relay takes its own name's lease over at once, so that a process that was killed and started again does not wait until its
// lease ends ([WithLease]). The name must be that of one process at a time, such as that of a pod of a stateful set. Default: a random one.
func WithRelayName(name string) Option { return func(o *options) { o.owner = name } }

// WithLease is how long after a relay was killed another one takes its place: at least 100 ms, default 10 seconds. It renews its lease three times in that.
func WithLease(d time.Duration) Option {
	return func(o *options) { o.lease = max(d, 100*time.Millisecond) }
}

// WithPoll is how often a relay looks for rows that other processes committed: at least 1 ms, default 1 second. It looks for those of its own process when they are there.
func WithPoll(d time.Duration) Option { return func(o *options) { o.poll = max(d, time.Millisecond) } }

// WithBackoff spaces the attempts of a relay to send a row that the sidecar refuses for the moment: the first wait, which doubles with each, and the longest. Each is
// cut at random by up to a half. Default: 500 ms and 1 minute.
func WithBackoff(first, longest time.Duration) Option {
	return func(o *options) {
		o.firstRetry = max(first, time.Millisecond)
		o.lastRetry = max(longest, o.firstRetry)
	}
}

// WithSendTimeout is how long a relay waits for the answer to one message before it turns to others: at least 1 ms, default 30 seconds. The message is sent again later.
func WithSendTimeout(d time.Duration) Option {
	return func(o *options) { o.timeout = max(d, time.Millisecond) }
}

// WithRetention is how long a relay keeps rows that were sent: 0 deletes them at once, a negative one keeps them for ever. Default: 24 hours.
func WithRetention(d time.Duration) Option { return func(o *options) { o.retention = d } }

// WithConcurrency is how many messages of different keys a relay sends at a time, 1 to 4,096. Default: 256. Messages of one key are sent one after the other.
func WithConcurrency(n int) Option { return func(o *options) { o.lines = min(max(n, 1), 4096) } }

// WithWindow is how long an inbox remembers what was handled: default 14 days, at least 1 minute. It has to be longer than a message can come again:
// the topic's retention, or how long messages of a queue may wait, and how long a relay may be away between sending a message and noting it.
func WithWindow(d time.Duration) Option { return func(o *options) { o.window = max(d, time.Minute) } }

// newID is 128 random bits in hexadecimal.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}
