package cli

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock-ci/penstock/internal/api"
)

// releaseFlags say of which environment of which repository of which server a command speaks.
type releaseFlags struct {
	serverFlags
	environment string
	repository  string
	asJSON      bool
	back        bool // taking a release back is what was asked for
}

func (f *releaseFlags) add(c *cobra.Command) {
	f.serverFlags.add(c)
	c.Flags().StringVarP(&f.environment, "env", "e", "", "`ENVIRONMENT` of penstock.yaml")
	c.Flags().StringVarP(&f.repository, "repo", "R", "", "`OWNER/NAME` of the repository (default: the job's, or the one that git's remote names)")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	_ = c.MarkFlagRequired("env")
}

// serviceLogs is `penstock logs --env`.
type serviceLogs struct {
	releaseFlags
	release  int64
	instance int
	lines    int
	follow   bool
}

func (l *serviceLogs) addTo(c *cobra.Command) {
	l.serverFlags.add(c)
	f := c.Flags()
	f.StringVarP(&l.environment, "env", "e", "", "print what instances of this `ENVIRONMENT` of a server have written")
	f.StringVarP(&l.repository, "repo", "R", "", "`OWNER/NAME` of the environment's repository")
	f.Int64Var(&l.release, "version", 0, "of this version (`N`) of the environment (default: what is under way, or serves)")
	f.IntVar(&l.instance, "instance", -1, "of this instance (`N`) alone, from 0")
	f.IntVarP(&l.lines, "lines", "n", 100, "how many of the latest lines of each instance")
	f.BoolVarP(&l.follow, "follow", "f", false, "go on with what they write")
}

func (l *serviceLogs) print(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return withHint(errors.New("one service at a time"), "without a name it is all of them")
	}
	query := url.Values{"lines": {strconv.Itoa(l.lines)}}
	for name, value := range map[string]string{"service": strings.Join(args, ""), "version": number(l.release, 1), "instance": number(int64(l.instance), 0)} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if l.follow {
		query.Set("follow", "true")
	}
	at, err := l.path(c.Context(), "/environments/%s/logs?%s", url.PathEscape(l.environment), query.Encode())
	if err != nil {
		return err
	}
	res, err := l.ask(c.Context(), "GET", at, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(c.OutOrStdout(), res.Body)
	return err
}

