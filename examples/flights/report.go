package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
)

// event is what a line of a report tells.
type event string

const (
	departed event = "departed" // a departure is durable
	checked  event = "checked"  // the bags of a flight are durable
	handled  event = "handled"  // a handler is about to return nil
	failed   event = "failed"   // a handler is about to return an error
	repaired event = "repaired" // nothing is going to fail any more
)

// entry is one line of a report. All but repaired tell of a message.
type entry struct {
	event     event
	flight    string    // its id
	place     string    // of the message, "<partition>-<offset>"
	attempt   int       // 0 of a publisher
	at        time.Time // when the program wrote it, to the microsecond
	published time.Time // when the message became durable, to the millisecond; the zero time of a publisher's entry
}

// report writes what a process did, a line for each message. Lines leave the process within 50 ms. A report is safe for concurrent
// use; lines are in the order of the calls.
type report struct {
	out struct {
		sync.Mutex
		*bufio.Writer
		err error // the first
	}
	closing chan struct{}
	closed  chan struct{}
}

const flushInterval = 50 * time.Millisecond

// newReport returns a report that must be closed.
func newReport(w io.Writer) *report {
	r := &report{closing: make(chan struct{}), closed: make(chan struct{})}
	r.out.Writer = bufio.NewWriterSize(w, 64<<10)
	go r.flush()
	return r
}

// flush runs until the report is closed.
func (r *report) flush() {
	defer close(r.closed)
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-ticker.C:
		case <-r.closing:
			open = false
		}
		r.out.Lock()
		r.note(r.out.Flush())
		r.out.Unlock()
	}
}

func (r *report) published(what event, receipt mq.Receipt, f flight) {
	r.line(entry{event: what, flight: flightID(f.Number), place: place(receipt.Partition, receipt.Offset)}, f.Origin)
}

func (r *report) consumed(what event, m mq.Meta, flight, text string) {
	r.line(entry{event: what, flight: flight, place: place(m.Partition, m.Offset), attempt: int(m.Attempt), published: m.Published}, text)
}

// say writes a line that tells of no message.
func (r *report) say(what event) { r.line(entry{event: what, flight: "-", place: "-"}, "") }

// line writes an entry, with text for people.
func (r *report) line(e entry, text string) {
	r.out.Lock()
	defer r.out.Unlock()
	published := int64(0)
	if !e.published.IsZero() {
		published = e.published.UnixMilli()
	}
	_, err := fmt.Fprintf(r.out.Writer, "%s %s %s %d %d %d %s\n", e.event, e.flight, e.place, e.attempt, time.Now().UnixMicro(), published, text)
	r.note(err)
}

func (r *report) note(err error) {
	if r.out.err == nil {
		r.out.err = err
	}
}

// Close writes what is left and returns the first error of all writes.
func (r *report) Close() error {
	close(r.closing)
	<-r.closed
	return r.out.err
}

func place(partition uint32, offset int64) string { return fmt.Sprintf("%d-%d", partition, offset) }

// parseEntry reads a line of a report.
func parseEntry(line string) (entry, error) {
	fields := strings.SplitN(line, " ", 7)
	if len(fields) != 7 {
		return entry{}, fmt.Errorf("%q is no line of a report", line)
	}
	var numbers [3]int64
	for i := range numbers {
		n, err := strconv.ParseInt(fields[3+i], 10, 64)
		if err != nil {
			return entry{}, fmt.Errorf("%q is no line of a report: %w", line, err)
		}
		numbers[i] = n
	}
	e := entry{event: event(fields[0]), flight: fields[1], place: fields[2], attempt: int(numbers[0]), at: time.UnixMicro(numbers[1])}
	if numbers[2] != 0 {
		e.published = time.UnixMilli(numbers[2])
	}
	switch e.event {
	case departed, checked, handled, failed, repaired:
		return e, nil
	default:
		return entry{}, fmt.Errorf("%q is no line of a report", line)
	}
}
