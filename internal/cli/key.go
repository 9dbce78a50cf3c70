package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/store"
)

// keyFlags say which server's keys.
type keyFlags struct {
	data, shared, database string
}

func keyCommand() *cobra.Command {
	var f keyFlags
	c := &cobra.Command{
		Use:   "key",
		Short: "Rotate the keys that a server seals secrets with",
		Long: `A server's keys are in ` + keysName + ` of its data directory (of --shared, if it has one). The newest seals secrets and signs the tokens of
jobs; all of them open. Rotate them now and then, and when somebody may have seen the file:

  penstock key rotate        from now on another key seals; a server that runs takes it up and seals all secrets anew within a minute
  penstock key list          how much each key has still sealed
  penstock key remove ID     the old key is gone, and what it signed: tokens of jobs that ran then, and links to their files

The commands work on the files of the server, where they are. The server may run meanwhile.`,
	}
	flags := c.PersistentFlags()
	flags.StringVar(&f.data, "data", "", "the server's data `DIR` (default: as for penstock serve)")
	flags.StringVar(&f.shared, "shared", "", "the `DIR` that several servers have in common, as for penstock serve")
	flags.StringVar(&f.database, "database", "", "`URL` of the server's database, if it is not in the data directory")
	list := &cobra.Command{Use: "list", Short: "List the keys, the one that seals last", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return f.list(c) }}
	rotate := &cobra.Command{Use: "rotate", Short: "Make another key, which seals from now on", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return f.rotate(c) }}
	remove := &cobra.Command{
		Use: "remove ID", Short: "Remove a key that has sealed nothing that is still there", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return f.remove(c, args[0]) },
	}
	c.AddCommand(list, rotate, remove)
	return c
}

// open reads the keys, and counts what each has sealed.
func (f *keyFlags) open(c *cobra.Command) (path string, keys *auth.Keyring, sealed map[string]int, err error) {
	dir := f.shared
	if f.data, err = dataOf(f.data); err != nil {
		return "", nil, nil, err
	}
	if dir == "" {
		dir = f.data
	}
	path = filepath.Join(dir, keysName)
	if keys, err = auth.ReadKeyring(path); err != nil {
		return "", nil, nil, withHint(err, "name the server's directory with --data or --shared")
	}
	database := f.database
	if database == "" {
		database = "sqlite:" + filepath.Join(f.data, databaseName) + "?mode=ro"
	}
	st, err := store.Open(c.Context(), database)
	if err != nil {
		return "", nil, nil, withHint(err, "name the server's database with --database if it is PostgreSQL")
	}
	defer st.Close()
	sealed, err = api.SealedBy(c.Context(), st, keys)
	return path, keys, sealed, err
}

func (f *keyFlags) list(c *cobra.Command) error {
	_, keys, sealed, err := f.open(c)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, k := range keys.Keys() {
		state := fmt.Sprintf("has sealed %d that are still there", sealed[k.ID])
		if k.ID == keys.Current() {
			state = "seals"
		} else if sealed[k.ID] == 0 {
			state = "may be removed"
		}
		fmt.Fprintf(w, "%s\tof %s\t%s\n", k.ID, k.Created.Format(time.DateOnly), state)
	}
	return w.Flush()
}

func (f *keyFlags) rotate(c *cobra.Command) error {
	path, keys, _, err := f.open(c)
	if err != nil {
		return err
	}
	keys = keys.Rotate(time.Now())
	if err := auth.WriteKeyring(path, keys); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "Key %s seals from now on.\n", keys.Current())
	return nil
}

func (f *keyFlags) remove(c *cobra.Command, id string) error {
	path, keys, sealed, err := f.open(c)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(keys.Keys(), func(k auth.KeyInfo) bool { return k.ID == id }) {
		return withHint(fmt.Errorf("there is no key %.40q", id), "penstock key list has them")
	}
	if n := sealed[id]; n > 0 && id != keys.Current() {
		return withHint(fmt.Errorf("key %s has sealed %d that are still there", id, n), "a server that runs seals them anew within a minute")
	}
	if keys, err = keys.Without(id); err != nil {
		return err
	}
	if err := auth.WriteKeyring(path, keys); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "Key %s is gone.\n", id)
	return nil
}
