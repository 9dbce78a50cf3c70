package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/forge"
)

// listedJob is one row of `penstock list --json`.
type listedJob struct {
	Workflow string   `json:"workflow"`
	Name     string   `json:"name"`
	Events   []string `json:"events"`
	Job      string   `json:"job"`
	Needs    []string `json:"needs,omitempty"`
}

func listCommand() *cobra.Command {
	var flags triggerFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the workflows of the repository, their jobs and events",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			tree, err := forge.OpenWorkTree(c.Context(), flags.dir)
			if err != nil {
				return err
			}
			files, err := flags.read(tree)
			if err != nil {
				return err
			}
			workflows, err := engine.ParseWorkflows(files)
			if err != nil {
				return err
			}
			rows := []listedJob{}
			for _, w := range workflows {
				var on []string
				for _, t := range w.On {
					on = append(on, t.Event)
				}
				for _, j := range w.Jobs {
					row := listedJob{Workflow: w.Path, Name: w.Name, Events: on, Job: j.ID}
					for _, n := range j.Needs {
						row.Needs = append(row.Needs, n.Text)
					}
					rows = append(rows, row)
				}
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), rows)
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "WORKFLOW\tJOB\tNEEDS\tEVENTS")
			for _, r := range rows {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Workflow, r.Job, strings.Join(r.Needs, ", "), strings.Join(r.Events, ", "))
			}
			return t.Flush()
		},
	}
	c.Flags().StringVarP(&flags.dir, "directory", "C", ".", "work in `DIR`")
	c.Flags().StringArrayVarP(&flags.workflows, "workflows", "W", nil, "only this workflow `FILE` or directory")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
