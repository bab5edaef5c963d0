package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sidecar is the sidecar of a demo, on its own directory and socket. It is run and asked through the mq binary, as a person
// at a terminal would.
type sidecar struct {
	mq     string // path of the binary
	dir    string
	socket string
}

func newSidecar(mq, dir string) sidecar {
	return sidecar{mq: mq, dir: dir, socket: filepath.Join(dir, "mq.sock")}
}

// env tells programs where the sidecar is.
func (s sidecar) env() []string { return []string{"MQ_ADDR=unix://" + s.socket} }

// serve starts the sidecar and returns how long it took to be ready, which it is as soon as it listens.
func (s sidecar) serve(ctx context.Context, ended func(*process)) (*process, time.Duration, error) {
	begin := time.Now()
	p, err := start(s.dir, program{
		name: "mq", path: s.mq, ended: ended,
		args: []string{"serve", "--data-dir", filepath.Join(s.dir, "data"), "--listen", "127.0.0.1:0", "--socket", s.socket},
	})
	if err != nil {
		return nil, 0, err
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if c, err := net.Dial("unix", s.socket); err == nil {
			return p, time.Since(begin), c.Close()
		}
		select {
		case <-poll.C:
		case <-p.done:
			return p, 0, fmt.Errorf("mq serve ended at its start: %w", p.err)
		case <-ctx.Done():
			return p, 0, fmt.Errorf("mq serve is not ready: %w", context.Cause(ctx))
		}
	}
}

// ask runs an mq command and reads its JSON answer.
func (s sidecar) ask(ctx context.Context, answer any, args ...string) error {
	c := exec.CommandContext(ctx, s.mq, append(args, "--output", "json")...)
	c.Env = append(os.Environ(), s.env()...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	if err != nil {
		return fmt.Errorf("mq %s: %w %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// deadLetters returns the flights that a service gave up on.
func (s sidecar) deadLetters(ctx context.Context, of service) ([]string, error) {
	var answer struct {
		DeadLetters []struct {
			JSON struct {
				FlightID string `json:"flightId"`
			} `json:"json"`
		} `json:"deadLetters"`
	}
	if err := s.ask(ctx, &answer, "dlq", "list", of.name, of.topic); err != nil {
		return nil, err
	}
	var flights []string
	for _, d := range answer.DeadLetters {
		flights = append(flights, d.JSON.FlightID)
	}
	return flights, nil
}

// redrive gives all dead letters of a service back to it, and returns how many they were.
func (s sidecar) redrive(ctx context.Context, of service) (int, error) {
	var answer struct {
		Redriven int `json:"redriven,string"`
	}
	err := s.ask(ctx, &answer, "dlq", "redrive", of.name, of.topic, "--all")
	return answer.Redriven, err
}

// unsettled says what is not settled for a group, empty if everything is.
func (s sidecar) unsettled(ctx context.Context) (string, error) {
	var answer struct {
		Groups []struct {
			Group      string `json:"group"`
			Partitions []struct {
				Lag         int64  `json:"lag,string"`
				DeadLetters int64  `json:"deadLetters,string"`
				Fault       string `json:"fault"`
			} `json:"partitions"`
		} `json:"groups"`
	}
	if err := s.ask(ctx, &answer, "groups"); err != nil {
		return "", err
	}
	var left []string
	for _, g := range answer.Groups {
		var lag, dead int64
		for _, p := range g.Partitions {
			lag += p.Lag
			dead += p.DeadLetters
			if p.Fault != "" {
				left = append(left, g.Group+": "+p.Fault)
			}
		}
		if lag > 0 || dead > 0 {
			left = append(left, g.Group+" has a lag of "+strconv.FormatInt(lag, 10)+" and "+strconv.FormatInt(dead, 10)+" dead letters")
		}
	}
	return strings.Join(left, "; "), nil
}
