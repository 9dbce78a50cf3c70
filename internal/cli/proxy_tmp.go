package cli

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/proxy/daemon"
)

func proxyCommand() *cobra.Command {
	var start daemon.Start
	c := &cobra.Command{Use: "proxy", Hidden: true}
	run := &cobra.Command{Use: "run", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return daemon.Run(ctx, start)
	}}
	run.Flags().StringVar(&start.Dir, "dir", "", "")
	run.Flags().IntVar(&start.Ready, "ready-fd", 0, "")
	run.Flags().BoolVar(&start.Replace, "replace", false, "")
	c.AddCommand(run)
	return c
}
