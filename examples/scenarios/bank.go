package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/typedmq/typedmq/examples/internal/child"
)

// bankKills is how often the scenario kills a process: enough to see it work. `make demo SCENARIO=bank KILLS=1000` is the proof.
const bankKills = 12

// runBank runs the demo of ../bank, which is a module of its own, with a sidecar of its own. It tells in its last line what it found.
func runBank(ctx context.Context, s *stage) (figures, error) {
	said := "nothing"
	bank, err := child.Start(s.dir, child.Program{
		Name: "bank", Path: filepath.Join(filepath.Dir(s.self), "bank"), Args: []string{"demo", "-mq", s.server.Program(), "-kills", fmt.Sprint(bankKills)},
		Read: func(line string) error { said = line; return nil },
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-bank.Done():
	case <-ctx.Done():
		return nil, fmt.Errorf("%w; %w", context.Cause(ctx), bank.Stop(patience))
	}
	return bankFigures(said, bank.Err())
}

// bankFigures reads the last line of the demo.
func bankFigures(said string, ended error) (figures, error) {
	text, ok := strings.CutPrefix(said, "bank: ok ")
	if !ok || ended != nil {
		return nil, fmt.Errorf("it said %q, and ended with %v", said, ended)
	}
	return strings.Fields(text), nil
}
