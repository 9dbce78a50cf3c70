package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/distribution/reference"
	units "github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/penstock-ci/penstock/internal/image"
)

func goarch() string { return runtime.GOARCH }

// hub is how the credentials for Docker Hub are asked for and kept.
const hub = "docker.io"

// credentials are what docker login was given for a registry; nil takes the usual places.
func (c *call) credentials(registry string) *image.Credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	if login, ok := c.logins[registryName(registry)]; ok {
		return &login
	}
	return nil
}

// registryName is the one name of a registry.
func registryName(s string) string {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://"), "/")
	s, _, _ = strings.Cut(s, "/")
	if s == "" || s == "index.docker.io" || s == "registry-1.docker.io" {
		return hub
	}
	return s
}

// maxPassword bounds what login reads, bytes.
const maxPassword = 64 << 10

// login keeps credentials in memory for the job.
func (c *call) login(args []string) error {
	var user, password string
	var stdin bool
	f, err := c.flags("login", args, func(f *pflag.FlagSet) {
		f.StringVarP(&user, "username", "u", "", "Username")
		f.StringVarP(&password, "password", "p", "", "Password")
		f.BoolVar(&stdin, "password-stdin", false, "Take the password from stdin")
	})
	if err != nil {
		return err
	}
	if f.NArg() > 1 {
		return &usage{"login", errors.New("\"docker login\" requires at most 1 argument")}
	}
	if stdin {
		text, err := io.ReadAll(io.LimitReader(c.stdin, maxPassword))
		if err != nil {
			return err
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	if user == "" {
		return errors.New("Must provide --username with --password-stdin")
	}
	if password == "" {
		return errors.New("Cannot perform an interactive login from a non TTY device")
	}
	registry := registryName(f.Arg(0))
	c.mu.Lock()
	if c.logins == nil {
		c.logins = map[string]image.Credentials{}
	}
	c.logins[registry] = image.Credentials{Username: user, Password: password}
	c.mu.Unlock()
	return c.say("Login Succeeded\n")(nil)
}

func (c *call) logout(args []string) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	c.mu.Lock()
	delete(c.logins, registryName(name))
	c.mu.Unlock()
	return c.say("Removing login credentials for " + registryName(name) + "\n")(nil)
}

func (c *call) push(args []string) error {
	var all, quiet bool
	f, err := c.flags("push", args, func(f *pflag.FlagSet) {
		f.BoolVarP(&all, "all-tags", "a", false, "Push all tags of an image to the repository")
		f.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
		f.String("platform", "", "(no effect here)")
		f.Bool("disable-content-trust", true, "(no effect here)")
	})
	if err != nil {
		return err
	}
	if f.NArg() != 1 {
		return &usage{"push", errors.New("\"docker push\" requires exactly 1 argument")}
	}
	if !all {
		return c.pushOne(f.Arg(0))
	}
	images, err := c.Images.List()
	if err != nil {
		return err
	}
	full, err := image.FullName(f.Arg(0))
	if err != nil {
		return err
	}
	repository := full[:strings.LastIndexByte(full, ':')]
	for _, img := range images {
		if strings.HasPrefix(img.Name, repository+":") {
			if err := c.pushOne(img.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// pushOne pushes an image to where its name says, or keeps it here.
func (c *call) pushOne(name string) error {
	img, err := c.Images.Find(name)
	if err != nil {
		return fmt.Errorf("An image does not exist locally with the tag: %s", name)
	}
	full, err := image.FullName(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "The push refers to repository [%s]\n", strings.TrimSuffix(full, full[strings.LastIndexByte(full, ':'):]))
	registry := domain(full)
	if !c.Send && !loopback(registry) {
		c.mu.Lock()
		if !slices.Contains(c.kept, full) {
			c.kept = append(c.kept, full)
		}
		c.mu.Unlock()
		fmt.Fprintf(c.stdout, "%s: digest: %s size: %d\n", tagOf(full), img.Digest, img.Size)
		fmt.Fprintf(c.stderr, "kept here, and not sent to %s: penstock image push sends it, `images: {push: send}` in penstock.yaml sends all\n", registry)
		return nil
	}
	digest, err := c.Images.Push(c.ctx, name, full, image.PushOptions{Credentials: c.credentials(registry)})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s: digest: %s size: %d\n", tagOf(full), digest, img.Size)
	return nil
}

func tagOf(full string) string { return full[strings.LastIndexByte(full, ':')+1:] }

func domain(full string) string {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

func loopback(registry string) bool {
	host, _, _ := strings.Cut(registry, ":")
	return host == "localhost" || strings.HasPrefix(host, "127.") || strings.HasPrefix(registry, "[::1]")
}

func (c *call) pull(args []string) error {
	var platform string
	f, err := c.flags("pull", args, func(f *pflag.FlagSet) {
		f.StringVar(&platform, "platform", "", "Set platform if server is multi-platform capable")
		f.BoolP("quiet", "q", false, "Suppress verbose output")
		f.BoolP("all-tags", "a", false, "Download all tagged images in the repository")
		f.Bool("disable-content-trust", true, "(no effect here)")
	})
	if err != nil {
		return err
	}
	if f.NArg() != 1 {
		return &usage{"pull", errors.New("\"docker pull\" requires exactly 1 argument")}
	}
	full, err := image.FullName(f.Arg(0))
	if err != nil {
		return err
	}
	img, err := c.Images.Pull(c.ctx, full, image.PullOptions{Platform: platform, Credentials: c.credentials(domain(full))})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "Digest: %s\nStatus: Image is up to date for %s\n%s\n", img.Digest, f.Arg(0), full)
	return nil
}

func (c *call) tag(args []string) error {
	if len(args) != 2 {
		return &usage{"tag", errors.New("\"docker tag\" requires exactly 2 arguments")}
	}
	if err := c.Images.Tag(args[0], args[1]); err != nil {
		return fmt.Errorf("response from daemon: No such image: %s: %w", args[0], err)
	}
	return nil
}

// listed is an image as docker images prints it.
type listed struct{ Repository, Tag, ID, Digest, CreatedSince, CreatedAt, Size string }

func list(img image.Image) listed {
	repository, tag := "<none>", "<none>"
	if i := strings.LastIndexByte(img.Name, ':'); i > strings.LastIndexByte(img.Name, '/') {
		repository, tag = familiar(img.Name[:i]), img.Name[i+1:]
	}
	return listed{repository, tag, short(img.ID), img.Digest, units.HumanDuration(time.Since(img.Created)) + " ago", img.Created.Format(time.RFC3339), units.HumanSize(float64(img.Size))}
}

// familiar is a name as users write it: docker.io/library/x is x.
func familiar(name string) string {
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		return reference.FamiliarName(named)
	}
	return name
}

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

func (c *call) images(args []string) error {
	var format string
	var quiet, long bool
	var filters []string
	f, err := c.flags("images", args, func(f *pflag.FlagSet) {
		f.StringVar(&format, "format", "", "Format output using a Go template, or json")
		f.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
		f.BoolVar(&long, "no-trunc", false, "Don't truncate output")
		f.BoolP("all", "a", false, "Show all images")
		f.Bool("digests", false, "Show digests")
		f.StringArrayVarP(&filters, "filter", "f", nil, "Filter output: reference=NAME")
	})
	if err != nil {
		return err
	}
	images, err := c.Images.List()
	if err != nil {
		return err
	}
	want := ""
	for _, filter := range filters {
		if v, ok := strings.CutPrefix(filter, "reference="); ok {
			want = v
		}
	}
	if f.NArg() > 0 {
		want = f.Arg(0)
	}
	var rows []listed
	for _, img := range images {
		row := list(img)
		if want != "" && want != row.Repository && want != row.Repository+":"+row.Tag {
			continue
		}
		if long {
			row.ID = img.ID
		}
		rows = append(rows, row)
	}
	return c.table(rows, format, quiet, "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE", "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}")
}

// table prints rows as Docker does: a table, IDs alone, or by a template.
func (c *call) table(rows any, format string, quiet bool, head, row string) error {
	if quiet {
		format = "{{.ID}}"
	}
	out := tabwriter.NewWriter(c.stdout, 0, 0, 3, ' ', 0)
	if format == "" || strings.HasPrefix(format, "table ") {
		if rest, ok := strings.CutPrefix(format, "table "); ok {
			row, head = rest, strings.NewReplacer("{{.", "", "}}", "").Replace(strings.ToUpper(rest))
		}
		fmt.Fprintln(out, head)
		format = row
	}
	t, err := parseFormat(format)
	if err != nil {
		return err
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	var each []map[string]any
	if err := json.Unmarshal(text, &each); err != nil {
		return err
	}
	for _, r := range each {
		if err := t.Execute(out, r); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}

// parseFormat reads a --format: a Go template with Docker's functions, or json.
func parseFormat(format string) (*template.Template, error) {
	if format == "json" {
		format = "{{json .}}"
	}
	t, err := template.New("").Funcs(template.FuncMap{
		"json":  func(v any) (string, error) { text, err := json.Marshal(v); return string(text), err },
		"upper": strings.ToUpper, "lower": strings.ToLower, "join": func(list []any, sep string) string {
			var words []string
			for _, v := range list {
				words = append(words, fmt.Sprint(v))
			}
			return strings.Join(words, sep)
		}, "split": strings.Split, "title": strings.ToTitle, "println": fmt.Sprintln,
	}).Parse(strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format))
	if err != nil {
		return nil, fmt.Errorf("failed to parse template: %w", err)
	}
	return t, nil
}

func (c *call) rmi(args []string) error {
	f, err := c.flags("rmi", args, func(f *pflag.FlagSet) {
		f.BoolP("force", "f", false, "Force removal of the image")
		f.Bool("no-prune", false, "(no effect here)")
	})
	if err != nil {
		return err
	}
	for _, name := range f.Args() {
		if err := c.Images.Remove(name); err != nil {
			return fmt.Errorf("No such image: %s", name)
		}
		fmt.Fprintf(c.stdout, "Untagged: %s\n", name)
	}
	return nil
}

// inspect prints images and containers.
func (c *call) inspect(args []string) error {
	var format string
	f, err := c.flags("inspect", args, func(f *pflag.FlagSet) {
		f.StringVarP(&format, "format", "f", "", "Format output using a Go template, or json")
		f.String("type", "", "(no effect here)")
		f.BoolP("size", "s", false, "(no effect here)")
		f.Bool("raw", false, "(no effect here)")
	})
	if err != nil {
		return err
	}
	var found []any
	var missing error
	for _, name := range f.Args() {
		if r := c.find(name); r != nil {
			found = append(found, c.describe(r))
			continue
		}
		img, err := c.Images.Find(name)
		if err != nil {
			fmt.Fprintf(c.stderr, "Error: No such object: %s\n", name)
			missing = exitCode(1)
			continue
		}
		found = append(found, describeImage(img))
	}
	if format == "" {
		text, err := json.MarshalIndent(append([]any{}, found...), "", "    ")
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, string(text))
		return missing
	}
	t, err := parseFormat(format)
	if err != nil {
		return err
	}
	for _, v := range found {
		if err := t.Execute(c.stdout, v); err != nil {
			return err
		}
		fmt.Fprintln(c.stdout)
	}
	return missing
}

// describeImage is an image in the shape of Docker's API.
func describeImage(img image.Image) map[string]any {
	var config map[string]any
	if text, err := json.Marshal(img.Config); err == nil {
		_ = json.Unmarshal(text, &config) // it was made by us
	}
	tags, digests := []any{}, []any{}
	if img.Name != "" {
		row := list(img)
		tags = append(tags, row.Repository+":"+row.Tag)
		digests = append(digests, row.Repository+"@"+img.Digest)
	}
	return map[string]any{
		"Id": img.ID, "RepoTags": tags, "RepoDigests": digests, "Created": img.Created.Format(time.RFC3339Nano), "Os": img.OS, "Architecture": img.Arch,
		"Size": img.Size, "Config": config,
	}
}

func (c *call) history(args []string) error {
	if len(args) == 0 {
		return &usage{"history", errors.New("\"docker history\" requires exactly 1 argument")}
	}
	img, err := c.Images.Find(args[len(args)-1])
	if err != nil {
		return err
	}
	return c.table([]listed{list(img)}, "", false, "IMAGE\tCREATED\tSIZE", "{{.ID}}\t{{.CreatedSince}}\t{{.Size}}")
}

func (c *call) save(args []string) error {
	var to string
	f, err := c.flags("save", args, func(f *pflag.FlagSet) { f.StringVarP(&to, "output", "o", "", "Write to a file, instead of STDOUT") })
	if err != nil {
		return err
	}
	if f.NArg() == 0 {
		return &usage{"save", errors.New("\"docker save\" requires at least 1 argument")}
	}
	if to == "" {
		return c.Images.Save(c.ctx, c.stdout, f.Args()...)
	}
	return c.saveTo(to, f.Args()...)
}

// load reads an archive of images.
func (c *call) load(args []string) error {
	var from string
	_, err := c.flags("load", args, func(f *pflag.FlagSet) {
		f.StringVarP(&from, "input", "i", "", "Read from tar archive file, instead of STDIN")
		f.BoolP("quiet", "q", false, "Suppress the load output")
	})
	if err != nil {
		return err
	}
	in := c.stdin
	if from != "" {
		file, err := c.open(from)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	images, err := c.Images.Load(c.ctx, in)
	if err != nil {
		return err
	}
	for _, img := range images {
		row := list(img)
		fmt.Fprintf(c.stdout, "Loaded image: %s:%s\n", row.Repository, row.Tag)
	}
	return nil
}

func (c *call) version(args []string) error {
	var format string
	if _, err := c.flags("version", args, func(f *pflag.FlagSet) {
		f.StringVarP(&format, "format", "f", "", "Format output using a Go template, or json")
	}); err != nil {
		return err
	}
	if format == "" {
		return c.say("Client: Penstock\n Version: 0.0.0-penstock\n API version: none\n OS/Arch: linux/" + goarch() + "\n")(nil)
	}
	side := map[string]any{"Version": "0.0.0-penstock", "ApiVersion": "1.41", "APIVersion": "1.41", "Os": "linux", "Arch": goarch()}
	t, err := parseFormat(format)
	if err != nil {
		return err
	}
	if err := t.Execute(c.stdout, map[string]any{"Client": side, "Server": side}); err != nil {
		return err
	}
	return c.say("\n")(nil)
}

func (c *call) info(args []string) error {
	var format string
	if _, err := c.flags("info", args, func(f *pflag.FlagSet) {
		f.StringVarP(&format, "format", "f", "", "Format output using a Go template, or json")
	}); err != nil {
		return err
	}
	if format == "" {
		return c.say("Server: Penstock (no daemon)\n Storage Driver: overlay\n OSType: linux\n")(nil)
	}
	t, err := parseFormat(format)
	if err != nil {
		return err
	}
	if err := t.Execute(c.stdout, map[string]any{"Driver": "overlay", "OSType": "linux", "ServerVersion": "0.0.0-penstock", "SecurityOptions": []any{}}); err != nil {
		return err
	}
	return c.say("\n")(nil)
}
