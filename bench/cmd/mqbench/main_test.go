package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// TestFaultsAreToldAtOnce: all wrong flags in one go, with status 2 and nothing started.
func TestFaultsAreToldAtOnce(t *testing.T) {
	var stdout, stderr bytes.Buffer
	status := command([]string{"-mq", "/nowhere/mq", "-run", "publish,fly", "-rounds", "0", "-network", "pigeon", "-time", "1ns", "extra"}, &stdout, &stderr)
	if status != 2 {
		t.Errorf("status %d, want 2", status)
	}
	for _, want := range []string{`no scenario "fly"`, "-rounds 0", `-network "pigeon"`, "-time 1ns", "/nowhere/mq", `"extra"`} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("nothing is said of %s:\n%s", want, stderr.String())
		}
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if status := command([]string{"-h"}, &stdout, &stderr); status != 0 || !strings.Contains(stderr.String(), "usage: mqbench") {
		t.Errorf("status %d\n%s", status, stderr.String())
	}
}

func TestCatalogue(t *testing.T) {
	var names []string
	for _, c := range catalogue() {
		if slices.Contains(names, c.name) || c.about == "" || c.measure == nil || strings.ContainsAny(c.name, " ,/") {
			t.Errorf("scenario %q is there twice, or tells or measures nothing", c.name)
		}
		if c.base != "" && !slices.Contains(names, c.base) {
			t.Errorf("%s is compared with %s, which does not come before it", c.name, c.base)
		}
		names = append(names, c.name)
	}
	if _, err := choose(catalogue(), strings.Join(names, ", ")); err != nil {
		t.Error(err)
	}
}

// TestSidecarThatEnds: what the sidecar said is in the result, nothing of it is left, and the status tells.
func TestSidecarThatEnds(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "mq")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if process.InMemory(data) {
		t.Skip("the temporary directory is in memory, which mqbench refuses")
	}
	var stdout, stderr bytes.Buffer
	status := command([]string{"-mq", binary, "-dir", data, "-run", "publish", "-json", "-"}, &stdout, &stderr)
	if status != 1 || !strings.Contains(stdout.String(), "the disk is on fire") || !strings.Contains(stderr.String(), "exit status 3") {
		t.Errorf("status %d\n%s\n%s", status, stdout.String(), stderr.String())
	}
	if left, _ := os.ReadDir(data); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
