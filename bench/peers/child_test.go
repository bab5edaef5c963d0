package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// family starts a shell that has a child of its own, which ignores what it is asked, and returns that one's id, too.
func family(t *testing.T) (*child, int) {
	t.Helper()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh")
	}
	c, err := startChild(t.TempDir(), program{name: "family", path: shell, args: []string{"-c", "trap '' INT; sleep 600 & echo $!; wait"}})
	if err != nil {
		t.Fatal(err)
	}
	var grandchild int
	err = c.ready(t.Context(), 10*time.Second, func() (err error) {
		grandchild, err = strconv.Atoi(strings.TrimSpace(c.output()))
		return err
	})
	if err != nil {
		c.kill()
		t.Fatal(err)
	}
	return c, grandchild
}

// gone waits until nothing of this id runs: what was killed is a zombie until its parent, or init, has seen it.
func gone(t *testing.T, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("it still runs"))
	defer cancel()
	eventually(t, ctx, func() bool {
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err == nil {
			_, rest, _ := strings.Cut(string(raw), ") ")
			return strings.HasPrefix(rest, "Z")
		}
		return syscall.Kill(pid, 0) != nil
	})
}

func TestKilledWithItsChildren(t *testing.T) {
	c, grandchild := family(t)
	c.kill()
	gone(t, c.pid)
	gone(t, grandchild)
}

func TestWaitEndsWithTheContext(t *testing.T) {
	c, grandchild := family(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.wait(ctx, 100*time.Millisecond); !errors.Is(err, context.Canceled) {
		t.Errorf("wait returned %v", err)
	}
	gone(t, grandchild)
}

func TestReadyTellsTheLastWords(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh")
	}
	c, err := startChild(t.TempDir(), program{name: "server", path: shell, args: []string{"-c", "echo the port is taken; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.kill()
	err = c.ready(t.Context(), time.Minute, func() error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "server ended") || !strings.Contains(err.Error(), "the port is taken") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("ready returned %v", err)
	}
}
