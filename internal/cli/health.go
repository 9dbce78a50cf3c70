package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/deploy"
)

func healthCommand() *cobra.Command {
	var retries int
	var interval, timeout time.Duration
	var expect []int
	c := &cobra.Command{
		Use:   "health URL...",
		Short: "Wait until URLs answer that all is well",
		Long: `Ask each URL by GET until it is answered by 2xx or 3xx (which is not followed), or by a status of --expect. It is asked
--retries times, --interval apart; an answer may take --timeout.

The exit code is 0 if all are healthy, 1 if one is not.`,
		Example: `  penstock health https://shop.example.com/health
  penstock health https://api.example.com/health https://example.com --retries 30 --interval 10s
  penstock health http://localhost:8000/private --expect 401`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, urls []string) error {
			if retries < 1 || interval < 0 || timeout <= 0 {
				return withHint(errors.New("--retries and --timeout have to be more than zero, --interval not less"), "penstock health URL --retries 30 --interval 10s --timeout 5s")
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			say := func(format string, args ...any) { fmt.Fprintln(c.ErrOrStderr(), safe(fmt.Sprintf(format, args...))) }
			for _, u := range urls {
				err := deploy.Probe(ctx, u, interval, timeout, retries, func(try, of int, err error) {
					say("Retry %d/%d: %v", try, of, err)
				}, expect...)
				switch {
				case ctx.Err() != nil:
					return &exitError{exitCancelled, nil}
				case err != nil:
					return &exitError{exitFailed, errors.New(safe(fmt.Sprintf("%s is not healthy: %v", u, err)))}
				}
				say("%s is healthy", u)
			}
			return nil
		},
	}
	c.Flags().IntVar(&retries, "retries", 30, "ask at most `N` times")
	c.Flags().DurationVar(&interval, "interval", 10*time.Second, "wait between two tries")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "wait for an answer")
	c.Flags().IntSliceVar(&expect, "expect", nil, "only this `STATUS` is well, or one of several (default any 2xx and 3xx)")
	return c
}
