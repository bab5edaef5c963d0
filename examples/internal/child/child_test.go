package child

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// shell starts a script whose lines come out of the channel.
func shell(t *testing.T, script string, ended func(*Process)) (*Process, <-chan string) {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh")
	}
	lines := make(chan string, 10)
	p, err := Start(t.TempDir(), Program{
		Name: "script", Path: path, Args: []string{"-c", script}, Ended: ended,
		Read: func(line string) error { lines <- line; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p, lines
}

func TestStopLetsAProcessDrain(t *testing.T) {
	p, lines := shell(t, `trap 'echo drained; exit 0' TERM; while read line; do echo "$line"; done`, func(*Process) { t.Error("ended by itself") })
	if err := p.Say("hello"); err != nil {
		t.Fatal(err)
	}
	if echo := <-lines; echo != "hello" {
		t.Fatal(echo)
	}
	if err := p.Stop(time.Minute); err != nil {
		t.Error(err)
	}
	if last := <-lines; last != "drained" {
		t.Errorf("its last line is %q", last)
	}
}

func TestStopKillsAProcessThatDoesNotDrain(t *testing.T) {
	p, lines := shell(t, `trap '' TERM; echo up; while read line; do :; done`, nil)
	<-lines
	if err := p.Stop(time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not stop") {
		t.Errorf("the error is %v", err)
	}
	<-p.Done()
}

func TestAProcessThatEndsByItselfIsNoticed(t *testing.T) {
	ended := make(chan *Process, 1)
	_, _ = shell(t, `echo last words >&2; exit 3`, func(p *Process) { ended <- p })
	p := <-ended
	var exit *exec.ExitError
	if !errors.As(p.Err(), &exit) || exit.ExitCode() != 3 {
		t.Errorf("the error is %v", p.Err())
	}
	if words := p.LastWords(); words != "last words\n" {
		t.Errorf("last words %q", words)
	}
}
