package process_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// TestMeter: what is computed here counts here, what another process computes counts there.
func TestMeter(t *testing.T) {
	other := exec.Command("sh", "-c", "while :; do :; done")
	process.Bind(other)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	const spent = 20 * time.Millisecond
	used := process.Meter(other.Process.Pid)
	for deadline := time.Now().Add(30 * time.Second); used().Self < spent || used().Other < spent; {
		if time.Now().After(deadline) {
			t.Fatalf("after half a minute of work both processes have used %+v", used())
		}
	}
	idle := process.Meter(other.Process.Pid)
	if u := idle(); u.Self > time.Second || u.Other > time.Second {
		t.Errorf("a new meter begins with %+v", u)
	}
}

func TestResident(t *testing.T) {
	touched := make([]byte, 64<<20)
	for i := range touched {
		touched[i] = 1
	}
	got, err := process.Resident(os.Getpid())
	if err != nil || got < int64(len(touched)) || got > 16<<30 {
		t.Errorf("this process with %d bytes touched has %d resident: %v", len(touched), got, err)
	}
	if _, err := process.Resident(-1); err == nil {
		t.Error("no process has memory")
	}
}
