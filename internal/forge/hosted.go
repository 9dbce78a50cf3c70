package forge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

var (
	// ErrNoRepository says that there is no repository of that name, or that the name can be none's.
	ErrNoRepository = errors.New("no such repository")
	// ErrRepositoryExists says that the name is taken.
	ErrRepositoryExists = errors.New("the repository exists already")
	// ErrName says that a repository can not be called so.
	ErrName = errors.New("not a name for a repository")
)

// Hosted is a directory of repositories of our own: bare ones, DIR/OWNER/NAME.git, with the names in lower case since
// GitHub's names have no case. Who may do what its callers decide, and what they store of a repository under its name
// is theirs: Hosted has what git has, and the pushes that it has still to tell of (see Push).
//
// Several processes on one machine may share the directory.
type Hosted struct {
	dir     string
	pushed  func(context.Context, Push) ([]string, error)
	maxPush int64

	mu    sync.Mutex
	locks map[string]chan struct{} // by what is locked; a place for one
	git   chan struct{}            // a place for each git that serves a request
}

// HostedOptions are what may be said when hosted repositories are opened.
type HostedOptions struct {
	// Pushed is told of every change of branches and tags, and of every push to refs/for/, in the order they happened
	// in a repository and at least once, also after a crash: Push.Number says which one it is. What it gives is shown
	// to who pushed, a line each. After an error it is told again, with the next push or by Recover. It may read the
	// repository and call SetPull, but not what changes branches.
	Pushed func(context.Context, Push) ([]string, error)
	// MaxPush bounds one push, bytes as they come over the wire; 0 is GitHub's 2 GiB.
	MaxPush int64
	// MaxRequests bounds how many fetches and pushes are served at once, the others wait; 0 is 64.
	MaxRequests int
}

// OpenHosted opens the directory of hosted repositories and makes it if it is not there. It needs git 2.38 or newer.
func OpenHosted(dir string, o HostedOptions) (*Hosted, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open repositories: %w", err)
	}
	h := &Hosted{dir: abs, pushed: o.Pushed, maxPush: o.MaxPush, locks: map[string]chan struct{}{}}
	if h.maxPush <= 0 {
		h.maxPush = 2 << 30
	}
	if o.MaxRequests <= 0 {
		o.MaxRequests = 64
	}
	h.git = make(chan struct{}, o.MaxRequests)
	for _, d := range []string{abs, h.hooks()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open repositories: %w", err)
		}
	}
	if err := writeHooks(h.hooks()); err != nil {
		return nil, fmt.Errorf("open repositories: %w", err)
	}
	return h, nil
}

// Directories of our own lie beside the owners; no owner's name begins with a dot.
func (h *Hosted) hooks() string { return filepath.Join(h.dir, ".hooks") }
func (h *Hosted) trash() string { return filepath.Join(h.dir, ".trash") }
func (h *Hosted) fresh() string { return filepath.Join(h.dir, ".new") }

