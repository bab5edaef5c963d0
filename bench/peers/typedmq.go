package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// typedmq itself is measured by mqbench, whose messages and callers are the same.
type typedmq struct {
	mqbench, mq string
	asJSON      bool // whether this mqbench knows -json
}

// findTypedMQ asks mqbench what it knows.
func findTypedMQ(ctx context.Context, dir, mqbench, mq string) (typedmq, error) {
	t := typedmq{mqbench: mqbench, mq: mq}
	out, err := t.run(ctx, dir, "-h")
	if err != nil && !strings.Contains(out, "-rounds") {
		return t, fmt.Errorf("%s -h: %w", mqbench, err)
	}
	t.asJSON = strings.Contains(out, "-json")
	return t, nil
}

// rates does one round of the works, and returns messages per second by work.
func (t typedmq) rates(ctx context.Context, dir string, ids []string, span time.Duration) (map[string]float64, error) {
	args := []string{"-mq", t.mq, "-run", strings.Join(ids, ","), "-rounds", "1", "-time", span.String()}
	if t.asJSON {
		args = append(args, "-json", "-")
	}
	out, err := t.run(ctx, dir, args...)
	if err != nil {
		return nil, err
	}
	rates, err := medians(out)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if rates[id] <= 0 {
			return nil, fmt.Errorf("mqbench told no rate of %s:\n%s", id, out)
		}
	}
	return rates, nil
}

// run runs mqbench with its temporary files in dir, and returns what it wrote.
func (t typedmq) run(ctx context.Context, dir string, args ...string) (string, error) {
	c, err := startChild(dir, program{name: "mqbench", path: t.mqbench, args: args, env: []string{"TMPDIR=" + dir}, last: syscall.SIGTERM}) // which it hands on
	if err != nil {
		return "", err
	}
	err = c.wait(ctx, 3*time.Second)
	c.kill() // what it may have left
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("mqbench: %w: %w", err, c.lastWords())
	}
	return c.output(), err
}

var medianLine = regexp.MustCompile(`(?m)^(\w+)\s+median\s+([0-9.]+)/s\s*$`)

// medians reads the rates in the output of mqbench: its JSON if there is some, else its lines of text.
func medians(out string) (map[string]float64, error) {
	rates := map[string]float64{}
	if from := jsonStart(out); from >= 0 {
		var document struct {
			Results []struct {
				Scenario string  `json:"scenario"`
				Unit     string  `json:"unit"`
				Median   float64 `json:"median"`
			} `json:"results"`
		}
		if err := json.NewDecoder(bytes.NewReader([]byte(out[from:]))).Decode(&document); err != nil {
			return nil, fmt.Errorf("read the JSON of mqbench: %w", err)
		}
		for _, r := range document.Results {
			if r.Unit == "msg/s" {
				rates[r.Scenario] = r.Median
			}
		}
		return rates, nil
	}
	for _, m := range medianLine.FindAllStringSubmatch(out, -1) {
		rate, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, fmt.Errorf("read the rate of %s: %w", m[1], err)
		}
		rates[m[1]] = rate
	}
	return rates, nil
}

// jsonStart is where a JSON object begins at the beginning of a line, or -1.
func jsonStart(out string) int {
	if strings.HasPrefix(out, "{") {
		return 0
	}
	if i := strings.Index(out, "\n{"); i >= 0 {
		return i + 1
	}
	return -1
}