// number is a number as text, "" below the least that means something.
func number(n, least int64) string {
	if n < least {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// path is a path of the server's own API below the repository.
func (f *releaseFlags) path(ctx context.Context, format string, args ...any) (string, error) {
	if err := f.known(); err != nil {
		return "", err
	}
	if f.repository == "" {
		f.repository = os.Getenv("GITHUB_REPOSITORY")
	}
	if f.repository == "" {
		f.repository = remoteRepository(ctx, f.base())
	}
	if f.repository == "" {
		return "", withHint(fmt.Errorf("which repository? No remote of git's here is at %s", f.base()), "--repo OWNER/NAME says which")
	}
	owner, name, ok := strings.Cut(f.repository, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return "", withHint(fmt.Errorf("which repository? %q is not OWNER/NAME", f.repository), "--repo OWNER/NAME says which")
	}
	return "/api/penstock/repos/" + url.PathEscape(owner) + "/" + url.PathEscape(name) + fmt.Sprintf(format, args...), nil
}

// remoteRepository is the repository of the server that a remote of the working tree names, "" for none.
func remoteRepository(ctx context.Context, server string) string {
	out, err := exec.CommandContext(ctx, "git", "config", "--get-regexp", `^remote\..*\.url$`).Output()
	if err != nil {
		return ""
	}
	at, err := url.Parse(server)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		_, remote, _ := strings.Cut(strings.TrimSpace(line), " ")
		if u, err := url.Parse(remote); err == nil && u.Host == at.Host {
			return strings.TrimSuffix(strings.Trim(strings.TrimPrefix(u.Path, at.Path), "/"), ".git")
		}
	}
	return ""
}

// view asks for the environment as it is now.
func (f *releaseFlags) view(ctx context.Context) (api.EnvironmentView, error) {
	var view api.EnvironmentView
	at, err := f.path(ctx, "/environments/%s", url.PathEscape(f.environment))
	if err == nil {
		err = f.call(ctx, "GET", at, nil, &view)
	}
	return view, err
}

func deployCommand() *cobra.Command {
	var f releaseFlags
	var image, artifact, ref, reason string
	var wait bool
	c := &cobra.Command{
		Use:   "deploy [SERVICE...]",
		Short: "Release services of a repository to an environment",
		Long: `Release services to an environment, as penstock.yaml of the repository says: all of the environment, or those that are named,
as one group: they are promoted together, and taken back together.

What is released is the repository at --ref, or an image or files that are handed in. PENSTOCK_URL and PENSTOCK_TOKEN say which
server, and who asks; in a job they are the job's own.

With --wait the command shows the rollout until it is known how it ended: exit code 0 if it was released, 1 if not.`,
		Example: `  penstock deploy --env staging --wait
  penstock deploy web --env production --image registry.example.com/acme/web:1.4 --wait
  penstock deploy web --env production --artifact dist
  penstock status --env production         what serves, what is under way, and what it waits for
  penstock rollback --env production       back to what served before, at once`,
		RunE: func(c *cobra.Command, services []string) error {
			if image != "" && artifact != "" {
				return withHint(errors.New("an image and an artifact at once"), "--image or --artifact, not both")
			}
			ask := api.ReleaseRequest{Environment: f.environment, Services: services, Ref: ref, Reason: reason}
			if ask.Ref == "" {
				ask.Ref = os.Getenv("GITHUB_SHA") // in a job
			}
			one := ""
			if len(services) == 1 {
				one = services[0]
			}
			if image != "" {
				ask.Images = map[string]string{one: image}
			}
			if artifact != "" {
				digest, err := f.handIn(c.Context(), artifact)
				if err != nil {
					return err
				}
				ask.Artifacts = map[string]string{one: digest}
			}
			at, err := f.path(c.Context(), "/releases")
			if err != nil {
				return err
			}
			var begun api.ReleaseView
			quiet := reassure(c.ErrOrStderr(), "The server prepares the release: what is built or fetched for it takes its time")
			err = f.call(c.Context(), "POST", at, ask, &begun)
			quiet()
			if err != nil {
				return err
			}
			if begun.Same != 0 {
				fmt.Fprintf(c.ErrOrStderr(), "Nothing has changed since v%d: it is released again\n", begun.Same)
			}
			return f.show(c, begun, wait)
		},
	}
	f.add(c)
	c.Flags().StringVar(&image, "image", "", "release this `IMAGE` in place of what penstock.yaml names")
	c.Flags().StringVar(&artifact, "artifact", "", "release the files of this `DIR`, or of a FILE: a .tar, .tar.gz, or a program")
	c.Flags().StringVar(&ref, "ref", "", "branch, tag or commit (`REF`) to release (default: the job's commit, or the default branch)")
	c.Flags().StringVar(&reason, "reason", "", "`TEXT` for the record")
	c.Flags().BoolVar(&wait, "wait", false, "show the rollout until its end")
	return c
}

// show prints a release that has begun and, with wait, watches it.
func (f *releaseFlags) show(c *cobra.Command, begun api.ReleaseView, wait bool) error {
	if wait {
		return f.watch(c, begun)
	}
	if f.asJSON {
		return json.NewEncoder(c.OutOrStdout()).Encode(begun)
	}
	fmt.Fprintf(c.OutOrStdout(), "%s v%d: %s\n%s\n", f.environment, begun.Number, begun.Phase, begun.Page)
	return nil
}

// maxFiles bounds what is handed in as an artifact.
const maxFiles = 200_000

// handIn gives files to the server and returns their digest.
func (f *releaseFlags) handIn(ctx context.Context, name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", withHint(fmt.Errorf("the artifact: %w", err), "--artifact DIR or FILE")
	}
	at, err := f.path(ctx, "/files")
	if err != nil {
		return "", err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(packFiles(name, info, w)) }()
	defer r.Close()
	var stored struct{ Digest string }
	if err := f.send(ctx, "PUT", at, r, &stored); err != nil {
		return "", err
	}
	return stored.Digest, nil
}

