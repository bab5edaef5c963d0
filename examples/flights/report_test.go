package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
)

func TestParseEntryReadsWhatAReportWrites(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	begin := time.Now().Truncate(time.Microsecond)
	durable := time.UnixMilli(1_700_000_000_123)
	r.published(departed, mq.Receipt{Partition: 3, Offset: 17}, flight{Number: 7, Origin: "SFO"})
	r.consumed(failed, mq.Meta{Partition: 4, Offset: 0, Attempt: 2, Published: durable}, "F000008", "no such gate")
	r.say(repaired)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	want := []entry{
		{event: departed, flight: "F000007", place: "3-17"},
		{event: failed, flight: "F000008", place: "4-0", attempt: 2, published: durable},
		{event: repaired, flight: "-", place: "-"},
	}
	if len(lines) != len(want) {
		t.Fatalf("wrote %d lines, should be %d:\n%s", len(lines), len(want), out.String())
	}
	for i, line := range lines {
		e, err := parseEntry(line)
		if err != nil {
			t.Fatal(err)
		}
		if e.at.Before(begin) || e.at.After(time.Now()) {
			t.Errorf("%q: the time is %v", line, e.at)
		}
		e.at = time.Time{}
		if e != want[i] {
			t.Errorf("%q was read as %+v, should be %+v", line, e, want[i])
		}
	}
}

func TestParseEntryRefusesOtherLines(t *testing.T) {
	for _, line := range []string{"", "panic: oh", "handled F000001 1-1 1 2", "handled F000001 1-1 x 2 3 text", "flown F000001 1-1 1 2 3 text"} {
		if e, err := parseEntry(line); err == nil {
			t.Errorf("%q was read as %+v", line, e)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestCloseTellsOfLinesThatWereNotWritten(t *testing.T) {
	r := newReport(brokenPipe{})
	r.say(repaired)
	if err := r.Close(); err == nil {
		t.Error("no error")
	}
}
