package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-runewidth"
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
	var end error
	views := make(chan api.EnvironmentView)
	go func() {
		defer close(views)
		end = f.follow(ctx, views)
	}()
	defer func() {
		stop()
		for range views {
		}
	}()
	show := newPicture(c.OutOrStdout())
	if !f.asJSON {
		show.write(fmt.Sprintf("%s v%d  %s\n", f.environment, r.Number, show.faint(safe(r.Page))), nil)
	}
	var shown *api.EnvironmentView
	draw := func(text string) {
		if f.asJSON {
			return
		}
		var lines []string
		if shown != nil && show.on {
			lines = rolloutLines(*shown, show.paint, r.ID)
		}
		show.write(text, lines)
	}
	told := 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			draw("")
		case v, ok := <-views:
			if !ok {
				return f.left(ctx.Err() != nil, end)
			}
			now, err := f.release(ctx, r.ID)
			if unreachable(err) && ctx.Err() == nil {
				continue // the next view comes when the server is there again
			}
			if err != nil {
				return f.left(ctx.Err() != nil, err)
			}
			var text strings.Builder
			for _, e := range now.Timeline[min(told, len(now.Timeline)):] {
				line := sentence(firstLine(e.Text)) // all of it is told at the end
				if e.Warning {
					line = show.yellow(line)
				}
				fmt.Fprintf(&text, "%s  %s\n", show.faint(e.At.Local().Format(time.TimeOnly)), line)
			}
			told = len(now.Timeline)
			if shown = &v; !underWay(now) {
				shown = nil
			}
			draw(text.String())
			if shown == nil {
				return errors.Join(f.tellJob(ctx, now), f.ended(c.OutOrStdout(), now, show.paint))
			}
		}
	}
}

// release asks for a release with its timeline.
func (f *releaseFlags) release(ctx context.Context, id cd.ReleaseID) (r api.ReleaseView, err error) {
	at, err := f.path(ctx, "/releases/%d", id)
	if err == nil {
		err = f.call(ctx, "GET", at, nil, &r)
	}
	return r, err
}

// picture is what is written to a terminal below all that stays, and drawn anew when it changes.
type picture struct {
	paint
	out   io.Writer
	size  func() (columns, rows int)
	drawn int // rows of the terminal
}

func newPicture(out io.Writer) *picture {
	return &picture{paint: painter(out), out: out, size: func() (int, int) {
		if file, ok := out.(*os.File); ok {
			if columns, rows, err := term.GetSize(int(file.Fd())); err == nil {
				return columns, rows
			}
		}
		return 80, 24
	}}
}

// write replaces the picture by text, which stays, and other lines. What does not fit the terminal is left out, for it could
// not be drawn over again.
func (p *picture) write(text string, lines []string) {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", p.drawn)
	}
	b.WriteString(text)
	p.drawn = 0
	columns, room := p.size()
	for _, line := range lines {
		rows := 1 + max(runewidth.StringWidth(escapes.ReplaceAllString(line, ""))-1, 0)/max(columns, 1)
		if p.drawn += rows; p.drawn >= room {
			p.drawn -= rows
			break
		}
		b.WriteString(line + "\n")
	}
	_, _ = io.WriteString(p.out, b.String())
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

// tellJob tells the step of a job how a release ended: outputs that later steps and jobs can take, and a line of the run's summary.
func (f *releaseFlags) tellJob(ctx context.Context, r api.ReleaseView) error {
	outputs, summary := os.Getenv("GITHUB_OUTPUT"), os.Getenv("GITHUB_STEP_SUMMARY")
	if outputs == "" && summary == "" {
		return nil
	}
	v, err := f.view(ctx)
	if err != nil {
		return err
	}
	at := urlOf(v, false)
	line := fmt.Sprintf("**%s** [v%d](%s) %s", f.environment, r.Number, r.Page, r.Outcome)
	if at != "" {
		line += ": " + at
	}
	if r.Outcome != "released" && r.Reason != "" {
		line += "\n\n" + safe(firstLine(r.Reason))
	}
	return errors.Join(
		appendTo(outputs, fmt.Sprintf("release=%d\nversion=%d\nstate=%s\nurl=%s\npage=%s\n", r.ID, r.Number, r.Outcome, at, r.Page)),
		appendTo(summary, line+"\n"),
	)
}

