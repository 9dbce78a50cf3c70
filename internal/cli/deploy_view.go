package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/cd"
)

// painter colours what goes to a terminal.
func painter(out io.Writer) paint {
	f, ok := out.(*os.File)
	return paint{ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""}
}

// watch shows a release until it is known how it ended: a picture that moves on a terminal, what happened line by line
// elsewhere. Ctrl-C stops watching, and the release goes on.
func (f *releaseFlags) watch(c *cobra.Command, r api.ReleaseView) error {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := c.OutOrStdout()
	p := painter(out)
	told, drawn, after := 0, 0, int64(-1)
	for {
		var now api.ReleaseView
		at, err := f.path(ctx, "/releases/%d", r.ID)
		if err != nil {
			return err
		}
		if err := f.call(ctx, "GET", at, nil, &now); err != nil {
			return f.left(ctx.Err() != nil, err)
		}
		var text bytes.Buffer
		if !f.asJSON {
			for _, e := range now.Timeline[min(told, len(now.Timeline)):] {
				fmt.Fprintf(&text, "%s  %s\n", p.faint(e.At.Local().Format("15:04:05")), safe(e.Text))
			}
			told = len(now.Timeline)
		}
		if drawn > 0 {
			fmt.Fprintf(out, "\x1b[%dA\x1b[J", drawn)
			drawn = 0
		}
		_, _ = out.Write(text.Bytes())
		if !underWay(now) {
			return f.ended(out, now, p)
		}
		v, err := f.after(ctx, after, func(v api.EnvironmentView) {
			if !p.on || f.asJSON {
				return
			}
			lines := rolloutLines(v, p, r.ID)
			fmt.Fprintln(out, strings.Join(lines, "\n"))
			drawn = len(lines)
		})
		if err != nil {
			return f.left(ctx.Err() != nil, err)
		}
		after = v.Version
	}
}

// left is the end of who stopped watching.
func (f *releaseFlags) left(interrupted bool, err error) error {
	if !interrupted {
		return err
	}
	return &exitError{exitCancelled, withHint(errors.New("the release goes on"), "penstock status --env "+f.environment+" shows it, penstock abort takes it back")}
}

// ended tells how a release ended.
func (f *releaseFlags) ended(out io.Writer, r api.ReleaseView, p paint) error {
	if f.asJSON {
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return err
		}
	}
	done := "released in " + took(r.Ended.Sub(r.Began))
	if f.back && r.Outcome == "aborted" {
		done = "taken back; what served before serves again"
	}
	if r.Outcome == "released" || f.back && r.Outcome == "aborted" {
		if !f.asJSON {
			fmt.Fprintf(out, "%s %s v%d: %s\n", p.green("✓"), f.environment, r.Number, done)
		}
		return nil
	}
	reason := safe(r.Reason)
	if reason == "" {
		reason = r.Outcome
	}
	return &exitError{exitFailed, withHint(fmt.Errorf("%s v%d was not released: %s", f.environment, r.Number, reason),
		"penstock logs --env "+f.environment+" has what the instances wrote; "+r.Page)}
}

// after shows the environment as it is and waits until it has changed since the version, or for a moment.
func (f *releaseFlags) after(ctx context.Context, version int64, show func(api.EnvironmentView)) (api.EnvironmentView, error) {
	v, err := f.view(ctx)
	if err != nil {
		return v, err
	}
	show(v)
	if v.Version != version {
		return v, nil
	}
	at, err := f.path(ctx, "/environments/%s?after=%d", url.PathEscape(f.environment), version)
	if err != nil {
		return v, err
	}
	var next api.EnvironmentView
	return next, f.call(ctx, "GET", at, nil, &next)
}

// barWidth is how wide the traffic is drawn, characters.
const barWidth = 24