// packFiles writes a directory or a file as a tar stream, the same for the same content: names in order, without times and owners.
// An archive goes as it is.
func packFiles(name string, info fs.FileInfo, out io.Writer) error {
	if lower := strings.ToLower(name); !info.IsDir() && (strings.HasSuffix(lower, ".tar") || strings.HasSuffix(lower, ".tar.gz") || strings.HasSuffix(lower, ".tgz")) {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(out, in)
		return err
	}
	t := tar.NewWriter(out)
	files := 0
	add := func(file, inside string, info fs.FileInfo) error {
		if files++; files > maxFiles {
			return fmt.Errorf("%s has more than %d files", name, maxFiles)
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			var err error
			if link, err = os.Readlink(file); err != nil {
				return err
			}
		} else if !info.IsDir() && !info.Mode().IsRegular() {
			return nil
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		*h = tar.Header{Typeflag: h.Typeflag, Name: inside, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & 0o777}
		if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.CopyN(t, in, info.Size())
		return err
	}
	if !info.IsDir() {
		if err := add(name, filepath.Base(name), info); err != nil {
			return err
		}
		return t.Close()
	}
	err := filepath.WalkDir(name, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == name {
			return err
		}
		rel, err := filepath.Rel(name, file)
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		inside := path.Clean(filepath.ToSlash(rel))
		if d.IsDir() {
			inside += "/"
		}
		return add(file, inside, info)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func statusCommand() *cobra.Command {
	var f releaseFlags
	var wait, where bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what serves in an environment, what is under way, and what it waits for",
		Example: `  penstock status --env production
  penstock status --env production --wait     watch what is under way until its end
  curl "$(penstock status --env staging --url)/health"
  penstock status --env production --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := f.view(c.Context())
			if err != nil {
				return err
			}
			if where {
				return writeURL(c.OutOrStdout(), v)
			}
			if i := slices.IndexFunc(v.Releases, underWay); wait && i >= 0 {
				return f.watch(c, v.Releases[i])
			}
			if f.asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(v)
			}
			for _, line := range rolloutLines(v, painter(c.OutOrStdout()), 0) {
				fmt.Fprintln(c.OutOrStdout(), line)
			}
			return nil
		},
	}
	f.add(c)
	c.Flags().BoolVar(&wait, "wait", false, "show what is under way until its end")
	c.Flags().BoolVar(&where, "url", false, "print where the environment is found, from here, and nothing else")
	return c
}

// urlOf is the shortest URL of an environment: that of the service which is found at the root. here is the one by which the job that
// asks reaches it, if that is another.
func urlOf(v api.EnvironmentView, here bool) (shortest string) {
	for _, s := range v.Services {
		urls := s.URLs
		if here && len(s.Reach) > 0 {
			urls = s.Reach
		}
		for _, u := range urls {
			if shortest == "" || len(u) < len(shortest) {
				shortest = u
			}
		}
	}
	return shortest
}

func writeURL(out io.Writer, v api.EnvironmentView) error {
	shortest := urlOf(v, true)
	if shortest == "" {
		return withHint(fmt.Errorf("%s is found nowhere yet", v.Environment), "penstock status shows what serves there; serve --proxy ADDR and hosts in penstock.yaml lead to it")
	}
	_, err := fmt.Fprintln(out, shortest)
	return err
}

// underWay says whether it is not known yet how a release ends.
func underWay(r api.ReleaseView) bool { return r.Outcome == "" }

func historyCommand() *cobra.Command {
	var f releaseFlags
	var limit int
	c := &cobra.Command{
		Use: "history", Short: "List the releases of an environment, the newest first",
		Example: "  penstock history --env production", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			at, err := f.path(c.Context(), "/environments/%s/history?per_page=%d", url.PathEscape(f.environment), limit)
			if err != nil {
				return err
			}
			var all []api.ReleaseView
			if err := f.call(c.Context(), "GET", at, nil, &all); err != nil {
				return err
			}
			if f.asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(all)
			}
			return writeHistory(c.OutOrStdout(), all)
		},
	}
	f.add(c)
	c.Flags().IntVarP(&limit, "limit", "L", 20, "how many")
	return c
}

// steerCommand is a command that asks something of the release that is under way.
func steerCommand(use, short, long, example string, args cobra.PositionalArgs, fill func(c *cobra.Command, ask *api.ReleaseAction, args []string) error) *cobra.Command {
	name, _, _ := strings.Cut(use, " ")
	f := releaseFlags{back: name == "abort"}
	var wait bool
	var ask api.ReleaseAction
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args,
		RunE: func(c *cobra.Command, args []string) error {
			if fill != nil {
				if err := fill(c, &ask, args); err != nil {
					return err
				}
			}
			v, err := f.view(c.Context())
			if err != nil {
				return err
			}
			if len(v.Releases) == 0 {
				return withHint(fmt.Errorf("nothing is released to %s yet", f.environment), "penstock deploy --env "+f.environment)
			}
			at, err := f.path(c.Context(), "/releases/%d/%s", v.Releases[0].ID, name)
			if err != nil {
				return err
			}
			var now api.ReleaseView
			if err := f.call(c.Context(), "POST", at, ask, &now); err != nil {
				return err
			}
			return f.show(c, now, wait)
		},
	}
	f.add(c)
	c.Flags().StringVar(&ask.Reason, "reason", "", "`TEXT` for the record")
	c.Flags().BoolVar(&wait, "wait", false, "show the rollout until its end")
	if name == "promote" {
		c.Flags().BoolVar(&ask.Force, "force", false, "even though checks fail")
	}
	return c
}

func steerCommands() []*cobra.Command {
	return []*cobra.Command{
		steerCommand("promote", "Let a release go on: open the gate it waits at, or go to the end of its steps", "", "  penstock promote --env production --wait", cobra.NoArgs, nil),
		steerCommand("abort", "Take back a release that is under way: what served before takes all traffic", "", `  penstock abort --env production --reason "slow"`, cobra.NoArgs, nil),
		steerCommand("pause", "Hold a release where it is", "", "  penstock pause --env production", cobra.NoArgs, nil),
		steerCommand("resume", "Let a paused release go on", "", "  penstock resume --env production --wait", cobra.NoArgs, nil),
		steerCommand("weight PERCENT", "Set how much of the traffic the new release takes, and hold it there", "The release pauses at that weight: penstock resume lets it go on.",
			"  penstock weight 25 --env production", cobra.ExactArgs(1), func(_ *cobra.Command, ask *api.ReleaseAction, args []string) error {
				n, err := strconv.Atoi(strings.TrimSuffix(args[0], "%"))
				if err != nil || n < 0 || n > 100 {
					return withHint(fmt.Errorf("%q is no percentage", args[0]), "a whole number from 0 to 100")
				}
				ask.Weight = n
				return nil
			}),
	}
}

func rollbackCommand() *cobra.Command {
	f := releaseFlags{back: true}
	var ask api.RollbackRequest
	var wait bool
	c := &cobra.Command{
		Use:   "rollback [VERSION]",
		Short: "Go back to what served before, without analysis",
		Long: `Go back to the release that served before, or to VERSION (penstock history lists them): image or files, configuration and
secrets as they were then. While the one before is still warm traffic goes back at once; else it is started first.`,
		Example: `  penstock rollback --env production --wait
  penstock rollback v7 --env production --reason "checkout is broken"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				n, err := strconv.ParseInt(strings.TrimPrefix(args[0], "v"), 10, 64)
				if err != nil || n < 1 {
					return withHint(fmt.Errorf("%q is no version", args[0]), "penstock history lists them: v7")
				}
				ask.To = n
			}
			at, err := f.path(c.Context(), "/environments/%s/rollback", url.PathEscape(f.environment))
			if err != nil {
				return err
			}
			var now api.ReleaseView
			if err := f.call(c.Context(), "POST", at, ask, &now); err != nil {
				return err
			}
			return f.show(c, now, wait)
		},
	}
	f.add(c)
	c.Flags().StringVar(&ask.Reason, "reason", "", "`TEXT` for the record")
	c.Flags().BoolVar(&wait, "wait", false, "show the rollout until its end")
	return c
}