// appendTo adds text to a file that a step has; "" is none.
func appendTo(name, text string) error {
	if name == "" {
		return nil
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

const (
	// patience is how long a server may be away, as while it is upgraded.
	patience = time.Minute
	// firstPause is before a server is asked again, twice as long each time.
	firstPause = 50 * time.Millisecond
)

// unreachable says whether there was no answer.
func unreachable(err error) bool {
	var at *url.Error
	return errors.As(err, &at)
}

// follow gives the environment as it is, and whenever it changes, until ctx ends or the server refuses.
func (f *releaseFlags) follow(ctx context.Context, views chan<- api.EnvironmentView) error {
	at, err := f.path(ctx, "/environments/%s/events", url.PathEscape(f.environment))
	if err != nil {
		return err
	}
	pause := firstPause
	for heard := time.Now(); ctx.Err() == nil; pause = min(2*pause, time.Second) {
		res, err := f.ask(ctx, "GET", at, nil)
		switch {
		case err == nil:
			err = readViews(ctx, res.Body, views)
			res.Body.Close()
			if err != nil {
				return err
			}
			heard, pause = time.Now(), firstPause
		case !unreachable(err), time.Since(heard) > patience:
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// readViews gives the environments of a stream of server-sent events until it ends, or is cut off.
func readViews(ctx context.Context, in io.Reader, views chan<- api.EnvironmentView) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxAnswer)
	var event []byte
	for lines.Scan() {
		if data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); ok {
			event = bytes.Clone(data)
		}
		if len(lines.Bytes()) > 0 || event == nil {
			continue // an event is whole at its empty line
		}
		var v api.EnvironmentView
		if err := json.Unmarshal(event, &v); err != nil {
			return fmt.Errorf("read the server's answer: %w", err)
		}
		event = nil
		select {
		case views <- v:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// stamps are the times in what the server says.
var stamps = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)`)

// sentence is what the server says, with its times as they are here.
func sentence(text string) string {
	return stamps.ReplaceAllStringFunc(safe(text), func(stamp string) string {
		at, err := time.Parse(time.RFC3339, stamp)
		if err != nil {
			return stamp
		}
		if at = at.Local(); at.Format(time.DateOnly) == time.Now().Format(time.DateOnly) {
			return at.Format(time.TimeOnly)
		}
		return at.Format(time.DateTime)
	})
}

// barWidth is how wide the traffic is drawn, characters.
const barWidth = 24

// rolloutLines are what serves in an environment and what is under way; of one release if it is named.
func rolloutLines(v api.EnvironmentView, p paint, only cd.ReleaseID) []string {
	lines := []string{p.bold(v.Environment) + p.faint("  "+v.Repository)}
	switch {
	case v.Removed != "":
		lines = append(lines, "  nothing serves: "+sentence(firstLine(v.Removed)))
	case len(v.Services) == 0:
		lines = append(lines, p.faint("  nothing is released yet: penstock deploy --env "+v.Environment))
	}
	widest := 12
	for _, s := range v.Services {
		widest = max(widest, len(s.Name))
	}
	for _, s := range v.Services {
		line := fmt.Sprintf("  %-*s", widest, safe(s.Name))
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
	if r := v.TakenBack; r != nil && only == 0 {
		lines = append(lines, fmt.Sprintf("%s v%d %s  %s", p.red("✗"), r.Number, p.bold(string(r.Phase)), sentence(firstLine(r.Reason))))
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
		if part.Want == 0 && len(part.Instances) == 0 {
			continue // not started yet, or all is over
		}
		if part.Want == 0 {
			lines = append(lines, fmt.Sprintf("    %s: stopping, %d left", safe(part.Service), len(part.Instances)))
			continue
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
		lines = append(lines, "    "+p.faint(sentence(firstLine(r.Waits))))
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
		if r.Warm {
			state = "warm"
		}
		sha, by := "", ""
		if r.Plan != nil {
			sha, by = fmt.Sprintf("%.7s", r.Plan.SHA), r.Plan.By
		}
		fmt.Fprintf(w, "v%d\t%s\t%s\t%s\t%s\t%s\n", r.Number, state, sha, safe(by), took(time.Since(r.Began)), safe(firstLine(r.Reason)))
	}
	return w.Flush()
}

// sayEvery is how often who waits for an answer is told that it is still to come.
const sayEvery = 5 * time.Second

// reassure tells, as long as it is not ended, what is waited for and for how long by now.
func reassure(out io.Writer, what string) (end func()) {
	began, stop, stopped := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		again := time.NewTicker(sayEvery)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				fmt.Fprintf(out, "%s (%s)\n", what, took(time.Since(began)))
			case <-stop:
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}
