package forge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Push is what somebody changed in a repository at once.
//
// No push is lost, whenever the server dies. With the repository's lock held a push is written to the journal, the
// directory penstock/pushes of the repository, before its refs change (NUMBER.begun); after, it is written there which
// of them did (NUMBER.done). It leaves the journal when HostedOptions.Pushed has taken it; then the file NUMBER.told
// holds its number, so that none is given twice. Whoever next takes the lock finds a push that only began and compares
// it with the refs: since they change under the lock alone, a ref that is what the push wanted was changed by it.
type Push struct {
	Repository string    `json:"-"`      // OWNER/NAME
	Number     int64     `json:"number"` // from 1, of this repository; never given to two pushes
	By         Account   `json:"by"`
	At         time.Time `json:"at"`
	Changes    []Change  `json:"changes"`
	Options    []string  `json:"options,omitempty"` // git push -o
	Pull       int64     `json:"pull,omitempty"`    // the number of the pull request whose merge this is
}

// Change is what became of one ref.
type Change struct {
	Ref string `json:"ref"` // in full
	Old string `json:"old"` // a SHA; forty zeros if the ref was not there
	New string `json:"new"` // forty zeros if it was deleted
}

// Created and Deleted say whether the ref was not there before, or is no more.
func (c Change) Created() bool { return c.Old == zeroSHA }
func (c Change) Deleted() bool { return c.New == zeroSHA }

const (
	// forPrefix begins the refs that are pushed to open or update a pull request.
	forPrefix = "refs/for/"
	// pullPrefix begins the refs of pull requests, which are ours to change.
	pullPrefix = "refs/pull/"
)

// For says which branch a pull request is opened or updated for by this change: what follows refs/for/, which is a
// branch alone or BRANCH/TOPIC. The topic is cut off by who knows the branches. A change of anything else is not one.
func (c Change) For() (branch string, ok bool) { return strings.CutPrefix(c.Ref, forPrefix) }

// begin writes a push to the journal and gives it its number. The lock is held.
func (b *Bare) begin(p Push) error {
	entries, err := b.entries()
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		p.Number = entries[len(entries)-1].number
	}
	p.Number++
	return b.writeEntry(p, "begun")
}

// settle decides every push that began and of which it is not written what it changed. The lock is held.
func (b *Bare) settle(ctx context.Context) error {
	entries, err := b.entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.state != "begun" {
			continue
		}
		decided := slices.ContainsFunc(entries, func(other entry) bool {
			return other == entry{e.number, "done"} || other.state == "told" && other.number >= e.number
		})
		if err := b.settleOne(ctx, e, decided); err != nil {
			return fmt.Errorf("settle push %d of %s: %w", e.number, b.Name, err)
		}
	}
	return nil
}

// settleOne writes what a push changed, unless that is written already, and only then removes what it left below
// refs/for, so that a crash between the two loses nothing.
func (b *Bare) settleOne(ctx context.Context, e entry, decided bool) error {
	p, err := b.readEntry(e)
	if err != nil {
		return err
	}
	var names []string
	for _, c := range p.Changes {
		names = append(names, c.Ref)
	}
	now, err := b.refs(ctx, names...)
	if err != nil {
		return err
	}
	p.Changes = slices.DeleteFunc(p.Changes, func(c Change) bool { return orZero(now[c.Ref]) != c.New })
	if len(p.Changes) > 0 && !decided {
		if err := b.writeEntry(p, "done"); err != nil {
			return err
		}
	}
	var left []Change
	for _, c := range p.Changes {
		if _, ok := c.For(); ok {
			left = append(left, Change{Ref: c.Ref, Old: c.New, New: zeroSHA})
		}
	}
	if len(left) > 0 {
		if err := b.updateRefs(ctx, left...); err != nil {
			return err
		}
	}
	return os.Remove(b.entryFile(e))
}

// Recover tells of all pushes that a crash or an error left untold, in all repositories, and removes what is left of
// deleted ones. It is called before the server
// begins to serve, and again as long as Pushed fails; the errors of all repositories are joined.
func (h *Hosted) Recover(ctx context.Context) error {
	names, err := h.List()
	if err != nil {
		return err
	}
	failed := []error{os.RemoveAll(h.trash())}
	for _, name := range names {
		b, err := h.Open(name)
		if err != nil {
			continue // gone since
		}
		if err := b.recover(ctx); err != nil {
			failed = append(failed, fmt.Errorf("recover %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

func (b *Bare) recover(ctx context.Context) error {
	entries, err := b.entries()
	if err != nil || !slices.ContainsFunc(entries, func(e entry) bool { return e.state != "told" }) {
		return err
	}
	held, err := b.lock(ctx)
	if err != nil {
		return err
	}
	held.release()
	_, err = b.deliver(ctx)
	return err
}

// deliver tells of the pushes that are done, in order, and gives what the last of them was answered with.
func (b *Bare) deliver(ctx context.Context) (said []string, err error) {
	place, err := b.host.turn(ctx, "deliver "+b.dir)
	if err != nil {
		return nil, err
	}
	defer func() { <-place }()
	entries, err := b.entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.state != "done" {
			continue
		}
		p, err := b.readEntry(e)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has told of it
		}
		if err != nil {
			return nil, err
		}
		if b.host.pushed != nil {
			if said, err = b.host.pushed(ctx, p); err != nil {
				return nil, fmt.Errorf("tell of push %d of %s: %w", p.Number, b.Name, err)
			}
		}
		if err := b.told(e); err != nil {
			return nil, err
		}
	}
	return said, nil
}

// told takes a push out of the journal and keeps its number.
func (b *Bare) told(e entry) error {
	err := os.Rename(b.entryFile(e), b.entryFile(entry{e.number, "told"}))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := b.entries()
	if err != nil {
		return err
	}
	for _, old := range entries {
		if old.state == "told" && old.number < e.number {
			if err := os.Remove(b.entryFile(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return syncDir(b.journal())
}

// entry is a file of the journal.
type entry struct {
	number int64
	state  string // begun, done or told
}

func (b *Bare) entryFile(e entry) string {
	return filepath.Join(b.journal(), fmt.Sprintf("%019d.%s", e.number, e.state))
}

// entries lists the journal by number.
func (b *Bare) entries() ([]entry, error) {
	files, err := os.ReadDir(b.journal())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoRepository
	}
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, f := range files {
		digits, state, _ := strings.Cut(f.Name(), ".")
		n, err := strconv.ParseInt(digits, 10, 64)
		if err == nil && (state == "begun" || state == "done" || state == "told") {
			entries = append(entries, entry{n, state})
		}
	}
	return entries, nil
}

func (b *Bare) readEntry(e entry) (Push, error) {
	data, err := os.ReadFile(b.entryFile(e))
	if err != nil {
		return Push{}, err
	}
	var p Push
	if err := json.Unmarshal(data, &p); err != nil {
		return Push{}, fmt.Errorf("read push %d of %s: %w", e.number, b.Name, err)
	}
	p.Repository = b.Name
	return p, nil
}

// writeEntry makes an entry durable, whole or not at all.
func (b *Bare) writeEntry(p Push, state string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(b.journal(), "new")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), b.entryFile(entry{p.Number, state})); err != nil {
		return err
	}
	return syncDir(b.journal())
}