// rolloutLines are what serves in an environment and what is under way; of one release if it is named.
func rolloutLines(v api.EnvironmentView, p paint, only cd.ReleaseID) []string {
	lines := []string{p.bold(v.Environment) + p.faint("  "+v.Repository)}
	if len(v.Services) == 0 {
		lines = append(lines, p.faint("  nothing is released yet: penstock deploy --env "+v.Environment))
	}
	for _, s := range v.Services {
		line := fmt.Sprintf("  %-12s", safe(s.Name))
		for i, share := range s.Shares {
			bar := strings.Repeat("█", (share.Percent*barWidth+50)/100)
			if i > 0 {
				bar = p.green(bar)
			} else {
				bar = p.blue(bar)
			}
			line += fmt.Sprintf(" v%d %s %d%%", share.Number, bar, share.Percent)
		}
		if len(s.URLs) > 0 {
			line += "  " + p.faint(s.URLs[0])
		}
		lines = append(lines, line)
	}
	for _, r := range v.Releases {
		if only != 0 && r.ID != only || only == 0 && r.Plain() {
			continue
		}
		lines = append(lines, releaseLines(r, p)...)
	}
	return lines
}

// releaseLines are a release's phase, instances, last checks, and what it waits for.
func releaseLines(r api.ReleaseView, p paint) []string {
	mark := p.yellow("●")
	switch r.Outcome {
	case "released":
		mark = p.green("✓")
	case "failed", "aborted", "superseded":
		mark = p.red("✗")
	}
	head := fmt.Sprintf("%s v%d %s", mark, r.Number, p.bold(string(r.Phase)))
	if r.Plan != nil && r.Plan.SHA != "" {
		head += p.faint(fmt.Sprintf("  %.7s by %s, %s ago", r.Plan.SHA, safe(r.Plan.By), took(time.Since(r.Began))))
	}
	lines := []string{head}
	for _, part := range r.Parts {
		well := 0
		for _, i := range part.Instances {
			if i.State == cd.Healthy {
				well++
			}
		}
		lines = append(lines, fmt.Sprintf("    %s: %d of %d healthy", safe(part.Service), well, part.Want))
		for _, i := range part.Instances {
			where := ""
			if r.Plan != nil && len(r.Plan.Machines) > 0 {
				where = " on " + safe(r.Plan.Machine(i.Index))
			}
			switch {
			case i.Reason != "" && i.State != cd.Healthy:
				lines = append(lines, p.faint(fmt.Sprintf("      %d%s is %s: %s", i.Index, where, i.State, safe(firstLine(i.Reason)))))
			case where != "":
				lines = append(lines, p.faint(fmt.Sprintf("      %d%s is %s", i.Index, where, i.State)))
			}
		}
	}
	for _, k := range r.Checks {
		lines = append(lines, "    "+checkLine(k, p))
	}
	if r.Waits != "" {
		lines = append(lines, "    "+p.faint(safe(r.Waits)))
	}
	return lines
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// checkLine is one check with what it was judged by.
func checkLine(k cd.Check, p paint) string {
	mark := map[cd.Verdict]string{cd.Pass: p.green("✓"), cd.Fail: p.red("✗"), cd.Inconclusive: p.yellow("?")}[k.Verdict]
	line := mark + " " + safe(k.Name)
	if k.Value != nil {
		line += fmt.Sprintf(" %.4g", *k.Value)
	}
	var notes []string
	if k.Limit != "" {
		notes = append(notes, k.Limit)
	}
	if k.Old != nil {
		notes = append(notes, fmt.Sprintf("before %.4g", *k.Old))
	}
	if k.Sample > 0 {
		notes = append(notes, fmt.Sprintf("%d requests", k.Sample))
	}
	if k.Reason != "" {
		notes = append(notes, safe(firstLine(k.Reason)))
	}
	if len(notes) > 0 {
		line += p.faint("  " + strings.Join(notes, ", "))
	}
	return line
}

// writeHistory lists releases.
func writeHistory(out io.Writer, all []api.ReleaseView) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tSTATE\tCOMMIT\tBY\tAGE\tWHY")
	for _, r := range all {
		state := r.Outcome
		if state == "" || r.Phase == cd.Live || r.Phase == cd.Watching {
			state = string(r.Phase)
		}
		sha, by := "", ""
		if r.Plan != nil {
			sha, by = fmt.Sprintf("%.7s", r.Plan.SHA), r.Plan.By
		}
		fmt.Fprintf(w, "v%d\t%s\t%s\t%s\t%s\t%s\n", r.Number, state, sha, safe(by), took(time.Since(r.Began)), safe(firstLine(r.Reason)))
	}
	return w.Flush()
}
