package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
)

func logsCommand() *cobra.Command {
	var raw bool
	var released serviceLogs
	c := &cobra.Command{
		Use:   "logs [RUN [JOB]]",
		Short: "Print the log of a run, of one of its jobs, or of what is released",
		Long: `Print the log of a run (the last one if none is named) as it was: every job, each line behind the job's name, or one
job alone. JOB is a job's ID or its name as shown.

With --env it is what the instances of a server's environment have written: penstock logs --env production [SERVICE].`,
		Example: "  penstock logs\n  penstock logs 12 backend-test\n  penstock logs --env production web --follow",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if released.environment != "" {
				return released.print(c, args)
			}
			data, err := dataDir()
			if err != nil {
				return err
			}
			h, err := openHistory(data)
			if err != nil {
				return err
			}
			var id ci.RunID
			if len(args) > 0 {
				if id, err = parseRunID(args[0]); err != nil {
					return err
				}
			}
			p, err := h.load(id, "")
			if err != nil {
				return err
			}
			jobs := p.Run.Jobs
			if len(args) == 2 {
				if jobs, err = chooseJobs(p.Run, args[1]); err != nil {
					return err
				}
			}
			for _, j := range jobs {
				prefix := ""
				if len(args) < 2 {
					prefix = safe(j.Name) + " | "
				}
				if err := h.writeLog(c.OutOrStdout(), p.Run, j, prefix, raw); err != nil {
					return err
				}
			}
			return nil
		},
	}
	released.addTo(c)
	c.Flags().BoolVar(&raw, "raw", false, "print the stored bytes, control sequences and markers included")
	return c
}

// chooseJobs finds jobs by ID, by the ID in the workflow file, or by name; a matrix may give several.
func chooseJobs(r *ci.Run, name string) ([]*ci.Job, error) {
	var out []*ci.Job
	var known []string
	for _, j := range r.Jobs {
		if j.Call || j.Expanded {
			continue
		}
		known = append(known, j.Name)
		if strings.EqualFold(string(j.ID), name) || strings.EqualFold(j.Def, name) || strings.EqualFold(j.Name, name) {
			out = append(out, j)
		}
	}
	if len(out) == 0 {
		return nil, withHint(fmt.Errorf("run %d has no job '%s'", r.ID, name), "it has "+strings.Join(known, ", "))
	}
	return out, nil
}

// writeLog copies a job's log. A job that never started has none.
func (h *history) writeLog(w io.Writer, r *ci.Run, j *ci.Job, prefix string, raw bool) error {
	f, err := h.blobs.Open(engine.LogKey(r.ID, j.Attempt, j.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read log of %s: %w", j.Name, err)
	}
	defer f.Close()
	if raw && prefix == "" {
		_, err := io.Copy(w, f)
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	for in := bufio.NewReaderSize(f, 64<<10); ; {
		line, err := in.ReadString('\n')
		if line != "" {
			text, ok := strings.TrimSuffix(line, "\n"), true
			if !raw {
				text, ok = parseLogLine(line).plain()
				text = safe(text)
			}
			if ok {
				fmt.Fprintf(out, "%s%s\n", prefix, text)
			}
		}
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return fmt.Errorf("read log of %s: %w", j.Name, err)
		}
	}
}
