package cli

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/proxy/daemon"
)

func proxyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "proxy",
		Short: "Look after the proxy of a server: its status, a restart that loses no request, its end",
		Long: `Look after the proxy of a server. It is a process of its own, so that users are served while the server restarts or is
upgraded; penstock serve --proxy starts it, and replaces it after an upgrade, without a request being lost.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var dir string
	c.PersistentFlags().StringVar(&dir, "dir", "", "the proxy's `DIR`: proxy in the server's data directory")
	_ = c.MarkPersistentFlagRequired("dir")
	open := func() (*daemon.Client, error) {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		client, err := daemon.Open(abs)
		if err != nil {
			return nil, withHint(err, "--dir names a server's data directory with /proxy")
		}
		return client, nil
	}

	start := daemon.Start{}
	run := &cobra.Command{
		Use: "run", Short: "Be the proxy's process", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			var err error
			if start.Dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			start.Version, _ = buildVersion()
			if err := daemon.Run(ctx, start); err != nil {
				return &exitError{exitFailed, err}
			}
			return nil
		},
	}
	run.Flags().BoolVar(&start.Replace, "replace", false, "take the place of the process that runs")
	run.Flags().IntVar(&start.Ready, "ready-fd", 0, "tell the descriptor `N` when it serves, and log to a file")

	restart := &cobra.Command{
		Use: "restart", Short: "Put a new process in the proxy's place, without losing a request", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			if err := client.Restart(c.Context()); err != nil {
				return &exitError{exitFailed, err}
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return &exitError{exitFailed, err}
			}
			fmt.Fprintf(c.ErrOrStderr(), "Process %d serves\n", s.PID)
			return nil
		},
	}
	stop := &cobra.Command{
		Use: "stop", Short: "End the proxy: nobody is served any more", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			if err := client.Stop(c.Context()); err != nil {
				return &exitError{exitFailed, err}
			}
			return nil
		},
	}
	var asJSON bool
	status := &cobra.Command{
		Use: "status", Short: "Say what the proxy serves, and what is not as it should be", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return &exitError{exitFailed, withHint(err, "penstock serve --proxy starts it")}
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), s)
			}
			return showProxy(c, s)
		},
	}
	status.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.AddCommand(run, restart, status, stop)
	return c
}

func showProxy(c *cobra.Command, s daemon.Status) error {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "process   %d, since %s, penstock %s (build %s)\n", s.PID, s.Began.Local().Format(time.DateTime), s.Version, s.Build)
	fmt.Fprintf(out, "table     %d, with %d routes\n", s.Table, s.Routes)
	for _, scheme := range []string{"http", "https"} {
		if addr := s.Listeners[scheme]; addr != "" {
			fmt.Fprintf(out, "%-9s %s\n", scheme, addr)
		}
	}
	if len(s.Draining) > 0 {
		slices.Sort(s.Draining)
		pids := make([]string, len(s.Draining))
		for i, pid := range s.Draining {
			pids[i] = strconv.Itoa(pid)
		}
		fmt.Fprintf(out, "draining  processes %s finish what is under way\n", strings.Join(pids, ", "))
	}
	for _, h := range s.TLS {
		switch {
		case h.Error != "":
			fmt.Fprintf(out, "tls       %s: since %s: %s\n", h.Name, h.Since.Local().Format(time.DateTime), h.Error)
		case h.NotAfter.IsZero():
			fmt.Fprintf(out, "tls       %s (%s)\n", h.Name, h.Source)
		default:
			fmt.Fprintf(out, "tls       %s (%s), until %s\n", h.Name, h.Source, h.NotAfter.Local().Format(time.DateTime))
		}
	}
	if s.Root != "" {
		fmt.Fprintf(out, "root      %s vouches for local hosts, where it is trusted\n", s.Root)
	}
	for _, t := range s.Trouble {
		fmt.Fprintf(out, "trouble   %s\n", t)
	}
	return nil
}
