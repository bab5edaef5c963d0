package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// shell starts a script whose lines come out of the channel.
func shell(t *testing.T, script string, ended func(*process)) (*process, <-chan string) {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh")
	}
	lines := make(chan string, 10)
	p, err := start(t.TempDir(), program{
		name: "script", path: path, args: []string{"-c", script}, ended: ended,
		read: func(line string) error { lines <- line; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p, lines
}

func TestStopLetsAProcessDrain(t *testing.T) {
	p, lines := shell(t, `trap 'echo drained; exit 0' TERM; while read line; do echo "$line"; done`, func(*process) { t.Error("ended by itself") })
	if err := p.say("hello"); err != nil {
		t.Fatal(err)
	}
	if echo := <-lines; echo != "hello" {
		t.Fatal(echo)
	}
	if err := p.stop(time.Minute); err != nil {
		t.Error(err)
	}
	if last := <-lines; last != "drained" {
		t.Errorf("its last line is %q", last)
	}
}

func TestStopKillsAProcessThatDoesNotDrain(t *testing.T) {
	p, lines := shell(t, `trap '' TERM; echo up; while read line; do :; done`, nil)
	<-lines
	if err := p.stop(time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not stop") {
		t.Errorf("the error is %v", err)
	}
	<-p.done
}

func TestAProcessThatEndsByItselfIsNoticed(t *testing.T) {
	ended := make(chan *process, 1)
	_, _ = shell(t, `echo last words >&2; exit 3`, func(p *process) { ended <- p })
	p := <-ended
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("the error is %v", p.err)
	}
	if words := p.lastWords(); words != "last words\n" {
		t.Errorf("last words %q", words)
	}
}

func TestProgressShowsALineASecond(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out}
	p.begin()
	c := counts{departed: 12_345, checked: 12_400, handled: map[string]int{"board": 7, "rebooking": 1_000, "baggage": 1_000_000}, failed: 12}
	p.show(c, services())
	p.show(c, services())
	if want := "published 12,345  board 7  rebooking 1,000  baggage 1,000,000  failed attempts 12\n"; !strings.HasSuffix(out.String(), want) ||
		strings.Count(out.String(), "\n") != 1 {
		t.Errorf("shown:\n%s", out.String())
	}
}
