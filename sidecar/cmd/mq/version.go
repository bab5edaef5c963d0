package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.format == "json" {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "{\"version\":%q,\"go\":%q,\"platform\":%q}\n", version(), runtime.Version(), platform)
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "mq %s %s %s\n", version(), runtime.Version(), platform)
			return err
		},
	}
}

const platform = runtime.GOOS + "/" + runtime.GOARCH

// version is what the Go toolchain recorded.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
