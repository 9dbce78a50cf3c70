package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/ci"
)

// plannedJob is one job of `penstock plan --json`.
type plannedJob struct {
	Job    ci.JobID   `json:"job"`
	Name   string     `json:"name"`
	Labels []string   `json:"runs_on,omitempty"`
	Needs  []ci.JobID `json:"needs,omitempty"`
	Status string     `json:"status"`
	Reason string     `json:"reason,omitempty"`
}

// plannedWorkflow is one workflow of `penstock plan --json`.
type plannedWorkflow struct {
	Workflow string       `json:"workflow"`
	Runs     bool         `json:"runs"`
	Reason   string       `json:"reason,omitempty"` // why it does not run
	Name     string       `json:"name,omitempty"`
	Jobs     []plannedJob `json:"jobs,omitempty"`
}

func planCommand() *cobra.Command {
	var flags triggerFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "plan [EVENT]",
		Short: "Show what would run, in what order, and why the rest would not",
		Long: `Show what an event would run (push if none is named): each workflow with its jobs in the order they could start and
what each waits for, and for each workflow that would not run the reason. Nothing is run.

Matrices that depend on the outputs of other jobs are known only when those are done.`,
		Example:           "  penstock plan\n  penstock plan pull_request\n  penstock plan workflow_dispatch --input environment=staging",
		Args:              cobra.MaximumNArgs(1),
		ValidArgs:         events,
		ValidArgsFunction: cobra.FixedCompletions(events, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(c *cobra.Command, args []string) error {
			data, err := dataDir()
			if err != nil {
				return err
			}
			tr, err := flags.trigger(c.Context(), c, strings.Join(args, ""), filepath.Join(data, "actions"))
			if err != nil {
				return err
			}
			planned := planned(tr)
			if asJSON {
				return writeJSON(c.OutOrStdout(), planned)
			}
			return writePlan(c.OutOrStdout(), tr, planned)
		},
	}
	flags.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func planned(tr *triggered) []plannedWorkflow {
	var out []plannedWorkflow
	for _, p := range tr.plans {
		r, _ := ci.New(0, p, time.Now())
		w := plannedWorkflow{Workflow: p.Workflow, Runs: true, Name: r.Name}
		for _, j := range r.Jobs {
			status := string(j.Status)
			if j.Conclusion != "" {
				status = string(j.Conclusion)
			}
			w.Jobs = append(w.Jobs, plannedJob{j.ID, j.Name, j.Labels, j.Needs, status, j.Reason})
		}
		out = append(out, w)
	}
	for _, s := range tr.skipped {
		out = append(out, plannedWorkflow{Workflow: s.workflow.Path, Name: s.workflow.Name, Reason: s.reason})
	}
	return out
}

func writePlan(w io.Writer, tr *triggered, list []plannedWorkflow) error {
	ev := tr.event.Match
	fmt.Fprintf(w, "%s on %s at %.7s\n", ev.Name, tr.tree.Branch(), tr.tree.SHA)
	for _, p := range list {
		if !p.Runs {
			fmt.Fprintf(w, "\n%s: would not run: %s\n", p.Workflow, safe(p.Reason))
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", p.Workflow, safe(p.Name))
		for _, j := range p.Jobs {
			fmt.Fprintf(w, "  %-8s %s", j.Status, safe(j.Name))
			if len(j.Labels) > 0 {
				fmt.Fprintf(w, "  (%s)", strings.Join(j.Labels, ", "))
			}
			if j.Reason != "" {
				fmt.Fprintf(w, "  %s", safe(j.Reason))
			}
			fmt.Fprintln(w)
		}
	}
	return nil
}
