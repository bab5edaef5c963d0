package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// cli is what all commands share.
type cli struct {
	environ []string
	addr    string // --addr
	format  outputFormat
	began   bool // the command line was accepted
}

func newRoot(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mq",
		Short: "Run a typedmq sidecar, or look at one",
		Long: `mq runs a typedmq sidecar and shows what is in it.

Topics and groups come from annotated .proto files: an application declares its
own when it connects. The commands below work on what has been declared.`,
		Example: `  mq serve --data-dir /var/lib/typedmq
  mq topics
  mq topic describe flights.departed
  mq explain flights.departed
  mq publish flights.departed '{"origin":"SFO","destination":"LAX","delayMinutes":75}'
  mq tail flights.departed --from earliest -n 10
  mq groups rebooking
  mq group pause rebooking
  mq dlq list rebooking flights.departed
  mq dlq redrive rebooking flights.departed --all
  mq scheduled list flights.departed`,
		Version:           version(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(*cobra.Command, []string) error { c.began = true; return nil },
	}
	cmd.SetVersionTemplate("mq {{.Version}}\n")
	cmd.PersistentFlags().StringVar(&c.addr, "addr", "",
		"address of the sidecar: http://host:port or unix:///path (default: $MQ_ADDR, else "+defaultAddress+")")
	cmd.PersistentFlags().VarP(&c.format, "output", "o", "how answers are printed: table or json")
	cmd.AddCommand(newServe(c), newTopics(c), newTopic(c), newGroups(c), newGroup(c), newPublish(c), newTail(c), newDLQ(c), newScheduled(c), newInit(c), newExplain(c), newVersion(c),
		newCheck(c), newBackup(c), newRestore(c))
	return asGroup(cmd)
}

// asGroup makes a command that only holds others: alone it prints its help, and an unknown name after it is an error.
func asGroup(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return fmt.Errorf("unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
		}
		return fmt.Errorf("unknown command %q", args[0])
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// lookup returns a variable of the environment, empty if it is not set.
func (c *cli) lookup(name string) string {
	for _, pair := range c.environ {
		if n, value, _ := strings.Cut(pair, "="); n == name {
			return value
		}
	}
	return ""
}

// outputFormat is the value of --output.
type outputFormat string

// String implements pflag.Value.
func (f *outputFormat) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *outputFormat) Type() string { return "format" }

// Set implements pflag.Value.
func (f *outputFormat) Set(v string) error {
	if v != "table" && v != "json" {
		return fmt.Errorf("must be table or json")
	}
	*f = outputFormat(v)
	return nil
}
