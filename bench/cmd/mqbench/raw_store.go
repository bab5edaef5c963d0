package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// rawStore measures Pebble alone, by the benchmark of the package that uses it, since no other may: chunks of 256 records, each synced.
func rawStore(ctx context.Context, s settings, _ string) ([]measured, error) {
	if s.store == "" {
		return nil, fmt.Errorf("no program measures Pebble alone; make bench builds it and names it by -store")
	}
	command := exec.CommandContext(ctx, s.store, "-test.run", "^$", "-test.bench", "^BenchmarkBareChunks$", "-test.benchtime", s.time.String())
	command.Env = append(command.Environ(), "TMPDIR="+s.dir)
	process.Bind(command)
	text, err := command.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", s.store, err, text)
	}
	metrics := benchMetrics(string(text))
	if metrics["msgs/s"] == 0 {
		return nil, fmt.Errorf("%s: it measured nothing\n%s", s.store, text)
	}
	return []measured{{unit: perSecond, value: metrics["msgs/s"], sidecar: metrics["cpu-ns/msg"]}}, nil
}

// benchMetrics are the metrics of the one benchmark in what a Go test has printed, by their units.
func benchMetrics(text string) map[string]float64 {
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		f := strings.Fields(line)
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				out[f[i+1]] = v
			}
		}
	}
	return out
}
