package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// window runs work, lets it warm up, and measures how fast count grows and what that costs. Work goes on until its context ends; if it ends before, its error is returned.
// What its count is of is the unit.
func (c *sidecar) window(ctx context.Context, name, unit string, count func() int64, work func(context.Context) error) (measured, error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- work(running) }()
	if err := c.pause(ctx, c.warmup, done); err != nil {
		return measured{}, err
	}
	stop, err := c.profiles(name)
	if err != nil {
		return measured{}, errors.Join(err, end(cancel, done))
	}
	from, began, used := count(), time.Now(), process.Meter(c.pid())
	waited := c.pause(ctx, c.time, done)
	n, took, spent := float64(count()-from), time.Since(began), used()
	if err := errors.Join(stop(), waited); err != nil {
		return measured{}, err
	}
	if err := end(cancel, done); err != nil {
		return measured{}, err
	}
	if n == 0 {
		return measured{}, fmt.Errorf("%s: nothing happened within %v", name, took)
	}
	return measured{unit: unit, value: n / took.Seconds(), client: each(spent.Self, n), sidecar: each(spent.Other, n)}, nil
}

// end has the work end, and returns its error, if it is another than that it had to end.
func end(cancel context.CancelFunc, done chan error) error {
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// pause waits. It returns an error if the context, the work or the sidecar ends before.
func (c *sidecar) pause(ctx context.Context, d time.Duration, done chan error) error {
	select {
	case <-time.After(d):
		return nil
	case err := <-done:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.Join(errors.New("it ended early"), err)
	case <-c.exited:
		return c.gone()
	case <-ctx.Done():
		<-done
		return context.Cause(ctx)
	}
}

// each is the share of one of n, in nanoseconds.
func each(d time.Duration, n float64) float64 { return float64(d.Nanoseconds()) / n }

// profiles takes CPU profiles of this process and the sidecar, if they are asked for, until the returned function is called.
func (c *sidecar) profiles(name string) (stop func() error, err error) {
	if c.profile == "" {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(c.profile, 0o755); err != nil {
		return nil, err
	}
	own, err := os.Create(filepath.Join(c.profile, name+".client.pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(own); err != nil {
		return nil, errors.Join(err, own.Close())
	}
	var work sync.WaitGroup
	var failed error
	work.Go(func() { failed = c.fetchProfile(filepath.Join(c.profile, name+".sidecar.pprof")) })
	return func() error {
		pprof.StopCPUProfile()
		work.Wait()
		return errors.Join(own.Close(), failed)
	}, nil
}

// fetchProfile writes a CPU profile of the sidecar, over the time of a round, into a file.
func (c *sidecar) fetchProfile(file string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://sidecar/debug/pprof/profile?seconds=" + strconv.Itoa(max(1, int(c.time.Seconds()))))
	if err != nil {
		return fmt.Errorf("profile of the sidecar: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("profile of the sidecar: %s", answer.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, answer.Body)
	return errors.Join(err, out.Close())
}
