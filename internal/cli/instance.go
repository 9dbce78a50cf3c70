package cli

import (
	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/deploy"
)

// instanceCommand is what a server starts for each instance of a release. It is nothing for people.
func instanceCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "instance DIR",
		Short:  "Keep an instance of a release running",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if code := deploy.Keep(args[0], c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr()); code != exitOK {
				return &exitError{code, nil}
			}
			return nil
		},
	}
}
