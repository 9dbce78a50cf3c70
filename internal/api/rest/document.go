package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/penstock-ci/penstock/internal/store"
)

// The kinds of documents. An issue is named by its number, and so is a pull request, which is an issue with a member
// "pull"; a label by its name, a ref of a deployment by nothing.
const (
	kindIssue      = "issue"
	kindComment    = "comment" // of an issue; its parent is the issue's number
	kindLabel      = "label"
	kindStatus     = "status"   // its parent is a commit
	kindCheck      = "check"    // its parent is a commit
	kindReview     = "review"   // its parent is the pull request's number
	kindNote       = "note"     // a review comment: on a line of a pull request
	kindCommitNote = "remark"   // a comment on a commit
	kindReaction   = "reaction" // its parent is what it is to
	kindRelease    = "release"
	kindAsset      = "asset"             // its parent is the release's ID
	kindDeployment = "deployment"        // its parent is the environment
	kindState      = "deployment status" // its parent is the deployment's ID
)

// document is a stored document with its body read.
type document struct {
	store.Document
	body object
}

func read(d *store.Document) (*document, error) {
	out := &document{Document: *d}
	if err := json.Unmarshal(d.Body, &out.body); err != nil {
		return nil, fmt.Errorf("read %s %d: %w", d.Kind, d.ID, err)
	}
	return out, nil
}

// add stores a new document.
func (c *call) add(kind, parent, name string, body object) (*document, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	d := &store.Document{Repository: c.repo.Name, Kind: kind, Parent: parent, Name: name, Body: text}
	if err := c.Store.AddDocument(c.ctx, d); err != nil {
		return nil, err
	}
	return read(d)
}

// maxTries bounds how often a change is made again that another one came before.
const maxTries = 20

// change loads a document, changes it and saves it.
func (c *call) change(load func() (*document, error), change func(*document) error) (*document, error) {
	for try := 1; ; try++ {
		d, err := load()
		if err != nil {
			return nil, err
		}
		if err := change(d); err != nil {
			return nil, err
		}
		if d.Document.Body, err = json.Marshal(d.body); err != nil {
			return nil, err
		}
		err = c.Store.SaveDocument(c.ctx, &d.Document)
		if errors.Is(err, store.ErrConflict) && try < maxTries {
			continue
		}
		if err != nil {
			return nil, err
		}
		return read(&d.Document) // of JSON's own types again
	}
}

// byID gives the document that a part of the path names.
func (c *call) byID(kind, part string) (*document, error) {
	id, err := c.number(part)
	if err != nil {
		return nil, err
	}
	d, err := c.Store.Document(c.ctx, c.repo.Name, kind, id)
	if err != nil {
		return nil, err
	}
	return read(d)
}

func (c *call) named(kind, parent, name string) (*document, error) {
	d, err := c.Store.DocumentNamed(c.ctx, c.repo.Name, kind, parent, name)
	if err != nil {
		return nil, err
	}
	return read(d)
}

// remove deletes a document that a part of the path names.
func (c *call) remove(kind, part string) (*document, error) {
	d, err := c.byID(kind, part)
	if err != nil {
		return nil, err
	}
	return d, c.Store.DeleteDocument(c.ctx, d.ID)
}

// maxList bounds what is read where a list is looked through as a whole.
const maxList = 10_000

// all lists the documents of a kind that belong to parent, or to anything where it is nil.
func (c *call) all(kind string, parent *string, newest bool) ([]*document, error) {
	return c.list(store.DocumentFilter{Repository: c.repo.Name, Kind: kind, Parent: parent, Newest: newest, Limit: maxList})
}

func (c *call) list(f store.DocumentFilter) ([]*document, error) {
	found, err := c.Store.Documents(c.ctx, f)
	if err != nil {
		return nil, err
	}
	out := make([]*document, 0, len(found))
	for _, d := range found {
		one, err := read(d)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// listed shows the page that is asked for of the documents of a kind.
func (c *call) listed(kind string, parent *string, newest bool, show func(*document) object) ([]object, error) {
	offset, limit := c.page()
	found, err := c.list(store.DocumentFilter{Repository: c.repo.Name, Kind: kind, Parent: parent, Newest: newest, Offset: offset, Limit: limit + 1})
	if err != nil {
		return nil, err
	}
	c.link(len(found) > limit)
	return shown(found[:min(limit, len(found))], show), nil
}

func shown(list []*document, show func(*document) object) []object {
	out := make([]object, 0, len(list))
	for _, d := range list {
		out = append(out, show(d))
	}
	return out
}

// with gives the body with what only a reader knows: its ID, and addresses as the client sees them.
func (d *document) with(members object) object {
	out := object{"id": d.ID, "node_id": d.Kind + "_" + strconv.FormatInt(d.ID, 10)}
	for k, v := range d.body {
		out[k] = v
	}
	for k, v := range members {
		out[k] = v
	}
	return out
}

func (d *document) text(member string) string {
	s, _ := d.body[member].(string)
	return s
}

func (d *document) yes(member string) bool {
	b, _ := d.body[member].(bool)
	return b
}
