package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/typedmq/typedmq/sidecar"
)

// errFindings ends a check that found something. What it found was printed.
var errFindings = errors.New("findings")

func newCheck(c *cli) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check DIR",
		Short: "Verify the data directory of a sidecar that does not run",
		Long: `Verify the data directory of a sidecar that does not run: every checksum, every
chain and count of records, the schedule and its index, what groups have settled,
what the catalogue refers to, and etcd's files. Nothing is written.

Each finding is a line: FILE, LOG or SHARD, where in it, what is wrong, what to do.
A log is named topic/partition/level, a shard group@topic/partition, the topic by
its number in the store and by its name.

Exit status: 0 sound, 1 something was found, 2 usage, 3 the directory cannot be
looked at, such as one that is in use.`,
		Example: "  mq check /var/lib/typedmq\n  mq check /var/lib/typedmq --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return check(cmd, args[0], asJSON || c.format == "json")
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, like -o json")
	return cmd
}

// checkReport is what mq check prints as JSON.
type checkReport struct {
	Sound    bool           `json:"sound"`
	Findings []checkFinding `json:"findings"`
	checkCounts
}

type checkCounts struct {
	Logs       int64   `json:"logs"`
	Records    int64   `json:"records"`
	Shards     int64   `json:"shards"`
	Values     int64   `json:"values"`
	Bytes      int64   `json:"bytes"`
	EtcdValues int64   `json:"etcdValues"`
	Commit     uint64  `json:"commit"`
	Seconds    float64 `json:"seconds"`
}

type checkFinding struct {
	Place string `json:"place"`
	At    string `json:"at,omitempty"`
	What  string `json:"what"`
	Do    string `json:"do"`
}

func check(cmd *cobra.Command, dir string, asJSON bool) error {
	report := checkReport{Findings: []checkFinding{}}
	found := func(f sidecar.Finding) {
		report.Findings = append(report.Findings, checkFinding{f.Place, f.At, f.What, f.Do})
		if !asJSON {
			fmt.Fprintln(cmd.OutOrStdout(), printable(f.String()))
		}
	}
	sum, err := sidecar.Check(cmd.Context(), dir, found, progressOf(cmd.ErrOrStderr()))
	if err != nil {
		return err
	}
	report.Sound = sum.Findings == 0
	report.checkCounts = checkCounts{sum.Logs, sum.Records, sum.Shards, sum.Values, sum.Bytes, sum.EtcdValues, sum.Commit, sum.Took.Seconds()}
	if asJSON {
		out, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), printableText(string(out))); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %d logs, %d records of %d bytes, %d shards, commit %d, %.1f s\n",
		verdict(sum.Findings), sum.Logs, sum.Records, sum.Bytes, sum.Shards, sum.Commit, sum.Took.Seconds()); err != nil {
		return err
	}
	if sum.Findings > 0 {
		return errFindings
	}
	return nil
}

func verdict(findings int) string {
	switch findings {
	case 0:
		return "sound"
	case 1:
		return "1 finding"
	}
	return fmt.Sprintf("%d findings", findings)
}

// progressEvery is how often a long check tells how far it is.
const progressEvery = 2 * time.Second

// progressOf prints how far a check is, if it takes long.
func progressOf(w io.Writer) func(sidecar.CheckProgress) {
	next := time.Now().Add(progressEvery)
	return func(p sidecar.CheckProgress) {
		if now := time.Now(); now.After(next) && p.Of > 0 {
			next = now.Add(progressEvery)
			fmt.Fprintf(w, "mq: checked %d of about %d MiB, %d %%\n", p.Read>>20, p.Of>>20, 100*p.Read/p.Of)
		}
	}
}
