package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/typedmq/typedmq/sidecar"
	"github.com/typedmq/typedmq/sidecar/internal/config"
	"github.com/typedmq/typedmq/sidecar/internal/telemetry"
)

// failureGrace is how long a sidecar that can no longer work may take to tell its clients.
const failureGrace = 2 * time.Second

func newServe(c *cli) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the sidecar",
		Long: `Run the sidecar: the broker, its store and its coordinator in one process.

Settings come from the flags below, from MQ_* variables (MQ_DATA_DIR, MQ_LISTEN, …)
and from a YAML file (data_dir, listen, …), in this order of precedence. Faults in
any of them end the command with status 2 before anything is opened; a data
directory that cannot be used ends it with status 3.

SIGTERM and Ctrl-C let consumers settle what they hold for as long as
--drain-timeout; a second one ends the process at once.`,
		Example: "  mq serve\n  mq serve --data-dir /var/lib/typedmq --listen 127.0.0.1:7070\n  mq serve --config /etc/typedmq/mq.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("addr") {
				return usagef("--addr is where the other commands connect to; mq serve listens on --listen and --socket")
			}
			cfg, err := loadConfig(c, file, cmd.Flags())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, telemetry.NewLogger(cmd.ErrOrStderr(), cfg.LogLevel, cfg.LogFormat))
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with settings (default: $MQ_CONFIG, else none)")
	for _, s := range config.Settings() {
		cmd.Flags().String(s.Flag, "", fmt.Sprintf("%s (default %s)", s.Usage, s.Default))
	}
	return cmd
}

func loadConfig(c *cli, file string, flags *pflag.FlagSet) (config.Config, error) {
	dir, err := os.Getwd()
	if err != nil {
		return config.Config{}, fmt.Errorf("working directory: %w", err)
	}
	given := make(map[string]string)
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
	cfg, err := config.Load(config.Sources{File: file, ReadFile: os.ReadFile, Environ: c.environ, Flags: given, WorkingDir: dir})
	if err != nil {
		return cfg, &configError{err}
	}
	return cfg, nil
}

// serve runs a sidecar until ctx is done or the sidecar fails.
func serve(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	began := time.Now()
	s, err := sidecar.Start(ctx, cfg, log)
	if err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return nil // stopped before it was ready
		}
		return err
	}
	log.Info("ready", "addr", s.Addr(), "socket", s.Socket(), "data_dir", cfg.DataDir, "took", time.Since(began).Round(time.Millisecond))
	return supervise(ctx, s, cfg.DrainTimeout, log)
}

// node is what supervise needs of a sidecar. Tests have one that fails.
type node interface {
	Failed() <-chan error
	Shutdown(context.Context) error
}

// supervise waits for the signal to stop, or for a failure after which there is nothing to wait for, and ends the sidecar.
func supervise(ctx context.Context, s node, drain time.Duration, log *slog.Logger) error {
	select {
	case <-ctx.Done():
		log.Info("draining", "timeout", drain)
		if err := s.Shutdown(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("shut down: %w", err)
		}
		select {
		case err := <-s.Failed():
			return fmt.Errorf("the sidecar failed while it drained: %w", err)
		default:
		}
		log.Info("stopped")
		return nil
	case err := <-s.Failed():
		log.Error("the sidecar cannot go on", "error", err)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), failureGrace)
		defer cancel()
		if also := s.Shutdown(grace); also != nil {
			log.Warn("shutting down failed too", "error", also)
		}
		return fmt.Errorf("the sidecar cannot go on: %w", err)
	}
}
