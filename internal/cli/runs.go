package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/ci"
)

func runsCommand() *cobra.Command {
	var limit int
	var asJSON bool
	c := &cobra.Command{
		Use:   "runs",
		Short: "List the runs of this machine, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			data, err := dataDir()
			if err != nil {
				return err
			}
			h, err := openHistory(data)
			if err != nil {
				return err
			}
			list, err := h.list(limit)
			if err != nil {
				return err
			}
			if asJSON {
				rows := []*ci.Run{}
				for _, p := range list {
					rows = append(rows, p.Run)
				}
				return writeJSON(c.OutOrStdout(), rows)
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "RUN\tWORKFLOW\tEVENT\tREPOSITORY\tRESULT\tTOOK\tSTARTED")
			for _, p := range list {
				r := p.Run
				result := string(r.Conclusion)
				if r.Status != ci.Completed {
					result = string(r.Status)
				}
				fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, safe(runTitle(r)), p.Plan.Event, p.Plan.Repository, result,
					took(lasted(r.Created, r.Completed, time.Now())), r.Created.Local().Format("2006-01-02 15:04"))
			}
			return t.Flush()
		},
	}
	c.Flags().IntVarP(&limit, "limit", "L", 20, "at most this many")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
