package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// serverFlags say which server a command speaks to.
type serverFlags struct {
	url   string
	token string
}

func (f *serverFlags) add(c *cobra.Command) {
	c.PersistentFlags().StringVar(&f.url, "url", "", "`URL` of the server (default $PENSTOCK_URL)")
	c.PersistentFlags().StringVar(&f.token, "token", "", "`TOKEN` of who asks (default $PENSTOCK_TOKEN, which others can not see in the list of processes)")
}

// maxAnswer bounds what a server may answer, bytes.
const maxAnswer = 64 << 20

// base is the server's URL without a slash at its end: in a job, if nobody says otherwise, the job's own server.
func (f *serverFlags) base() string {
	base := cmp.Or(f.url, os.Getenv("PENSTOCK_URL"))
	if base == "" && inJob() {
		base = os.Getenv("GITHUB_SERVER_URL")
	}
	return strings.TrimSuffix(base, "/")
}

func inJob() bool { return os.Getenv("GITHUB_ACTIONS") == "true" }

// who is the token of who asks: in a job, if nobody says otherwise, the one that gh would take.
func (f *serverFlags) who() string {
	token := cmp.Or(f.token, os.Getenv("PENSTOCK_TOKEN"))
	if token == "" && inJob() {
		token = cmp.Or(os.Getenv("GH_TOKEN"), os.Getenv("GITHUB_TOKEN"))
	}
	return token
}

// known says what to do if nobody has told which server it is, or who asks.
func (f *serverFlags) known() error {
	if f.base() != "" && f.who() != "" {
		return nil
	}
	hint := "set PENSTOCK_URL and PENSTOCK_TOKEN, or give --url and --token"
	if inJob() {
		hint = "a job has a token for it if it names an environment, or says permissions: deployments: write"
	}
	return withHint(errors.New("which server, and who asks?"), hint)
}

// call makes a request of the server's own API and reads the answer into out, if that is not nil.
func (f *serverFlags) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return f.send(ctx, method, path, body, out)
}

// send is call with a body of bytes, for as long as it takes.
func (f *serverFlags) send(ctx context.Context, method, path string, body io.Reader, out any) error {
	res, err := f.ask(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// ask makes a request and gives the answer, if it is a good one; the caller closes its body.
func (f *serverFlags) ask(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	if err := f.known(); err != nil {
		return nil, err
	}
	base, token := f.base(), f.who()
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, withHint(fmt.Errorf("the server's URL: %w", err), "it is like https://ci.example.com")
	}
	req.Header.Set("Authorization", "token "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the server can not be reached: %w", err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	var said struct{ Message string }
	if json.Unmarshal(text, &said) != nil || said.Message == "" {
		said.Message = res.Status
	}
	err = fmt.Errorf("the server refuses: %s", said.Message)
	if res.StatusCode == http.StatusNotFound && said.Message == http.StatusText(http.StatusNotFound) {
		err = withHint(err, "it is not there yet - git push makes a repository - or the token is none of this server's, or may not see it")
	}
	return nil, err
}

func userCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use: "user", Short: "Add, list and remove the users of a server",
		Example: `  penstock user add alice
  penstock token create alice laptop     gives a token for alice, who signs in with it
  gh api -X PUT repos/acme/shop/collaborators/alice -f permission=push`,
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	f.add(c)
	var admin bool
	add := &cobra.Command{
		Use: "add LOGIN", Short: "Add a user, who may do nothing yet", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.call(c.Context(), "POST", "/api/penstock/users", map[string]any{"login": args[0], "admin": admin}, nil)
		},
	}
	add.Flags().BoolVar(&admin, "admin", false, "the user may do everything on the server")
	remove := &cobra.Command{
		Use: "remove LOGIN", Short: "Remove a user with all their tokens", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.call(c.Context(), "DELETE", "/api/penstock/users/"+url.PathEscape(args[0]), nil, nil)
		},
	}
	list := &cobra.Command{
		Use: "list", Short: "List the users", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var users []struct {
				Login   string
				Admin   bool
				Created time.Time
			}
			if err := f.call(c.Context(), "GET", "/api/penstock/users", nil, &users); err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, u := range users {
				role := "user"
				if u.Admin {
					role = "admin"
				}
				fmt.Fprintf(w, "%s\t%s\tsince %s\n", u.Login, role, u.Created.Format(time.DateOnly))
			}
			return w.Flush()
		},
	}
	c.AddCommand(add, list, remove)
	return c
}

func tokenCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use: "token", Short: "Make, list and revoke tokens of a server's users",
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	f.add(c)
	var scopes []string
	var expires time.Duration
	create := &cobra.Command{
		Use: "create LOGIN NAME", Short: "Make a token for a user and print it: it is not shown again", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			in := map[string]any{"name": args[1], "scopes": scopes}
			if c.Flags().Changed("expires") {
				in["expires"] = time.Now().Add(expires).UTC()
			}
			var made struct{ Token string }
			if err := f.call(c.Context(), "POST", "/api/penstock/users/"+url.PathEscape(args[0])+"/tokens", in, &made); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), made.Token)
			return nil
		},
	}
	create.Flags().StringSliceVar(&scopes, "scopes", []string{"repo", "workflow", "read:org", "user"}, "what it is good for, at most: GitHub's `SCOPES`")
	create.Flags().DurationVar(&expires, "expires", 0, "how long it is good, e.g. 720h (default: until it is revoked)")
	list := &cobra.Command{
		Use: "list LOGIN", Short: "List a user's tokens", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var tokens []struct {
				ID            int64
				Name          string
				Scopes        []string
				Expires, Used time.Time
			}
			if err := f.call(c.Context(), "GET", "/api/penstock/users/"+url.PathEscape(args[0])+"/tokens", nil, &tokens); err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, t := range tokens {
				ends, used := "for ever", "never used"
				if !t.Expires.IsZero() {
					ends = "until " + t.Expires.Format(time.DateOnly)
				}
				if !t.Used.IsZero() {
					used = "used " + t.Used.Format(time.DateOnly)
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", t.ID, t.Name, strings.Join(t.Scopes, ","), ends, used)
			}
			return w.Flush()
		},
	}
	revoke := &cobra.Command{
		Use: "revoke LOGIN ID", Short: "Revoke a token", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return f.call(c.Context(), "DELETE", "/api/penstock/users/"+url.PathEscape(args[0])+"/tokens/"+url.PathEscape(args[1]), nil, nil)
		},
	}
	c.AddCommand(create, list, revoke)
	return c
}

func auditCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use: "audit", Short: "Verify and export a server's record of who did what",
		Long: `A server keeps a record of who did what. Each record has a hash over itself and the one before, so none can be changed or
taken away without changing all that follow. Keep the hash that verify prints elsewhere: it proves the log up to there.`,
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	f.add(c)
	verify := &cobra.Command{
		Use: "verify", Short: "Check that nothing was changed, and print the last hash", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var said struct {
				OK      bool
				Records int64
				Hash    string
				Reason  string
			}
			if err := f.call(c.Context(), "GET", "/api/penstock/audit/verify", nil, &said); err != nil {
				return err
			}
			if !said.OK {
				return &exitError{exitFailed, fmt.Errorf("%s", said.Reason)}
			}
			fmt.Fprintf(c.OutOrStdout(), "%d records, all as they were written. The last hash is\n%s\n", said.Records, said.Hash)
			return nil
		},
	}
	export := &cobra.Command{
		Use: "export", Short: "Print all records, one JSON object a line with its hash", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for after := int64(0); ; {
				var page []json.RawMessage
				if err := f.call(c.Context(), "GET", fmt.Sprintf("/api/penstock/audit?after=%d", after), nil, &page); err != nil || len(page) == 0 {
					return err
				}
				for _, line := range page {
					fmt.Fprintf(c.OutOrStdout(), "%s\n", line)
				}
				var last struct{ Record struct{ Seq int64 } }
				if err := json.Unmarshal(page[len(page)-1], &last); err != nil || last.Record.Seq <= after {
					return fmt.Errorf("the server's answer is no audit log")
				}
				after = last.Record.Seq
			}
		},
	}
	c.AddCommand(verify, export)
	return c
}
