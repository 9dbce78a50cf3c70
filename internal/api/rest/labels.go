package rest

import (
	"errors"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/store"
)

var labelRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/labels", scopes: readIssues, handle: (*call).listLabels},
	{pattern: "POST /repos/{owner}/{repo}/labels", scopes: writeIssues, handle: (*call).addLabel},
	{pattern: "GET /repos/{owner}/{repo}/labels/{name}", scopes: readIssues, handle: (*call).getLabel},
	{pattern: "PATCH /repos/{owner}/{repo}/labels/{name}", scopes: writeIssues, handle: (*call).updateLabel},
	{pattern: "DELETE /repos/{owner}/{repo}/labels/{name}", scopes: writeIssues, handle: (*call).deleteLabel},
	{pattern: "GET /repos/{owner}/{repo}/issues/{number:[0-9]+}/labels", scopes: readIssues, handle: (*call).labelsOfIssue},
	{pattern: "POST /repos/{owner}/{repo}/issues/{number:[0-9]+}/labels", scopes: writeIssues, handle: (*call).addLabels},
	{pattern: "PUT /repos/{owner}/{repo}/issues/{number:[0-9]+}/labels", scopes: writeIssues, handle: (*call).setLabels},
	{pattern: "DELETE /repos/{owner}/{repo}/issues/{number:[0-9]+}/labels", scopes: writeIssues, handle: (*call).clearLabels},
	{pattern: "DELETE /repos/{owner}/{repo}/issues/{number:[0-9]+}/labels/{name}", scopes: writeIssues, handle: (*call).removeLabel},
}

func sortedKeys(o object) []string { return slices.Sorted(maps.Keys(o)) }

// labelOf is a label by its name: what is known of it, or what GitHub makes of a name that is new.
func (c *call) labelOf(name string) object {
	d, err := c.named(kindLabel, "", name)
	if err == nil {
		return c.labelObject(d)
	}
	id := fnv.New32a()
	_, _ = id.Write([]byte(name)) // never fails
	return object{
		"id": int64(id.Sum32()), "node_id": "label_" + name, "url": c.url("/labels/%s", name), "name": name, "color": "ededed", "default": false, "description": nil,
	}
}

func (c *call) labelObject(d *document) object {
	return d.with(object{"url": c.url("/labels/%s", d.Name), "name": d.Name, "default": false})
}

func (c *call) listLabels() (any, error) { return c.listed(kindLabel, nil, false, c.labelObject) }

func (c *call) getLabel() (any, error) {
	d, err := c.named(kindLabel, "", c.part("name"))
	if err != nil {
		return nil, err
	}
	return c.labelObject(d), nil
}

func (c *call) addLabel() (any, error) {
	name, err := c.required("Label", "name")
	if err != nil {
		return nil, err
	}
	body := object{"color": "ededed", "description": nil}
	if err := c.copyTexts(body, "color", "description"); err != nil {
		return nil, err
	}
	d, err := c.add(kindLabel, "", name, body)
	if errors.Is(err, store.ErrExists) {
		return nil, invalid("Label", "name", "already_exists", "")
	}
	if err != nil {
		return nil, err
	}
	c.tell("new label %s", name)
	return created(c.labelObject(d)), nil
}

func (c *call) updateLabel() (any, error) {
	d, err := c.change(func() (*document, error) { return c.named(kindLabel, "", c.part("name")) }, func(d *document) error {
		name, err := c.text("new_name", d.Name)
		if err != nil {
			return err
		}
		d.Name = name
		return c.copyTexts(d.body, "color", "description")
	})
	if errors.Is(err, store.ErrExists) {
		return nil, invalid("Label", "name", "already_exists", "")
	}
	if err != nil {
		return nil, err
	}
	c.tell("label %s is changed", d.Name)
	return c.labelObject(d), nil
}

func (c *call) deleteLabel() (any, error) {
	d, err := c.named(kindLabel, "", c.part("name"))
	if err != nil {
		return nil, err
	}
	c.tell("label %s is deleted", d.Name)
	return noContent, c.Store.DeleteDocument(c.ctx, d.ID)
}

func (c *call) labelsOfIssue() (any, error) {
	d, err := c.issue()
	if err != nil {
		return nil, err
	}
	return paged(c, c.issueObject(d)["labels"].([]object)), nil
}

func (c *call) addLabels() (any, error) {
	return c.labelIssue(func(have []string) ([]string, error) {
		for _, name := range c.namedLabels() {
			if !slices.ContainsFunc(have, func(s string) bool { return strings.EqualFold(s, name) }) {
				have = append(have, name)
			}
		}
		return have, nil
	})
}

// namedLabels are those of the request's body, where they may come bare.
func (c *call) namedLabels() []string {
	if bare, ok := c.in[""]; ok {
		return names(bare)
	}
	return names(c.in["labels"])
}

func (c *call) setLabels() (any, error) {
	return c.labelIssue(func([]string) ([]string, error) { return c.namedLabels(), nil })
}

func (c *call) clearLabels() (any, error) {
	if _, err := c.labelIssue(func([]string) ([]string, error) { return []string{}, nil }); err != nil {
		return nil, err
	}
	return noContent, nil
}

func (c *call) removeLabel() (any, error) {
	return c.labelIssue(func(have []string) ([]string, error) {
		name := c.part("name")
		i := slices.IndexFunc(have, func(s string) bool { return strings.EqualFold(s, name) })
		if i < 0 {
			return nil, &Error{Status: 404, Message: "Label does not exist"}
		}
		return slices.Delete(have, i, i+1), nil
	})
}

func (c *call) labelIssue(change func(have []string) ([]string, error)) (any, error) {
	var was issueWas
	d, err := c.change(c.knownIssue, func(d *document) error {
		was = lookAt(d)
		labels, err := change(d.list("labels"))
		if err != nil {
			return err
		}
		d.body["labels"], d.body["updated_at"] = labels, c.now()
		return c.fewNames(d)
	})
	if err != nil {
		return nil, err
	}
	c.tell("labels of #%s: %s", d.Name, strings.Join(d.list("labels"), ", "))
	return c.issueObject(d)["labels"], c.issueChanged(was, d)
}

// knownIssue is the issue of the path; where issues are not known it becomes one.
func (c *call) knownIssue() (*document, error) {
	d, err := c.issue()
	if errors.Is(err, store.ErrNotFound) && c.repo.AnyIssue {
		body := object{
			"title": "", "body": nil, "state": "open", "state_reason": nil, "user": c.by.Login, "labels": []any{}, "assignees": []any{}, "locked": false,
			"created_at": c.now(), "updated_at": c.now(), "closed_at": nil, "closed_by": "",
		}
		return c.add(kindIssue, "", c.part("number"), body)
	}
	return d, err
}