func removeCommand() *cobra.Command {
	var f releaseFlags
	var ask api.RemoveRequest
	var wait, yes bool
	c := &cobra.Command{
		Use:   "remove",
		Short: "Stop all that is released to an environment",
		Long: `Stop all that is released to an environment, for one that is no longer wanted: what is under way is aborted, what serves takes no
traffic any more and stops once what is under way to it is done. Its hosts lead nowhere, and others may have them.

The environment may be gone from penstock.yaml; its secrets, variables and history stay. penstock deploy brings it back, and
penstock rollback what served last. It takes the same rights as these. On a terminal the command asks before; elsewhere it wants --yes.`,
		Example: `  penstock remove --env preview-17 --yes --wait
  penstock rollback --env preview-17          what served is wanted again`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := f.view(c.Context())
			if err == nil && !yes {
				err = confirmRemoval(c, v)
			}
			if err != nil {
				return err
			}
			at, err := f.path(c.Context(), "/environments/%s/remove", url.PathEscape(f.environment))
			if err != nil {
				return err
			}
			var last api.ReleaseView
			if err := f.call(c.Context(), "POST", at, ask, &last); err != nil {
				return err
			}
			if wait {
				if v, err = f.emptied(c.Context()); err != nil {
					return err
				}
			}
			switch {
			case f.asJSON && wait:
				return json.NewEncoder(c.OutOrStdout()).Encode(v)
			case f.asJSON:
				return json.NewEncoder(c.OutOrStdout()).Encode(last)
			case wait:
				fmt.Fprintf(c.OutOrStdout(), "%s: nothing of it runs any more\n", f.environment)
			default:
				fmt.Fprintf(c.OutOrStdout(), "%s: what is released there is being stopped\n", f.environment)
			}
			return nil
		},
	}
	f.add(c)
	c.Flags().StringVar(&ask.Reason, "reason", "", "`TEXT` for the record")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&wait, "wait", false, "wait until nothing of it runs any more")
	return c
}

