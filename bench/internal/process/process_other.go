//go:build !linux

package process

import (
	"os/exec"
	"time"
)

// CPU is the processor time that a process has used. It is not known here.
func CPU(int) (time.Duration, error) { return 0, ErrUnknown }

// Resident is the memory, in bytes, that a process has in RAM. It is not known here.
func Resident(int) (int64, error) { return 0, ErrUnknown }

// Bind makes a command end with this process where the system can.
func Bind(*exec.Cmd) {}

// InMemory reports whether a directory is on a file system that keeps its files in memory. It is not known here.
func InMemory(string) bool { return false }

// Free is how many bytes there is room for on the file system of a directory. It is not known here.
func Free(string) (int64, error) { return 0, ErrUnknown }

// Machine describes this machine. It is not known here.
func Machine() (processor string, memory int64, kernel string) { return "", 0, "" }
