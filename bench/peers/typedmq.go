package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// typedmq itself is measured by mqbench, whose messages and callers are the same.
type typedmq struct{ mqbench, mq string }

// measure does one round of the works.
func (t typedmq) measure(ctx context.Context, dir string, ids []string, span time.Duration) (map[string]measured, error) {
	args := []string{"-mq", t.mq, "-dir", dir, "-run", strings.Join(ids, ","), "-rounds", "1", "-time", span.String(), "-json", "-"}
	c, err := startChild(dir, program{name: "mqbench", path: t.mqbench, args: args})
	if err != nil {
		return nil, err
	}
	err = c.wait(ctx, 3*time.Second)
	c.kill() // what it may have left
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("mqbench: %w: %w", err, c.lastWords())
	}
	all, err := results(c.output())
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if all[id].rate <= 0 {
			return nil, fmt.Errorf("mqbench told no rate of %s:\n%s", id, c.output())
		}
	}
	return all, nil
}

// results reads what mqbench wrote: lines of text, and a JSON document.
func results(out string) (map[string]measured, error) {
	var document struct {
		Results []struct {
			Scenario string  `json:"scenario"`
			Unit     string  `json:"unit"`
			Median   float64 `json:"median"`
			Client   float64 `json:"client_cpu_ns"`
			Sidecar  float64 `json:"sidecar_cpu_ns"`
		} `json:"results"`
	}
	_, text, found := strings.Cut("\n"+out, "\n{")
	if !found {
		return nil, fmt.Errorf("mqbench wrote no JSON:\n%s", out)
	}
	if err := json.NewDecoder(strings.NewReader("{" + text)).Decode(&document); err != nil {
		return nil, fmt.Errorf("read the JSON of mqbench: %w", err)
	}
	all := map[string]measured{}
	for _, r := range document.Results {
		if r.Unit == "messages/s" {
			all[r.Scenario] = measured{r.Median, r.Client, r.Sidecar}
		}
	}
	return all, nil
}