var (
	hostedOwner = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,38}$`)
	hostedName  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)
)

// reservedOwners are names that paths of the server begin with.
var reservedOwners = []string{"api", "assets", "healthz", "login", "logout", "metrics", "readyz", "settings", "twirp"}

// CheckName says whether a repository can be called so: OWNER/NAME of the characters that GitHub takes. The error wraps
// ErrName and says what is wrong.
func CheckName(name string) error {
	owner, repo, ok := strings.Cut(name, "/")
	lower := strings.ToLower(repo)
	switch {
	case !ok:
		return fmt.Errorf("%w: %q is not OWNER/NAME", ErrName, name)
	case !hostedOwner.MatchString(owner):
		return fmt.Errorf("%w: the owner %q must be up to 39 letters, digits, '-' and '_', the first a letter or digit", ErrName, owner)
	case slices.Contains(reservedOwners, strings.ToLower(owner)):
		return fmt.Errorf("%w: the owner %q is reserved", ErrName, owner)
	case !hostedName.MatchString(repo) || repo == "." || repo == "..":
		return fmt.Errorf("%w: %q must be up to 100 letters, digits, '-', '_' and '.'", ErrName, repo)
	case strings.HasSuffix(lower, ".git"), strings.HasSuffix(lower, ".wiki"):
		return fmt.Errorf("%w: %q must not end in .git or .wiki", ErrName, repo)
	}
	return nil
}

// place is where a repository of that name lies.
func (h *Hosted) place(name string) string {
	return filepath.Join(h.dir, filepath.FromSlash(strings.ToLower(name))+".git")
}

// Create makes an empty repository whose HEAD is the branch. The error wraps ErrName or ErrRepositoryExists.
func (h *Hosted) Create(ctx context.Context, name, branch string) (*Bare, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("create repository: %w", err)
	}
	if !goodBranch(branch) {
		return nil, fmt.Errorf("create repository %s: %q is not a name for a branch", name, branch)
	}
	b, err := h.create(ctx, name, branch)
	if err != nil {
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	return b, nil
}

// create makes the repository aside and puts it in place whole, so that a crash leaves none half made.
func (h *Hosted) create(ctx context.Context, name, branch string) (*Bare, error) {
	place := h.place(name)
	if _, err := os.Stat(place); err == nil {
		return nil, ErrRepositoryExists
	}
	for _, d := range []string{h.fresh(), filepath.Dir(place)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	fresh, err := os.MkdirTemp(h.fresh(), "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(fresh)
	b := h.bare(name, fresh)
	if _, err := b.git(ctx, "init", "--quiet", "--bare", "--template=", "--initial-branch="+branch, "."); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.journal(), 0o700); err != nil {
		return nil, err
	}
	err = os.Rename(fresh, place)
	if errors.Is(err, fs.ErrExist) {
		return nil, ErrRepositoryExists
	}
	if err == nil {
		err = syncDir(filepath.Dir(place))
	}
	if err != nil {
		return nil, err
	}
	return h.bare(name, place), nil
}

// Open finds a repository, whatever the name's case. The error wraps ErrNoRepository.
func (h *Hosted) Open(name string) (*Bare, error) {
	if CheckName(name) != nil {
		return nil, fmt.Errorf("open repository %q: %w", name, ErrNoRepository)
	}
	place := h.place(name)
	if _, err := os.Stat(filepath.Join(place, "HEAD")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open repository %s: %w", name, ErrNoRepository)
	} else if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", name, err)
	}
	return h.bare(name, place), nil
}

// List names all repositories, in lower case, sorted.
func (h *Hosted) List() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(h.dir, "[a-z0-9]*", "*.git", "HEAD"))
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	names := make([]string, 0, len(found))
	for _, f := range found {
		rel, err := filepath.Rel(h.dir, filepath.Dir(f))
		if name := strings.TrimSuffix(filepath.ToSlash(rel), ".git"); err == nil && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Rename gives a repository another name. Pushes and fetches under way end as they began. The error wraps
// ErrNoRepository, ErrName or ErrRepositoryExists.
func (h *Hosted) Rename(ctx context.Context, from, to string) error {
	err := CheckName(to)
	if err == nil {
		err = h.move(ctx, from, h.place(to))
	}
	if err != nil {
		return fmt.Errorf("rename repository %s to %s: %w", from, to, err)
	}
	return nil
}

// Delete removes a repository. It is away as a whole at once, and removed from the disk after. The error wraps
// ErrNoRepository.
func (h *Hosted) Delete(ctx context.Context, name string) error {
	if err := os.MkdirAll(h.trash(), 0o700); err != nil {
		return fmt.Errorf("delete repository %s: %w", name, err)
	}
	dir, err := os.MkdirTemp(h.trash(), "")
	if err == nil {
		err = errors.Join(h.move(ctx, name, filepath.Join(dir, "repository")), os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("delete repository %s: %w", name, err)
	}
	return nil
}

func (h *Hosted) move(ctx context.Context, from, to string) error {
	b, err := h.Open(from)
	if err != nil {
		return err
	}
	held, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer held.release()
	if _, err := os.Stat(to); err == nil {
		return ErrRepositoryExists
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.Rename(b.dir, to); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(b.dir)), syncDir(filepath.Dir(to)))
}

// syncDir makes durable what was created, renamed and removed in a directory.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
