package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// idle measures what a sidecar uses that has a topic, a group and a connected consumer, and nothing to do; and what its etcd uses alone: the package of the sidecar that
// embeds it, in a process that has nothing else. What is beyond etcd is the difference; so the Go runtime, which both have, counts as etcd's.
func idle(ctx context.Context, s settings, _ string) ([]measured, error) {
	return s.with(ctx, func(c *sidecar) ([]measured, error) {
		client, err := c.client(ctx)
		if err != nil {
			return nil, err
		}
		var out []measured
		rest := &sink{}
		err = together(ctx, c.worker(client, workers, rest).Run, func(ctx context.Context) error {
			if err := jobsOne(client, c.content())(ctx, 0, 1000); err != nil {
				return err
			}
			if err := c.until(ctx, func() bool { return rest.handled.Load() >= 1000 }); err != nil {
				return err
			}
			cpu, memory, err := c.resting(ctx, c.pid())
			if err != nil {
				return err
			}
			out = append(out, measured{part: "cpu", unit: percentOfCore, value: cpu}, measured{part: "memory", unit: mebibytes, value: memory})
			if c.etcd == "" {
				return nil
			}
			etcdCPU, etcdMemory, err := c.etcdAlone(ctx)
			if err != nil {
				return fmt.Errorf("etcd alone: %w", err)
			}
			out = append(out,
				measured{part: "etcd cpu", unit: percentOfCore, value: etcdCPU}, measured{part: "etcd memory", unit: mebibytes, value: etcdMemory},
				measured{part: "beyond etcd cpu", unit: percentOfCore, value: max(0, cpu-etcdCPU)},
				measured{part: "beyond etcd memory", unit: mebibytes, value: max(0, memory-etcdMemory)})
			return nil
		})
		return out, err
	})
}

// until waits for a condition.
func (c *sidecar) until(ctx context.Context, ok func() bool) error {
	for deadline := time.Now().Add(arriveWithin); !ok(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("it did not come to rest within %v", arriveWithin)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// resting measures a process that has come to rest: its share of a core in percent, and its memory in MiB.
func (s settings) resting(ctx context.Context, pid int) (cpu, memory float64, err error) {
	// What it did before is cleared away: Go gives memory back, and connections fall silent.
	if err := sleep(ctx, s.time); err != nil {
		return 0, 0, err
	}
	before, err := process.CPU(pid)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := sleep(ctx, 3*s.time); err != nil {
		return 0, 0, err
	}
	after, err := process.CPU(pid)
	if err != nil {
		return 0, 0, err
	}
	took := time.Since(began)
	resident, err := process.Resident(pid)
	return 100 * (after - before).Seconds() / took.Seconds(), float64(resident) / (1 << 20), err
}

// etcdAlone measures the process of a test that runs nothing but the sidecar's etcd.
func (s settings) etcdAlone(ctx context.Context) (cpu, memory float64, err error) {
	dir, err := os.MkdirTemp(s.dir, "mqbench")
	if err != nil {
		return 0, 0, err
	}
	said := &tail{}
	ready := filepath.Join(dir, "ready")
	command := exec.CommandContext(ctx, s.etcd, "-test.run", "^TestMeasureIdle$")
	command.Env = append(os.Environ(), "ETCD_IDLE="+dir)
	command.Stdout, command.Stderr = said, said
	process.Bind(command)
	if err := command.Start(); err != nil {
		return 0, 0, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	for deadline := time.Now().Add(readyWithin); ; {
		if _, err := os.Stat(ready); err == nil {
			return s.resting(ctx, command.Process.Pid)
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("it was not ready within %v: %s", readyWithin, said)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
}