// confirmRemoval asks whether an environment is to be removed, of somebody at a terminal.
func confirmRemoval(c *cobra.Command, v api.EnvironmentView) error {
	in, ok := c.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return withHint(fmt.Errorf("all that is released to %s would stop", v.Environment), "--yes says that it is meant")
	}
	for _, line := range rolloutLines(v, painter(c.ErrOrStderr()), 0) {
		fmt.Fprintln(c.ErrOrStderr(), line)
	}
	fmt.Fprintf(c.ErrOrStderr(), "All of it will stop. Type %s to remove it: ", safe(v.Environment))
	said, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if strings.TrimSpace(said) != v.Environment {
		return errors.New("nothing was removed")
	}
	return nil
}

// emptied waits until nothing of the environment runs any more, and gives it as it is then.
func (f *releaseFlags) emptied(ctx context.Context) (v api.EnvironmentView, err error) {
	ctx, cancel := context.WithCancel(ctx)
	views := make(chan api.EnvironmentView)
	go func() {
		defer close(views)
		err = f.follow(ctx, views)
	}()
	empty := false
	for v = range views {
		if len(v.Releases) == 0 {
			empty = true
			break
		}
	}
	cancel()
	for range views { // its end is read below
	}
	if empty {
		return v, nil
	}
	return v, err
}
